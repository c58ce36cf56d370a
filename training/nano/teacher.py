"""The teacher: hibari-tts says a text, and tells when it says which phoneme.

hibari-tts 0.2.1 (Apache-2.0; distilled from Kokoro-82M, Apache-2.0) is a small feed-forward
synthesiser. Its durations are inside its graph; they are made an output here, nothing is trained
or changed. The second voice is the same sound played 0.82 times as fast, spoken faster to begin
with: pitch and formants are lower, the pace is the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import soxr
from numpy.typing import NDArray

from training.nano.words import JINGLE, spelt_out

RATE_HZ: Final = 24_000
VOICES: Final = ("heart", "oak")  # hibari's own, and the lower one
_PLAYBACK: Final = {"heart": 1.0, "oak": 0.82}
_DURATIONS: Final = "/Clip_output_0"  # per phoneme, in units of two frames of 12.5 ms
_UNIT_S: Final = 2 / 80
_LEVEL: Final = 0.08  # rms of what is not silence
# hibari begins with 0.3 to 0.4 s of silence, its first symbol, and ends with as much. So much is
# kept before the second symbol, and so much cut at the end: about 0.1 s of silence stay at both
# ends, enough to join segments. By durations and not by sound, since texts without sound are
# learnt from as well.
_BEFORE_S, _CUT_AT_END_S = 0.13, 0.28
# A jingle of four bells; each is a symbol of its own beside the phonemes.
_NOTES_HZ: Final = (523.25, 659.26, 783.99, 1046.5)
NOTE_SYMBOLS: Final = tuple(f"♪{i}" for i in range(len(_NOTES_HZ)))
_NOTE_S: Final = 0.18

Samples = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Timing:
    """When a text says what.

    symbols: phonemes (or notes) in order. ends_s: float64, when each ends; the last is the end.
    """

    text: str
    symbols: tuple[str, ...]
    ends_s: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Clip(Timing):
    """One text said: samples float32 [N], 24 kHz, as long as its timing says."""

    voice: str
    samples: Samples


class Teacher:
    """hibari on one thread: the sound of a text, or only its timing, which is 20 times faster."""

    def __init__(self) -> None:
        import onnx
        from hibari import Hibari

        self._hibari: Any = Hibari(threads=1)
        self._symbols = {index: symbol for symbol, index in self._hibari.vocab.items()}
        graph: Any = onnx.load(Path(self._hibari.model_path))
        extractor: Any = onnx.utils.Extractor(graph)
        self._timer = _session(extractor.extract_model(["ids", "speed"], [_DURATIONS]))
        graph.graph.output.append(
            onnx.helper.make_tensor_value_info(_DURATIONS, onnx.TensorProto.FLOAT, None)
        )
        self._session = _session(graph)
        self._letters: dict[str, str] = {}

    def __call__(self, text: str, voice: str = "heart", seed: int = 0) -> Clip:
        """Say a text; ♪ in it is played. The seed decides the breath in the voice."""
        clips = [
            _jingle() if part == JINGLE else self._say(part, voice, seed) for part in _parts(text)
        ]
        timing = _joined(text, clips)
        samples = np.concatenate([clip.samples for clip in clips])
        return Clip(text, timing.symbols, timing.ends_s, voice, samples)

    def timing(self, text: str, voice: str = "heart") -> Timing:
        """Tell when a text would say what: the timing of the clip, without its sound."""
        return _joined(
            text,
            [
                _jingle() if part == JINGLE else _trimmed(self._timing(part, voice))
                for part in _parts(text)
            ],
        )

    def phonemes(self, text: str) -> str:
        """Return the phonemes of a text, unknown words spelt letter by letter."""
        said, words = "", ""
        for part in [*spelt_out(text), "="]:
            if part.startswith("=") and part != "=":
                words += part[1:]
                continue
            if words.strip():
                lead = " " if words[0] == " " else ""
                said += lead + self._hibari.g2p(words.strip())
                said += " " if words.endswith(" ") else ""
            elif words:
                said += " "
            words = ""
            if part != "=":
                said += ("" if not said or said[-1] == " " else " ") + self._letter(part)
        return said

    def _letter(self, letter: str) -> str:
        if letter not in self._letters:
            self._letters[letter] = self._hibari.g2p(f"{letter},").rstrip(",")
        return self._letters[letter]

    def _say(self, text: str, voice: str, seed: int) -> Clip:
        from hibari import dsp

        whole = self._timing(text, voice)
        outputs = self._session.run(None, self._inputs(text, voice))
        spectrum = [output[0] for output in outputs[:6]]
        samples = dsp.synth(*spectrum, np.random.default_rng(seed)).astype(np.float32)
        if (rate := _PLAYBACK[voice]) != 1.0:
            samples = soxr.resample(samples, RATE_HZ * rate, RATE_HZ)
        length_s = len(samples) / RATE_HZ
        assert abs(whole.ends_s[-1] - length_s) < 0.01, "the durations are not the sound's"
        timing, first = _trimmed(whole), round(_start_s(whole) * RATE_HZ)
        samples = _levelled(samples[first : first + round(timing.ends_s[-1] * RATE_HZ)])
        return Clip(text, timing.symbols, timing.ends_s, voice, samples)

    def _timing(self, text: str, voice: str) -> Timing:
        inputs = self._inputs(text, voice)
        (durations,) = self._timer.run(None, inputs)
        ends_s = np.cumsum(durations.reshape(-1).astype(np.float64)) * _UNIT_S / _PLAYBACK[voice]
        symbols = (self._symbols.get(int(index), "_") for index in inputs["ids"][0])
        return Timing(text, tuple(symbols), ends_s)  # "_" is hibari's pad

    def _inputs(self, text: str, voice: str) -> dict[str, Any]:
        ids = self._hibari.ids(self.phonemes(text))
        speed = 1 / _PLAYBACK[voice]
        return {"ids": np.asarray([ids], np.int64), "speed": np.asarray([speed], np.float32)}


def _session(graph: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _parts(text: str) -> list[str]:
    """Part what is said from what is played."""
    return [part.strip() for part in re.split(f"({JINGLE})", text) if part.strip()]


def _joined(text: str, parts: Sequence[Timing]) -> Timing:
    starts_s = np.cumsum([0.0, *(part.ends_s[-1] for part in parts)])
    return Timing(
        text,
        tuple(symbol for part in parts for symbol in part.symbols),
        np.concatenate([part.ends_s + s for part, s in zip(parts, starts_s, strict=False)]),
    )


def _start_s(timing: Timing) -> float:
    return max(0.0, float(timing.ends_s[0]) - _BEFORE_S)


def _trimmed(timing: Timing) -> Timing:
    """Cut most of the silence at both ends."""
    first_s = _start_s(timing)
    length_s = float(timing.ends_s[-1]) - _CUT_AT_END_S - first_s
    return Timing(timing.text, timing.symbols, np.clip(timing.ends_s - first_s, 0.0, length_s))


def _levelled(samples: Samples) -> Samples:
    """Bring what is not silence to the common level."""
    hop = RATE_HZ // 100
    frames = samples[: len(samples) // hop * hop].reshape(-1, hop)
    rms = np.sqrt((frames**2).mean(axis=1))
    level = float(np.sqrt((frames[rms > 0.1 * rms.max()] ** 2).mean()))
    peak = float(np.abs(samples).max())
    return samples * np.float32(min(_LEVEL / level, 0.95 / peak))


def _jingle() -> Clip:
    """Four bells going up, the last one longest; the same in every voice."""
    lengths = np.array([_NOTE_S, _NOTE_S, _NOTE_S, 2 * _NOTE_S])
    starts = np.concatenate([[0.0], np.cumsum(lengths)[:-1]])
    time = np.arange(int(lengths.sum() * RATE_HZ)) / RATE_HZ
    sound = np.zeros_like(time)
    for start, pitch in zip(starts, _NOTES_HZ, strict=True):
        after = np.maximum(time - start, 0.0)
        fade = np.minimum(after / 0.005, 1.0) * np.exp(-after / 0.12) * (time >= start)
        for partial, weight in ((1.0, 1.0), (2.0, 0.35), (3.0, 0.12)):
            sound += weight * fade * np.sin(2 * np.pi * pitch * partial * after)
    sound *= np.minimum((time[-1] - time) / 0.03, 1.0)  # no click at the end
    sound *= 0.12 / np.sqrt((sound**2).mean())
    return Clip(JINGLE, NOTE_SYMBOLS, np.cumsum(lengths), "", sound.astype(np.float32))
