"""The Dockerfile: clean, in step with the manifests, and built and run (`make image-smoke`).

The smoke build needs no registry and no daemon: its base is made by debootstrap, its wheels are
those of this environment, buildah builds in a chroot. So Docker's own builder, the published base
image and the target `gpu` are not shown; `docker build --target gpu .` shows them.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from tools import FOLDER, ROOT, run, tools

DOCKERFILE = (ROOT / "Dockerfile").read_text()
BASE, IMAGE = "localhost/bark-base:smoke", "localhost/bark-serve:smoke"


def test_hadolint_finds_nothing() -> None:
    run(tools().command("hadolint"), ROOT / "Dockerfile")


def test_the_image_and_the_manifests_agree() -> None:
    values = json.loads((ROOT / "k8s" / "overlays" / "production" / "values.json").read_text())
    served = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    uid, port = values["cache"]["uid"], served["http_options"]["port"]
    assert DOCKERFILE.count(f"USER {uid}:{uid}") == 2  # both targets end as that user
    assert f"--uid {uid} " in DOCKERFILE
    assert f"EXPOSE {port}" in DOCKERFILE
    assert f"http://127.0.0.1:{port}/healthz" in DOCKERFILE
    cluster = (ROOT / "k8s" / "base" / "rayservice.yaml").read_text()
    assert f"runAsUser: {uid}" in cluster
    (cache,) = re.findall(r"XDG_CACHE_HOME=(\S+)", DOCKERFILE)
    assert f"{{name: XDG_CACHE_HOME, value: {cache}}}" in cluster
    (entry,) = re.findall(r"^ENTRYPOINT \[\"(.*)\"\]$", DOCKERFILE, re.MULTILINE)
    assert entry == "bark-serve"  # the manifests give arguments alone


def test_what_the_build_may_see_is_named() -> None:
    """A folder that is copied and not named in .dockerignore breaks the build, and only there."""
    seen = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert sorted(copied) == sorted(seen)
    assert all((ROOT / name).exists() for name in seen)


# ── opt-in: `make image-smoke` ───────────────────────────────────────────────────────────────────
class Builder:
    """buildah with a store of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._command = (
            *("buildah", "--storage-driver", "vfs"),
            *("--root", str(folder / "store"), "--runroot", str(folder / "run")),
        )

    def __call__(self, *arguments: str | Path, check: bool = True) -> str:
        return run(*self._command, *arguments, check=check).stdout.strip()

    def make_base(self) -> None:
        """Make a Debian with Python out of Debian's packages alone."""
        rootfs = self.folder / "rootfs"
        packages = "python3,python3-venv,ca-certificates"
        run("debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", rootfs)
        container = self("from", "scratch")
        self("add", "--quiet", container, rootfs, "/")
        self("commit", "--quiet", container, BASE)
        self("rm", container)
        shutil.rmtree(rootfs)

    def make_wheels(self) -> Path:
        """Collect what the image needs, so that its build asks no index."""
        wheels = self.folder / "wheels"
        pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", wheels)
        wanted = f"{ROOT}[serve,watermark,c2pa]"
        run(*pip, "--constraint", ROOT / "constraints.txt", wanted, "hatchling==1.33.0")
        run(*pip, "cyclonedx-bom==7.5.0")
        return wheels


@pytest.mark.image
def test_the_image_builds_starts_and_holds_no_tools(tmp_path: Path) -> None:
    missing = [name for name in ("debootstrap", "buildah") if not shutil.which(name)]
    if missing:
        pytest.fail(f"needs {' and '.join(missing)}, and root: apt install {' '.join(missing)}")
    builder = Builder(FOLDER / "image")
    builder.folder.mkdir(parents=True, exist_ok=True)
    try:
        builder.make_base()
        wheels = builder.make_wheels()
        builder(
            *("bud", "--isolation", "chroot", "--format", "docker", "--pull-never"),
            *("--build-context", f"wheels={wheels}", "--build-arg", f"BASE={BASE}"),
            *("--build-arg", "PIP_NO_INDEX=1", "--target", "cpu", "--tag", IMAGE, ROOT),
        )
        settings = json.loads(builder("inspect", "--type", "image", IMAGE))["Docker"]["config"]
        assert settings["User"] == "10001:10001"
        assert settings["Entrypoint"] == ["bark-serve"]
        assert settings["Healthcheck"]["Test"][:2] == ["CMD", "wget"]

        container = builder("from", "--pull-never", IMAGE)

        def inside(*command: str) -> str:
            return builder("run", "--isolation", "chroot", container, "--", *command)

        told = json.loads(inside("bark-serve", "doctor", "--json"))
        findings = {item["subject"]: item for item in told}
        assert not [item for item in findings.values() if item["state"] == "failed"]
        for subject in ("model", "ray", "opentelemetry", "perth", "c2pa", "fp32", "bf16", "int8"):
            assert findings[subject]["state"] == "ok", findings[subject]
        assert inside("id", "-u") == "10001"
        assert inside("bash", "-c", "command -v g++ gcc cc make pip || true") == ""
        assert inside("bash", "-c", "python -c 'import pip' 2>&1 | grep -c No.module") == "1"
        assert inside("bash", "-c", "command -v ray wget grep | wc -l") == "3"  # KubeRay's
        assert inside("bash", "-c", "find / -xdev -type f -perm /6000 2>/dev/null | wc -l") == "0"
        assert inside("bash", "-c", "touch /opt/bark/x 2>/dev/null && echo written || true") == ""
        listed = json.loads(inside("cat", "/usr/share/sbom/python.cdx.json"))
        names = {component["name"] for component in listed["components"]}
        assert {"bark-serve", "torch", "ray"} <= names
        assert "libc6\t" in inside("cat", "/usr/share/sbom/debian.tsv")
    finally:
        shutil.rmtree(builder.folder, ignore_errors=True)
