"""What a bulk job knows of a prompt: its id and seed, its way through the stages, its end.

`PromptIds` names the rows of the input, `Work` is one of them under way, from which every stage
reads and to which it adds, and `ROW_SCHEMA` is what is told of it in the manifest.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

from deployments.bulk.prompts import RawRow
from pipeline.errors import BarkError, InvalidRequest
from pipeline.generations import audio_key
from pipeline.payloads import (
    CoarseCodes,
    FineCodes,
    HistoryPrompt,
    SemanticTokens,
    StageReport,
    TextTokens,
)
from pipeline.request import SynthesisRequest

Json = dict[str, Any]
STAGES: Final = ("semantic", "coarse", "fine", "codec")
_MAX_ID: Final = 200


# ── names ────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class Prompt:
    """A row of the input: its place and its name.

    sha256: of its fields; another request under the same id has another.
    fields: of a request, without `id`; None: what is wrong is in `problem`.
    """

    number: int
    id: str
    sha256: str
    fields: Json | None
    problem: str = ""


class PromptIds:
    """Names rows in their order. A row without an id is named after what it holds."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}  # id → row
        self._repeats: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def name(self, raw: RawRow) -> Prompt:
        """Return the next row with its id.

        Raises:
            InvalidRequest: another row has this id; names both.
        """
        number, fields, problem = len(self._numbers), raw.fields, raw.problem
        given = None
        if fields is not None:
            given = fields.get("id")
            fields = {name: value for name, value in fields.items() if name != "id"}
        content = json.dumps([fields, problem], sort_keys=True, default=repr)
        sha256 = hashlib.sha256(content.encode()).hexdigest()
        if given is not None and (wrong := _wrong_id(given)):
            problem, fields, given = wrong, None, None
        if given is None:
            stem = f"row-{sha256[:16]}"
            # said twice without an id: two takes of it, each with a seed of its own
            repeat = self._repeats[stem] = self._repeats.get(stem, 0) + 1
            row_id = stem if repeat == 1 else f"{stem}-{repeat}"
        else:
            row_id = str(given)
        if (first := self._numbers.get(row_id)) is not None:
            raise InvalidRequest(
                f"rows {first + 1} and {number + 1} have the same id, {row_id!r}; "
                "every prompt needs one of its own, or none"
            )
        self._numbers[row_id] = number
        return Prompt(number, row_id, sha256, fields, problem)


def _wrong_id(given: Any) -> str | None:
    if not isinstance(given, (str, int)) or isinstance(given, bool):
        return f"id must be a string or an integer, not {type(given).__name__}"
    text = str(given)
    if not 0 < len(text) <= _MAX_ID or not text.isprintable():
        return f"id must have 1…{_MAX_ID} printable characters"
    return None


def seed_of(row_id: str) -> int:
    """Return the seed of a row that gives none: the same in every run, so that nothing is remade.

    32 bits, as where the service chooses one.
    """
    return int.from_bytes(hashlib.sha256(f"bulk seed: {row_id}".encode()).digest()[:4], "big")


# ── under way ────────────────────────────────────────────────────────────────────────────────────
@dataclass(slots=True, eq=False)
class Piece:
    """One segment, and what the stages have made of it.

    trace: W3C headers of its span, for the stages to hang theirs on.
    """

    text: TextTokens
    voice: str | None
    trace: dict[str, str] = field(default_factory=dict)
    semantic: SemanticTokens | None = None
    coarse: CoarseCodes | None = None
    fine: FineCodes | None = None
    reports: dict[str, StageReport] = field(default_factory=dict)

    @property
    def is_silent(self) -> bool:
        """Say whether the model ended before its first token: there is nothing left to do."""
        return self.semantic is not None and not len(self.semantic.ids)


@dataclass(slots=True, eq=False)
class Work:
    """A row between two stages. `end`: its row of the manifest, once it is known.

    spans: what is known of spans that are recorded only at the row's end; see `telemetry`.
    """

    number: int
    id: str
    sha256: str
    fields: Json | None
    problem: str = ""
    began_unix_s: float = 0.0
    request: SynthesisRequest | None = None
    seed: int = 0
    histories: dict[str, HistoryPrompt] = field(default_factory=dict)
    pieces: list[Piece] = field(default_factory=list)
    spans: Any = None
    end: Json | None = None

    @classmethod
    def of(cls, prompt: Prompt) -> Work:
        return cls(prompt.number, prompt.id, prompt.sha256, prompt.fields, prompt.problem)

    @property
    def is_chained(self) -> bool:
        """Say whether a segment has to wait for the one before it."""
        return (
            self.request is not None
            and self.request.long_form == "chained"
            and len(self.pieces) > 1
        )

    def fail(self, error: BarkError) -> None:
        """End with an error, which is this row's own."""
        self._end("error", error=error.code, message=error.message)

    def succeed(self, facts: Mapping[str, Any], place: str) -> None:
        """End with what a manifest tells; `place` is the store's address."""
        timings = {name: float(s) for name, s in facts["timings"].items()}
        self._end(
            "ok",
            generation_id=facts["id"],
            uri=f"{place}/{audio_key(facts['id'], facts['format'])}",
            sha256=facts["sha256"],
            seconds=float(facts["duration_s"]),
            seed=int(facts["seed"]),
            voice=facts["request"].get("voice"),
            finish_reason=facts["finish_reason"],
            timings=timings,
            device_seconds=sum(timings.get(stage, 0.0) for stage in STAGES),
            model_digest=facts["model_digest"],
        )

    def _end(self, status: str, **facts: Any) -> None:
        known = {"row": self.number, "id": self.id, "row_sha256": self.sha256, "status": status}
        self.end = known | facts
        self.pieces, self.histories, self.fields = [], {}, None


def pack_works(works: Sequence[Work]) -> pa.Table:
    """Return a block. Rows travel whole: their arrays are ragged, and only stages look inside."""
    return pa.table(
        {
            "id": pa.array([work.id for work in works], pa.string()),
            "work": pa.array([pickle.dumps(work, protocol=5) for work in works], pa.binary()),
        }
    )


def unpack_works(block: pa.Table) -> list[Work]:
    """Return a block's rows, fit to be changed."""
    return [pickle.loads(data.as_buffer()) for data in block.column("work")]


# ── the end ──────────────────────────────────────────────────────────────────────────────────────
ROW_SCHEMA: Final = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("message", pa.string()),
        ("uri", pa.string()),
        ("sha256", pa.string()),
        ("seconds", pa.float64()),
        ("seed", pa.uint64()),
        ("voice", pa.string()),
        ("generation_id", pa.string()),
        ("finish_reason", pa.string()),
        ("device_seconds", pa.float64()),
        (
            "timings",
            pa.struct([(n, pa.float64()) for n in ("total", "first_audio", "queue", *STAGES)]),
        ),
        ("model_digest", pa.string()),
        ("row_sha256", pa.string()),
    ]
)
