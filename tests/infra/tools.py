"""What the infrastructure's proofs run on, beside the project's own environment.

The first use installs it into `.infra/` (git ignores it): about a minute, and the package index.
Later uses find it there. terraform itself is no Python package and has to be on the machine.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
FOLDER = ROOT / ".infra"
PINS = HERE / "tools.txt"
# Terraform's name of a provider → the bindings that repeat its schema, and of which kind it is.
PROVIDERS = {
    "aws": ("cdktn-provider-aws==25.8.1", "blocks"),
    "helm": ("cdktn-provider-helm==15.1.0", "nested"),
}
_NO_TERRAFORM = (
    "needs terraform 1.9 or newer on PATH (https://developer.hashicorp.com/terraform/install; "
    "Debian has no package of it): without it nothing here proves infra/terraform"
)


@dataclass(frozen=True)
class Tools:
    """Where they are. environment: for terraform, so that it finds its providers offline."""

    folder: Path
    environment: dict[str, str]

    def command(self, name: str) -> str:
        return str(self.folder / "venv" / "bin" / name)


def terraform() -> str:
    """Return the program; skip the test, and say so, where there is none."""
    found = shutil.which("terraform")
    if found is None:
        pytest.skip(_NO_TERRAFORM)
    return found


def kubectl() -> str:
    """Return the program; skip the test, and say so, where there is none."""
    found = shutil.which("kubectl")
    if found is None:
        pytest.skip(
            "needs kubectl (https://kubernetes.io/docs/tasks/tools; on Debian 13: apt install "
            "kubernetes-client): without it nothing here proves k8s/"
        )
    return found


def run(*command: str | Path, check: bool = True, **more: object) -> subprocess.CompletedProcess:
    """Run a command; its output is in the failure."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, **more
    )
    if check and done.returncode != 0:
        pytest.fail(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}", pytrace=False)
    return done


@functools.cache
def tools() -> Tools:
    """Return the tools, installed if need be."""
    FOLDER.mkdir(exist_ok=True)
    made = Tools(FOLDER, {"TF_CLI_CONFIG_FILE": str(FOLDER / "terraformrc")})
    with FileLock(FOLDER / "lock"):
        _once("venv", PINS.read_bytes(), lambda: _install(made))
        read = (HERE / "providers" / "bindings.py").read_bytes()
        _once("schemas", read + repr((PROVIDERS, ROOT)).encode(), lambda: _read_schemas(made))
    return made


def _once(name: str, inputs: bytes, do: Callable[[], None]) -> None:
    """Do what was not done yet with these inputs."""
    mark, wanted = FOLDER / f"{name}.done", hashlib.sha256(inputs).hexdigest()
    if not mark.exists() or mark.read_text() != wanted:
        do()
        mark.write_text(wanted)


def _install(made: Tools) -> None:
    print("installing what tests/infra needs into .infra (about a minute)", file=sys.stderr)
    run(sys.executable, "-m", "venv", FOLDER / "venv")
    run(*_pip(made), "install", "--no-deps", "--no-compile", "--requirement", PINS)


def _pip(made: Tools) -> tuple[str, ...]:
    return (made.command("python"), "-m", "pip", "--quiet", "--disable-pip-version-check")


def _read_schemas(made: Tools) -> None:
    wheels = FOLDER / "wheels"
    bindings = [package for package, _ in PROVIDERS.values()]
    run(*_pip(made), "download", "--no-deps", "--dest", wheels, *bindings)
    for name, (package, kind) in PROVIDERS.items():
        (wheel,) = wheels.glob(f"{package.partition('==')[0].replace('-', '_')}-*.whl")
        read = HERE / "providers" / "bindings.py"
        told = run(made.command("python"), read, wheel, FOLDER / f"{name}.schema", kind)
        _put_in_mirror(name, version=told.stdout.split()[0])
    shutil.rmtree(wheels)
    mirror = f'filesystem_mirror {{\npath = "{FOLDER / "mirror"}"\n}}'
    Path(made.environment["TF_CLI_CONFIG_FILE"]).write_text(
        f"provider_installation {{\n{mirror}\n}}\n"
    )


def _put_in_mirror(name: str, version: str) -> None:
    """Let `terraform init` find a provider where it looks for one on disk.

    It checks versions and takes a checksum. It never runs the program: `server.py` is in its place.
    """
    if shutil.which("terraform") is None:
        return
    system = re.search(r"on (\w+)\n", run("terraform", "version").stdout)
    assert system is not None
    place = FOLDER / "mirror" / address_of(name) / version / system[1]
    place.mkdir(parents=True, exist_ok=True)
    program = place / f"terraform-provider-{name}_v{version}"
    program.write_text("#!/bin/sh\necho a stand-in for its schema alone >&2; exit 1\n")
    program.chmod(0o755)


def address_of(name: str) -> str:
    """Return a provider's whole address, HOST/hashicorp/NAME, as Terraform itself completes it."""
    asked = FOLDER / "address" / name
    asked.mkdir(parents=True, exist_ok=True)
    needs = f'required_providers {{\n{name} = {{\nsource = "hashicorp/{name}"\n}}\n}}'
    (asked / "main.tf").write_text(f"terraform {{\n{needs}\n}}\n")
    told = run("terraform", "providers", cwd=asked).stdout
    address = re.search(r"provider\[(\S+)\]", told)
    assert address is not None, told
    return address[1]


@contextmanager
def providers() -> Iterator[dict[str, str]]:
    """Serve the providers' schemas; yield the environment that leads terraform to them.

    It leads to nobody's account. Of the schemas it shows the types that our configuration names: a
    type that AWS does not have is unknown all the same.
    """
    named = {
        name
        for file in (ROOT / "infra" / "terraform").rglob("*.tf")
        for name in re.findall(r'^(?:resource|data) "(\w+)"', file.read_text(), re.MULTILINE)
    }
    schemas = [f"{address_of(name)}={FOLDER / f'{name}.schema'}" for name in PROVIDERS]
    server = subprocess.Popen(
        [tools().command("python"), HERE / "providers" / "server.py", *schemas],
        env={**os.environ, "BARK_SCHEMA_TYPES": ",".join(sorted(named))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with server:
        attached = server.stdout.readline().strip()
        assert attached, "the schema server ended"
        yield {**offline(), "TF_REATTACH_PROVIDERS": attached}
        server.stdin.close()  # ends it


def offline() -> dict[str, str]:
    """Return an environment in which terraform finds providers on this disk alone."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "TF_"))}
    return {**clean, **tools().environment, "CHECKPOINT_DISABLE": "1"}
