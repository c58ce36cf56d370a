"""Is this sound what it says it is? Made again from its manifest, and compared sample by sample.

A file says in its label which generation it is; the store has that generation's manifest; with
the same model, voice, seed, settings and arithmetic the samples come out the same, bit for bit.
Where they do not, something differs, and the report says what.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.audio import StreamEncoder, SyntheticLabel, change_speed, encode, read_label
from pipeline.audio.decode import decode
from pipeline.bark import Bark
from pipeline.clip import Clip
from pipeline.errors import BarkError, GenerationNotFound, InvalidRequest
from pipeline.generations import Generations, audio_key
from pipeline.jobs import Jobs, is_job_id
from pipeline.manifest import manifest, samples_sha256
from pipeline.store import Store

State = Literal["same", "differs", "absent"]
_FORMATS_OF_INTEGERS = ("wav", "flac")
_PADDING_S = 0.12  # that lossy formats add at most


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    state: State
    detail: str


@dataclass(slots=True)
class Verification:
    """What was found. is_verified: the sound was made again, and is the same."""

    generation_id: str | None = None
    is_verified: bool = False
    findings: list[Finding] = field(default_factory=list)

    def add(self, subject: str, state: State, detail: str) -> None:
        self.findings.append(Finding(subject, state, detail))


def verify_id(generation_id: str, store: Store, *, model: str | None = None) -> Verification:
    """Check a generation of the store: its files against its manifest, and its sound made again.

    Raises:
        GenerationNotFound: the store does not have it.
        StoreUnavailable, InvalidCheckpoint.
    """
    if is_job_id(generation_id):
        made = Jobs(store).load(generation_id).generation_id
        if made is None:
            raise GenerationNotFound(f"{generation_id} has no sound")
        generation_id = made
    facts = Generations(store).load_manifest(generation_id)
    if facts is None:
        raise GenerationNotFound(f"the store has no generation {generation_id!r}")
    data = store.get(audio_key(generation_id, facts["format"]))
    if data is None:
        raise GenerationNotFound(f"the store has lost the sound of {generation_id!r}")
    return verify_file(data, store, model=model)


def verify_file(
    data: bytes, store: Store, *, model: str | None = None, speed: float = 1.0
) -> Verification:
    """Check an audio file, whoever brings it.

    Args:
        model: in place of the one that the manifest names.
        speed: that the file was asked for with, which it does not tell.

    Raises:
        InvalidRequest: no sound that can be read.
        StoreUnavailable, InvalidCheckpoint.
    """
    report = Verification()
    samples, rate, audio_format = decode(data)
    label = read_label(data)
    if label is None:
        report.add("label", "absent", "it does not say that it was made by bark-serve")
        return report
    report.generation_id = str(label["generation_id"])
    report.add("label", "same", f"synthetic, {label['model']}, {report.generation_id}")
    facts = Generations(store).load_manifest(report.generation_id)
    if facts is None:
        report.add("manifest", "absent", "this store does not know the generation")
        return report
    with Bark.load(model or facts["model"], precision=facts["precision"], store=store) as bark:
        try:
            clip = _again(bark, facts)
        except BarkError as error:
            report.add("made again", "differs", error.message)
            return report
        now = manifest(
            clip,
            model=bark.name,
            model_digest=bark.model_digest,
            precision=bark.precision,
            device_class=bark.stages.device_class,
        )
    report.findings += _inputs(facts, now)
    told = samples_sha256(clip) == facts["samples_sha256"]
    report.add("samples", "same" if told else "differs", f"{clip.duration_s:.2f} s made again")
    is_same = any(
        np.array_equal(samples, decode(made)[0])
        for made in _files(clip, audio_format, rate, speed, label)
    )
    report.add("file", "same" if is_same else "differs", _difference(clip, samples, rate, speed))
    report.is_verified = told and is_same
    return report


def _again(bark: Bark, facts: Mapping[str, Any]) -> Clip:
    """Make a generation again, as its manifest says.

    Raises:
        BarkError: its voice is no longer there, or its text no longer allowed.
    """
    fields = {key: value for key, value in facts["request"].items() if value is not None}
    fields.pop("timeout_s", None)
    fields["seed"] = facts["seed"]
    if facts["voice_digests"].keys() - _voices_of(fields):
        raise InvalidRequest("its voice was given as arrays, which the manifest does not hold")
    return bark.generate(**fields)


def _voices_of(fields: Mapping[str, Any]) -> set[str]:
    turns = fields.get("turns", ())
    named = [fields.get("voice"), *(turn.get("voice") for turn in turns)]
    return {name for name in named if name is not None and not name.startswith("sha256:")}


def _inputs(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Finding]:
    """Compare everything that decides the samples; and the version, which should not."""
    for name in ("model_digest", "voice_digests", "precision", "device_class", "numerics_version"):
        same = then[name] == now[name]
        detail = _short(then[name]) if same else f"{_short(then[name])}, here {_short(now[name])}"
        yield Finding(name.replace("_", " "), "same" if same else "differs", detail)


def _files(
    clip: Clip, audio_format: str, rate: int, speed: float, given: Mapping[str, Any]
) -> Iterator[bytes]:
    """Yield the sound as a file and as a stream: lossy encoders begin them differently."""
    if rate != clip.sample_rate and audio_format != "opus":  # whose rate is always 48 kHz
        return
    label = SyntheticLabel(**given)
    samples = change_speed(clip.samples, clip.sample_rate, speed)
    yield encode(samples, clip.sample_rate, audio_format, label)
    if audio_format not in _FORMATS_OF_INTEGERS:
        stream = StreamEncoder(audio_format, clip.sample_rate, label)
        yield stream.write(samples) + stream.close()


def _difference(clip: Clip, samples: NDArray[np.float32], rate: int, speed: float) -> str:
    seconds, wanted = len(samples) / rate, clip.duration_s / speed
    if abs(seconds - wanted) > _PADDING_S:
        return f"{seconds:.2f} s long, the clip {wanted:.2f} s: cut, or at another --speed"
    return f"{seconds:.2f} s, sample by sample"


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_short(digest)}" for name, digest in value.items()) or "none"
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)
