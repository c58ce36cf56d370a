"""`bark-serve doctor`: what works here and what does not, one line each."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import typer
from rich.console import Console

from pipeline.cli import options
from pipeline.errors import BarkError, StoreUnavailable

State = Literal["ok", "absent", "failed"]
MARKS = {"ok": "[green]✓[/]", "absent": "[yellow]–[/]", "failed": "[red]✗[/]"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: `absent` is a part that is optional and not there; `failed` is a fault."""

    subject: str
    state: State
    detail: str


def doctor(
    model: options.Model = "nano",
    data: options.Data = options.DEFAULT_DATA,
    speak: Annotated[bool, typer.Option(help="Also run one short request.")] = True,
    as_json: options.AsJson = False,
) -> None:
    """Check this machine; exit 1 when something fails.

    Example: bark-serve doctor --model suno/bark-small
    """
    console, findings = Console(highlight=False), []
    for finding in _examine(model, data, speak):
        findings.append(finding)
        if not as_json:
            detail = finding.detail.replace("[", "\\[")
            console.print(f"{MARKS[finding.state]} {finding.subject:<12} {detail}", soft_wrap=True)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings]))
    if any(finding.state == "failed" for finding in findings):
        raise typer.Exit(1)


def _examine(model: str, data: str, speak: bool) -> Iterator[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    yield _try("torch", _torch)
    yield _native()
    yield _try("audio", _audio)
    found = _try("model", lambda: _model(model))
    yield found
    yield _try("store", lambda: _store(data))
    yield _optional("ray", "the service")
    yield _optional("perth", "watermarks", "resemble-perth")
    yield _optional("c2pa", "signing files", "c2pa-python")
    yield _optional("opentelemetry.sdk", "traces (OTEL_EXPORTER_OTLP_ENDPOINT)")
    if speak and found.state == "ok":
        for precision in ("fp32", "bf16", "int8"):
            yield _try(precision, lambda precision=precision: _speak(model, precision))  # type: ignore[misc]


def _try(subject: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, "ok", check())
    except BarkError as error:
        return Finding(subject, "failed", error.message)
    except Exception as error:  # a doctor reports every fault, whatever it is
        return Finding(subject, "failed", f"{type(error).__name__}: {error}")


def _torch() -> str:
    import torch

    from pipeline.engine.runner import Device

    device = Device()
    where = f"device {device.device_class}"
    return f"{torch.__version__}, {torch.get_num_threads()} threads, {where}"


def _native() -> Finding:
    from pipeline.engine.native_gpt import is_supported

    supported, reason = is_supported()
    if supported:
        return Finding("kernels", "ok", "native AVX-512 kernels")
    return Finding("kernels", "absent", f"native kernels: {reason}; the torch backend is used")


def _audio() -> str:
    import numpy as np

    from pipeline.audio import FORMATS, SyntheticLabel, encode

    tone = np.sin(np.arange(2400, dtype=np.float32) / 10)
    for name in FORMATS:
        encode(tone, 24_000, name, SyntheticLabel("doctor", "0" * 32))
    return "writes " + ", ".join(FORMATS)


def _model(model: str) -> str:
    from pipeline.models.checkpoint import open_checkpoint
    from pipeline.models.locate import locate

    path = locate(model, offline=True)
    checkpoint = open_checkpoint(path)
    return f"{model} at {path}, {checkpoint.layout} layout, digest {checkpoint.digest[:12]}"


def _store(data: str) -> str:
    from pipeline.store import open_store
    from pipeline.store.local import LocalStore

    store, key = open_store(data), f"doctor/{uuid.uuid4().hex}"
    if isinstance(store, LocalStore) and store.is_writable and not store.root.exists():
        return f"{store.root.absolute()} (made at first use)"
    if not store.put_if_absent(key, b"1") or store.put_if_absent(key, b"2"):
        raise StoreUnavailable(f"{data} does not keep its promise of conditional writes")
    store.delete(key)
    return f"{data} can be written, and decides races"


def _optional(package: str, used_for: str, distribution: str | None = None) -> Finding:
    name = package.partition(".")[0]
    try:
        found = importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        return Finding(name, "absent", f"{package} is not installed; needed for {used_for}")
    version = importlib.metadata.version(distribution or package.replace(".", "-"))
    return Finding(name, "ok", version)


def _speak(model: str, precision: str) -> str:
    from pipeline.bark import Bark

    with Bark.load(model, precision=precision, slots=1) as bark:
        clip = bark.generate("Hello.", seed=0, semantic={"max_duration_s": 0.5})
        return (
            f"{bark.stages.device_class}: {clip.duration_s:.2f} s of sound, "
            f"real-time factor {clip.real_time_factor:.2f}"
        )
