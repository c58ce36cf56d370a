"""What a store's generations cost: device-seconds, summed up from their manifests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

from pipeline.generations import Generations
from pipeline.store import Store

Kind = Literal["voice", "key", "day", "model"]
STAGES: Final = ("semantic", "coarse", "fine", "codec")
_AT_ONCE: Final = 16


@dataclass(slots=True)
class Sum:
    """Generations, seconds of sound, and seconds of the device by stage."""

    generations: int = 0
    audio_s: float = 0.0
    device_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    @property
    def total_s(self) -> float:
        return sum(self.device_s.values())

    def price(self, per_hour: float) -> float:
        """Return what the device-seconds cost, at a price for an hour of a device."""
        return self.total_s / 3600 * per_hour

    def add(self, manifest: Mapping[str, Any]) -> None:
        self.generations += 1
        self.audio_s += float(manifest["duration_s"])
        for stage in STAGES:
            self.device_s[stage] += float(manifest["timings"].get(stage, 0.0))


def sum_up(store: Store, kind: Kind) -> tuple[dict[str, Sum], Sum]:
    """Read every manifest; return the sums by kind, the dearest first, and the whole.

    A generation is counted once, however often it was asked for: it was made once.

    Raises:
        StoreUnavailable: it does not answer, or a manifest is damaged.
    """
    groups: dict[str, Sum] = {}
    whole = Sum()
    for found in _manifests(store):
        groups.setdefault(_KINDS[kind](found), Sum()).add(found)
        whole.add(found)
    ordered = sorted(groups.items(), key=lambda item: (-item[1].total_s, item[0]))
    return dict(ordered), whole


def _manifests(store: Store) -> Iterable[Mapping[str, Any]]:
    kept = Generations(store)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for found in pool.map(kept.load_manifest, kept.list()):
            if found is not None:  # removed in between
                yield found


def _voice(manifest: Mapping[str, Any]) -> str:
    names = sorted(manifest["voice_digests"])
    return ", ".join(names) or "no voice"


def _day(manifest: Mapping[str, Any]) -> str:
    made_unix_s = manifest.get("created_unix_s")
    if made_unix_s is None:
        return "unknown"
    return datetime.fromtimestamp(made_unix_s, UTC).date().isoformat()


_KINDS: Final[Mapping[Kind, Callable[[Mapping[str, Any]], str]]] = {
    "voice": _voice,
    "key": lambda manifest: str(manifest.get("owner") or "none"),
    "day": _day,
    "model": lambda manifest: str(manifest["model"]),
}
