"""A run set against an earlier one: how much faster or slower each stage is, beyond the noise.

The noise band comes from the repeats: as far as two runs of one and the same code were apart,
in either report, a difference between the reports says nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from statistics import median
from typing import Literal

from pipeline.bench.figures import STAGES, Json
from pipeline.bench.suites import Settings
from pipeline.errors import InvalidRequest

PARTS = (*STAGES, "total")
# Two reports may be compared when these agree; versions and commits are what is compared.
SAME_HARDWARE = ("cpu", "cores", "threads", "memory_bytes", "device", "system")
SAME_SETTINGS = ("size", "model", "work")
MIN_REPEATS = 3


@dataclass(frozen=True, slots=True)
class Change:
    """One part's seconds now over then: below 1 is faster.

    noise: the largest ratio between two runs of the same code, at least 1.
    """

    name: str
    part: str
    ratio: float
    noise: float

    @property
    def verdict(self) -> Literal["faster", "slower", "same"]:
        if 1 / self.noise <= self.ratio <= self.noise:
            return "same"
        return "faster" if self.ratio < 1 else "slower"


def earlier_report(path: Path) -> Json:
    """Read what `bench --output` wrote.

    Raises:
        InvalidRequest: no such file, or no such report.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        assert {"hardware", "versions", "settings", "ours"} <= set(report)
        assert all("runs_s" in run for run in report["ours"].values())
    except (OSError, ValueError, AssertionError, TypeError, AttributeError) as error:
        raise InvalidRequest(
            f"{path} is no report that can be compared with; make one with "
            f"bark-serve bench --repeats {MIN_REPEATS} --output {path}"
        ) from error
    return dict(report)


def settings_then(then: Json, given: Mapping[str, object]) -> Settings:
    """Return the earlier report's settings, for single requests; `given` takes their place."""
    known = {field.name for field in fields(Settings)}
    kept = {key: value for key, value in then["settings"].items() if key in known}
    kept |= {"concurrency": (), "serve": False, "scaling": (), "static_batch": None, "bulk": None}
    kept |= {key: value for key, value in given.items() if value is not None}
    return Settings(**kept | {"precisions": tuple(kept["precisions"])})


def check_comparable(now: Json, then: Json) -> None:
    """Refuse to compare what was not measured alike.

    Raises:
        InvalidRequest: other hardware, other work, or too few repeats to know the noise.
    """
    for section, keys in (("hardware", SAME_HARDWARE), ("settings", SAME_SETTINGS)):
        for key in keys:
            here, there = now[section].get(key), then[section].get(key)
            if here != there:
                raise InvalidRequest(
                    f"the reports can not be compared: {section}.{key} is {here} here and "
                    f"{there} in the earlier one"
                )
    for report, which in ((now, "this run"), (then, "the earlier report")):
        if report["settings"]["repeats"] < MIN_REPEATS:
            raise InvalidRequest(
                f"{which} has too few repeats to tell a change from noise: both need "
                f"--repeats {MIN_REPEATS} or more"
            )


def changes(now: Json, then: Json) -> Iterator[Change]:
    """Compare every precision that both reports have, and transformers, stage by stage.

    transformers' own code did not change, so what it shows is the machine.
    """
    for name in now["ours"]:
        if name in then["ours"]:
            yield from _changes(f"ours {name}", now["ours"][name], then["ours"][name])
    if now["transformers"] and then["transformers"]:
        yield from _changes("transformers", now["transformers"], then["transformers"])


def _changes(name: str, now: Json, then: Json) -> Iterator[Change]:
    for part in PARTS:
        ours = [float(run[part]) for run in now["runs_s"]]
        theirs = [float(run[part]) for run in then["runs_s"]]
        ratio = median(a / b for a, b in product(ours, theirs))
        yield Change(name, part, ratio, max(_spread(ours), _spread(theirs)))


def _spread(seconds: Sequence[float]) -> float:
    """Return the largest ratio between two of them."""
    return max(seconds) / min(seconds)
