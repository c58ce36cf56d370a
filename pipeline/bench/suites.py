"""The measurements that we publish, by name: `bench --suite NAME` repeats one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """One run. None leaves a number to `measure`.

    size: of random weights; model: another one instead of them. bulk: rows of a bulk job. scaling:
    numbers of slots, empty for none.
    """

    suite: str = "transformers"
    size: str = "bark-small"
    model: str | None = None
    seconds: float | None = None
    precisions: tuple[str, ...] = ("fp32", "bf16", "int8")
    concurrency: tuple[int, ...] = (1, 8)
    device: str = "auto"
    backend: str = "auto"
    slots: int | None = None
    threads: int = 1
    repeats: int = 1
    transformers: bool = True
    transformers_precision: str = "auto"
    static_batch: int | None = None
    serve: bool = False
    bulk: int | None = None
    scaling: tuple[int, ...] = ()


_OURS_ALONE = {"transformers": False, "precisions": ("int8",)}
_SUITES: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "transformers": ("ours beside transformers' BarkModel", {}),
    "full": (
        "the same at more levels, and beside transformers' own batch",
        {"concurrency": (1, 4, 8, 16), "static_batch": 8},
    ),
    "scaling": (
        "throughput against slots, and what settings cost",
        _OURS_ALONE | {"concurrency": (), "scaling": (1, 2, 4, 8, 16)},
    ),
    "serve": (
        "what serving costs over the bare engine",
        _OURS_ALONE | {"seconds": 6.0, "concurrency": (8,), "serve": True},
    ),
    "serve-nano": (
        "the same with nano, whose requests are short",
        {
            "model": "nano",
            "seconds": 4.0,
            "precisions": ("fp32",),
            "transformers": False,
            "serve": True,
        },
    ),
    "bulk": (
        "a bulk job beside a plain loop, the bare engine and transformers",
        {"seconds": 6.0, "precisions": ("int8",), "concurrency": (), "bulk": 48},
    ),
    "gpu": (
        "bark's own shape on a CUDA device, beside transformers in fp16",
        {
            "size": "bark",
            "device": "cuda",
            "precisions": ("bf16",),
            "concurrency": (1, 8, 32),
            "static_batch": 8,
            "scaling": (1, 8, 32),
        },
    ),
}
SUITES = {name: about for name, (about, _) in _SUITES.items()}


def settings_of(suite: str, **given: object) -> Settings:
    """Return a suite's settings, with others in their place where `given` is not None."""
    changed = {name: value for name, value in given.items() if value is not None}
    return Settings(**{"suite": suite, **_SUITES[suite][1], **changed})  # type: ignore[arg-type]
