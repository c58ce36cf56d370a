"""Is this sound what it says it is? Made again from its manifest, and compared sample by sample.

A file says in its label which generation it is; the store has that generation's manifest; with
the same model, voice, seed, settings and arithmetic the samples come out the same, bit for bit.
Where they do not, something differs, and the report says what. Beside that, and without a store,
it says whether the mark of synthetic sound is in it, and whether it is signed and untouched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.audio import StreamEncoder, SyntheticLabel, change_speed, encode, read_label
from pipeline.audio.credentials import is_installed, read_credentials
from pipeline.audio.decode import decode
from pipeline.bark import Bark
from pipeline.clip import Clip
from pipeline.errors import BarkError, GenerationNotFound, InvalidRequest
from pipeline.generations import Generations, audio_key
from pipeline.job_records import is_job_id
from pipeline.jobs import Jobs
from pipeline.manifest import manifest, samples_sha256
from pipeline.store import Store
from pipeline.watermark import FOUND, Watermark

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
    """What was found.

    is_verified: the sound was made again, and is the same, and no signature is broken.
    """

    generation_id: str | None = None
    is_verified: bool = False
    findings: list[Finding] = field(default_factory=list)

    def add(self, subject: str, state: State, detail: str) -> None:
        self.findings.append(Finding(subject, state, detail))


def verify_id(
    generation_id: str, store: Store, *, model: str | None = None, anchors: bytes | None = None
) -> Verification:
    """Check a generation of the store: its files against its manifest, and its sound made again.

    Args:
        model, anchors: as for `verify_file`.

    Raises:
        GenerationNotFound: the store does not have it.
        StoreUnavailable, InvalidCheckpoint.
    """
    speed, told = 1.0, None
    if is_job_id(generation_id):
        job = Jobs(store).load(generation_id)
        if job.generation_id is None or job.result is None:
            raise GenerationNotFound(f"{generation_id} has no sound")
        generation_id, speed, told = job.generation_id, job.speed, job.result["audio"]
    facts = Generations(store).load_manifest(generation_id)
    if facts is None:
        raise GenerationNotFound(f"the store has no generation {generation_id!r}")
    if told is None:
        key = audio_key(generation_id, facts["format"])
        told = {"key": key, "sha256": facts["sha256"]}
    data = store.get(told["key"])
    if data is None:
        raise GenerationNotFound(f"the store has lost the sound of {generation_id!r}")
    report = verify_file(
        data, store, model=model, speed=speed, anchors=anchors, generation_id=generation_id
    )
    is_kept = hashlib.sha256(data).hexdigest() == told["sha256"]
    report.add("stored bytes", "same" if is_kept else "differs", f"sha256 {told['sha256'][:12]}")
    report.is_verified = report.is_verified and is_kept
    return report


def verify_file(
    data: bytes,
    store: Store,
    *,
    model: str | None = None,
    speed: float = 1.0,
    anchors: bytes | None = None,
    generation_id: str | None = None,
) -> Verification:
    """Check an audio file, whoever brings it.

    Args:
        model: in place of the one that the manifest names.
        speed: that the file was asked for with, which it does not tell.
        anchors: certificates (PEM) of those whose signatures are trusted.
        generation_id: which generation it must be; None: the one that its label names.

    Raises:
        InvalidRequest: no sound that can be read, anchors that are none, or a manifest that names
            a watermark, which needs the extra to be made again.
        StoreUnavailable, InvalidCheckpoint.
    """
    report = Verification()
    sound = decode(data)
    label = read_label(data)
    facts = None
    if label is None:
        report.add("label", "absent", "it does not say that it was made by bark-serve")
    elif generation_id not in (None, label["generation_id"]):
        report.add("label", "differs", f"it says generation {label['generation_id']}")
    else:
        facts = _make_again(report, label, sound, store, model, speed)
    report.findings.append(_mark(sound[0], sound[1], facts))
    signature = _signature(data, anchors, report.generation_id)
    report.findings.append(signature)
    report.is_verified = report.is_verified and signature.state != "differs"
    return report


def _make_again(
    report: Verification,
    label: Mapping[str, Any],
    sound: tuple[NDArray[np.float32], int, str],
    store: Store,
    model: str | None,
    speed: float,
) -> Mapping[str, Any] | None:
    """Make the sound again that a label names, and compare; return its manifest, if it is here."""
    samples, rate, audio_format = sound
    report.generation_id = str(label["generation_id"])
    facts = Generations(store).load_manifest(report.generation_id)
    if facts is None:
        report.add("label", "same", f"synthetic, {label['model']}, {report.generation_id}")
        report.add("manifest", "absent", "this store does not know the generation")
        return None
    is_true = (label["model"], label["seed"]) == (facts["model"], facts["seed"])
    shown = f"synthetic, {label['model']}, seed {label['seed']}, {report.generation_id}"
    report.add("label", "same" if is_true else "differs", shown)
    with Bark.load(
        model or facts["model"],
        precision=facts["precision"],
        store=store,
        watermark=facts.get("watermark") is not None,  # older manifests do not have it
    ) as bark:
        try:
            clip = _again(bark, facts)
        except BarkError as error:
            report.add("made again", "differs", error.message)
            return facts
        now = manifest(
            clip,
            model=bark.name,
            model_digest=bark.model_digest,
            precision=bark.precision,
            device_class=bark.stages.device_class,
        )
    report.findings += _inputs(facts, now)
    told = samples_sha256(clip) == facts["samples_sha256"]
    is_it = clip.id == report.generation_id
    if not is_it:
        report.add("identity", "differs", f"what the manifest describes is {clip.id}")
    report.add("samples", "same" if told else "differs", f"{clip.duration_s:.2f} s made again")
    is_same = any(
        np.array_equal(samples, decode(made)[0])
        for made in _files(clip, audio_format, rate, speed, label)
    )
    report.add("file", "same" if is_same else "differs", _difference(clip, samples, rate, speed))
    report.is_verified = told and is_same and is_it and is_true
    return facts


def _mark(samples: NDArray[np.float32], rate: int, facts: Mapping[str, Any] | None) -> Finding:
    """Look for the mark of synthetic sound, and compare with what the manifest claims.

    Args:
        facts: the manifest; None: there is none, so whatever is found is only told.
    """
    claimed = None if facts is None else facts.get("watermark")
    if not Watermark.is_installed():
        return Finding("watermark", "absent", "not looked for: bark-serve[watermark] is missing")
    mark = Watermark()
    confidence = mark.confidence(samples, rate)
    told = f"confidence {confidence:.2f}"
    if confidence < FOUND:
        if claimed is None:
            return Finding("watermark", "absent", f"none is found, {told}")
        return Finding("watermark", "differs", f"{claimed} is claimed, and not found, {told}")
    if facts is not None and claimed is None:
        return Finding("watermark", "differs", f"found, {told}; the manifest names none")
    if claimed not in (None, mark.name):
        return Finding("watermark", "differs", f"{claimed}, here {mark.name}")
    return Finding("watermark", "same", f"{mark.name} is found, {told}")


def _signature(data: bytes, anchors: bytes | None, generation_id: str | None) -> Finding:
    """Check who signed the file, and that it is as it was then.

    Args:
        generation_id: which the label names.
    """
    if not is_installed():
        return Finding("credentials", "absent", "not looked for: bark-serve[c2pa] is missing")
    found = read_credentials(data, anchors)
    if found.state == "none":
        return Finding("credentials", "absent", "it is not signed")
    if found.state == "invalid":
        problems = ", ".join(found.problems) or "the signature does not hold"
        return Finding("credentials", "differs", f"changed since it was signed: {problems}")
    signer = found.signer or "nobody named"
    if found.generation_id is not None and found.generation_id != generation_id:
        return Finding(
            "credentials", "differs", f"{signer} signed generation {found.generation_id}"
        )
    trust = "trusted" if found.is_trusted else "whom no anchor vouches for"
    return Finding("credentials", "same", f"signed by {signer}, {trust}; untouched since")


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
    if speed != 1 and len(clip.segments) > 1:  # a stream changes it segment by segment
        stream = StreamEncoder(audio_format, clip.sample_rate, label)
        silence = np.zeros(round(clip.request.silence_s * clip.sample_rate / speed), np.float32)
        pieces = []
        for number, segment in enumerate(clip.segments):
            pieces.append(stream.write(silence) if number and len(silence) else b"")
            sound = change_speed(segment.sound.samples, clip.sample_rate, speed)
            pieces.append(stream.write(sound))
        yield b"".join(pieces) + stream.close()


def _difference(clip: Clip, samples: NDArray[np.float32], rate: int, speed: float) -> str:
    seconds, wanted = len(samples) / rate, clip.duration_s / speed
    if abs(seconds - wanted) > _PADDING_S:
        return f"{seconds:.2f} s long, the clip {wanted:.2f} s: cut, or at another --speed"
    return f"{seconds:.2f} s, sample by sample"


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_short(digest)}" for name, digest in value.items()) or "none"
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)
