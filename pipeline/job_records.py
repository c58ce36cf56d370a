"""A job's record: what is asked, how far it is, and the names under which it lies in a store."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Literal

from pipeline.errors import StoreUnavailable
from pipeline.file_formats import pack_json, unpack_json

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
ENDED: Final = frozenset(("succeeded", "failed", "cancelled"))
ID_PREFIX: Final = "job-"
ID_DIGITS = 32


@dataclass(frozen=True, slots=True)
class Lease:
    """Who works on a job, and until when if nothing more is heard."""

    holder: str
    until_unix_s: float


@dataclass(frozen=True, slots=True)
class Hook:
    """Where the end of a job is to be told, and how that went."""

    url: str
    attempts: int = 0
    next_unix_s: float = 0.0
    is_done: bool = False
    last_error: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One generation to be made, and how far it is.

    content: digest of everything that decides the result. request: fields of
    `SynthesisRequest`, its seed among them. attempts: how often a worker has begun.
    not_before_unix_s: while a try is waited for. progress: segments, and how many of them each
    stage has done. result: what is told about the finished generation; its id is in
    `generation_id`. trace: W3C headers of the request that asked for it. owner: whose it is, as an
    id; owner_name: for people.
    """

    id: str
    owner: str
    content: str
    request: dict[str, Any]
    audio_format: str
    speed: float
    created_unix_s: float
    status: Status = "queued"
    attempts: int = 0
    not_before_unix_s: float = 0.0
    lease: Lease | None = None
    progress: dict[str, int] = field(default_factory=dict)
    generation_id: str | None = None
    result: dict[str, Any] | None = None
    error: dict[str, str] | None = None
    hook: Hook | None = None
    trace: dict[str, str] = field(default_factory=dict)
    owner_name: str = ""
    ended_unix_s: float | None = None

    @property
    def is_ended(self) -> bool:
        return self.status in ENDED

    @property
    def has_work(self) -> bool:
        """Say whether anybody has something left to do for it."""
        return not self.is_ended or (self.hook is not None and not self.hook.is_done)

    @property
    def signpost(self) -> str:
        return f"queue/{sortable(self.created_unix_s)}-{self.id}"

    def pack(self) -> bytes:
        return pack_json(asdict(self))

    @classmethod
    def unpack(cls, data: bytes, name: str) -> Job:
        """Read a record; fields that a newer version of this program adds are passed over.

        Raises:
            StoreUnavailable: it is damaged.
        """
        given = unpack_json(data, name)
        try:
            known = {each.name: given[each.name] for each in fields(cls) if each.name in given}
            lease, hook = known.pop("lease", None), known.pop("hook", None)
            return cls(
                **known,
                lease=None if lease is None else Lease(**lease),
                hook=None if hook is None else Hook(**hook),
            )
        except (TypeError, ValueError) as error:
            raise StoreUnavailable(f"the record of {name} is damaged: {error}") from error


def job_of(signpost: str) -> str:
    """Return the id of the job that a signpost leads to."""
    return signpost.rpartition("/")[2].partition("-")[2]


def is_job_id(text: str) -> bool:
    """Say whether an id is a job's, and not a generation's."""
    digits = text.removeprefix(ID_PREFIX)
    return text != digits and len(digits) == ID_DIGITS and set(digits) <= set("0123456789abcdef")


def record_key(job_id: str) -> str:
    """Return where a job's record lies."""
    return f"jobs/{job_id}.json"


def sortable(unix_s: float) -> str:
    """Write a time so that texts sort as times do."""
    return f"{round(unix_s * 1000):015d}"
