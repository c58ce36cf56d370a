"""A model at s3://bucket/prefix → a folder in the user's cache, the same as the bucket now.

A file is known by its name, ETag and size: only changed ones are fetched. A set of files becomes
a folder at once, named after the whole set, so a reader never sees half of an update; unchanged
files are shared between such folders by hard links.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from pipeline.errors import InvalidCheckpoint
from pipeline.models.cache import cache_folder, publish_file, publish_folder

logger = logging.getLogger(__name__)

# Both layouts, their vocabularies and their voice presets; a prefix may hold more than a model.
_WANTED = re.compile(
    r"[^/]+\.(json|safetensors|th|npz)|vocab\.txt|pytorch_model[^/]*\.bin"
    r"|(text|coarse|fine)(_2)?\.pt|(speaker_embeddings|assets/prompts)/([^/]+/)*[^/]+\.np[yz]"
)
_CHUNK_BYTES = 4 << 20
_NUM_STREAMS = 8


@dataclass(frozen=True, slots=True, order=True)
class _Remote:
    """A file in the bucket. name: relative to the prefix."""

    name: str
    etag: str
    size: int

    @property
    def blob(self) -> str:
        return hashlib.sha256(f"{self.name}\0{self.etag}\0{self.size}".encode()).hexdigest()[:32]


def mirror_bucket(
    url: str, *, offline: bool = False, cache_dir: Path | None = None, progress: bool = True
) -> Path:
    """Return a local folder with the model's files at `url`, fetching those that changed.

    Credentials, region and endpoint (AWS_ENDPOINT_URL) are boto3's. When the bucket does not
    answer, the last copy serves, with a warning in the log; `offline` does not even ask.

    Raises:
        InvalidCheckpoint: nothing there, no access, or neither the bucket nor a copy of it.
    """
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
    if not bucket:
        raise InvalidCheckpoint(f"{url} names no bucket: write s3://bucket/prefix")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    place = hashlib.sha256(f"{endpoint}\0{bucket}\0{prefix}".encode()).hexdigest()[:16]
    root = (cache_dir or cache_folder()) / "models" / "s3" / f"{bucket}-{place}"
    if offline:
        return _last_copy(root, url)
    try:
        client = _client()
        files = _list(client, bucket, prefix)
        if not files:
            raise InvalidCheckpoint(
                f"{url} holds no model: expected config.json and model.safetensors, or Suno's .pt "
                "files, directly under the prefix"
            )
        folder = _fetch(client, bucket, prefix, files, root, progress)
    except NoCredentialsError as error:
        raise InvalidCheckpoint(
            f"there are no credentials for {url}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or AWS_PROFILE"
        ) from error
    except ClientError as error:
        raise InvalidCheckpoint(_refusal(url, error)) from error
    except (BotoCoreError, OSError) as error:
        if (root / "latest").exists() and isinstance(error, BotoCoreError):
            logger.warning("%s does not answer (%s): using the last copy", url, error)
            return _last_copy(root, url)
        raise InvalidCheckpoint(
            f"{url} could not be fetched ({error}): check the endpoint (AWS_ENDPOINT_URL), the "
            "network and the disk, then try again; files that have arrived are kept"
        ) from error
    publish_file(root / "latest", folder.name.encode())
    return folder


def _client() -> Any:
    # A session of its own: the default one is shared, and neither thread-safe nor up to date.
    session = boto3.session.Session()
    return session.client("s3", config=Config(max_pool_connections=_NUM_STREAMS))


def _last_copy(root: Path, url: str) -> Path:
    try:
        folder = root / (root / "latest").read_text().strip()
    except OSError:
        folder = root / "none"
    if not folder.is_dir():
        raise InvalidCheckpoint(
            f"there is no copy of {url} on this machine yet: load it once with the network on"
        )
    return folder


def _refusal(url: str, error: ClientError) -> str:
    answer: dict[str, Any] = error.response.get("Error", {})
    code = str(answer.get("Code", ""))
    advice = {
        "NoSuchBucket": "the bucket does not exist: check its name and AWS_ENDPOINT_URL",
        "AccessDenied": "these credentials may not read it: grant s3:ListBucket and s3:GetObject",
        "PreconditionFailed": "a file changed while it was fetched: try again",
        "412": "a file changed while it was fetched: try again",
    }.get(code, "check the credentials, the region and AWS_ENDPOINT_URL")
    return f"{url} was refused ({code or 'no code'}): {advice}"


def _list(client: Any, bucket: str, prefix: str) -> list[_Remote]:
    found = []
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", ()):
            name = item["Key"].removeprefix(prefix)
            if _WANTED.fullmatch(name) and ".." not in name.split("/"):
                found.append(_Remote(name, item["ETag"].strip('"'), item["Size"]))
    return sorted(found)


def _fetch(
    client: Any,
    bucket: str,
    prefix: str,
    files: Sequence[_Remote],
    root: Path,
    progress: bool,
) -> Path:
    """Bring the blobs up to date, then publish the folder that holds exactly `files`."""
    whole = hashlib.sha256("\n".join(file.blob for file in files).encode()).hexdigest()[:32]
    target = root / whole
    if target.is_dir():
        return target
    blobs = root / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    missing = [file for file in files if not (blobs / file.blob).exists()]
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(
        *columns,
        TransferSpeedColumn(),
        console=console,
        disable=not (progress and console.is_terminal),
    ) as bar:
        task = bar.add_task(f"s3://{bucket}/{prefix}", total=sum(file.size for file in missing))
        with ThreadPoolExecutor(_NUM_STREAMS) as pool:
            downloads = [
                pool.submit(
                    _download, client, bucket, prefix, file, blobs, lambda n: bar.advance(task, n)
                )
                for file in missing
            ]
            try:
                for download in downloads:
                    download.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def fill(draft: Path) -> None:
        for file in files:
            place = draft / file.name
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                place.hardlink_to(blobs / file.blob)
            except OSError:  # a file system without hard links
                shutil.copyfile(blobs / file.blob, place)

    return publish_folder(target, fill)


def _download(
    client: Any,
    bucket: str,
    prefix: str,
    file: _Remote,
    blobs: Path,
    advance: Callable[[int], None],
) -> None:
    """Fetch one file; it appears among the blobs whole or not at all."""
    # NOTE: the condition ties the bytes to the listing: an object may be replaced in between.
    answer = client.get_object(Bucket=bucket, Key=prefix + file.name, IfMatch=f'"{file.etag}"')
    handle, draft = tempfile.mkstemp(prefix=".", dir=blobs)
    try:
        with os.fdopen(handle, "wb") as out:
            for chunk in answer["Body"].iter_chunks(_CHUNK_BYTES):
                out.write(chunk)
                advance(len(chunk))
        if Path(draft).stat().st_size != file.size:
            raise OSError(f"{file.name} broke off before its end")
        Path(draft).chmod(0o644)
        Path(draft).replace(blobs / file.blob)
    finally:
        Path(draft).unlink(missing_ok=True)
