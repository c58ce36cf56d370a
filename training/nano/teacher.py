"""The teacher: hibari-tts says a text, and tells when it says which phoneme.

hibari-tts 0.2.1 (Apache-2.0; distilled from Kokoro-82M, Apache-2.0) is a small feed-forward
synthesiser. Its durations are inside its graph; they are made an output here, nothing is trained
or changed. The second voice is the same sound played 0.82 times as fast, spoken faster to begin
with: pitch and formants are lower, the pace is the same.
"""

from __future__ import annotations

import re
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
# Silence kept around what is said: enough to join segments, no more to learn.
_BEFORE_S, _AFTER_S = 0.08, 0.12
# A jingle of four bells; each is a symbol of its own beside the phonemes.
_NOTES_HZ: Final = (523.25, 659.26, 783.99, 1046.5)
NOTE_SYMBOLS: Final = tuple(f"♪{i}" for i in range(len(_NOTES_HZ)))
_NOTE_S: Final = 0.18

Samples = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """One text said.

    samples: float32 [N], 24 kHz. symbols: phonemes (or notes) in order. ends_s: float64, when
    each symbol ends; the last is the clip's end.
    """

    text: str
    voice: str
    samples: Samples
    symbols: tuple[str, ...]
    ends_s: NDArray[np.float64]


class Teacher:
    """hibari on one thread."""

    def __init__(self) -> None:
        import onnx
        import onnxruntime
        from hibari import Hibari

        self._hibari: Any = Hibari(threads=1)
        self._symbols = {index: symbol for symbol, index in self._hibari.vocab.items()}
        graph: Any = onnx.load(Path(self._hibari.model_path))
        graph.graph.output.append(
            onnx.helper.make_tensor_value_info(_DURATIONS, onnx.TensorProto.FLOAT, None)
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._letters: dict[str, str] = {}

    def __call__(self, text: str, voice: str = "heart", seed: int = 0) -> Clip:
        """Say a text; ♪ in it is played. The seed decides the breath in the voice."""
        clips = []
        for part in re.split(f"({JINGLE})", text):
            if part == JINGLE:
                clips.append(_jingle())
            elif part.strip():
                clips.append(self._say(part.strip(), voice, seed))
        return Clip(
            text,
            voice,
            np.concatenate([clip.samples for clip in clips]),
            tuple(symbol for clip in clips for symbol in clip.symbols),
            np.concatenate(
                [
                    clip.ends_s + sum(len(earlier.samples) for earlier in clips[:i]) / RATE_HZ
                    for i, clip in enumerate(clips)
                ]
            ),
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

        rate = _PLAYBACK[voice]
        ids = self._hibari.ids(self.phonemes(text))
        outputs = self._session.run(
            None,
            {"ids": np.asarray([ids], np.int64), "speed": np.asarray([1 / rate], np.float32)},
        )
        spectrum = [output[0] for output in outputs[:6]]
        samples = dsp.synth(*spectrum, np.random.default_rng(seed)).astype(np.float32)
        ends_s = np.cumsum(outputs[6].reshape(-1).astype(np.float64)) * _UNIT_S
        assert abs(ends_s[-1] - len(samples) / RATE_HZ) < 0.01, "the durations are not the sound's"
        if rate != 1.0:
            samples = soxr.resample(samples, RATE_HZ * rate, RATE_HZ)
            ends_s = ends_s / rate
        symbols = tuple(self._symbols.get(index, "_") for index in ids)  # "_" is hibari's pad
        return _trimmed(Clip(text, voice, samples, symbols, ends_s))


def _trimmed(clip: Clip) -> Clip:
    """Cut the silence at both ends, and bring what is left to the common level."""
    hop = RATE_HZ // 100
    frames = clip.samples[: len(clip.samples) // hop * hop].reshape(-1, hop)
    rms = np.sqrt((frames**2).mean(axis=1))
    loud = np.flatnonzero(rms > 0.02 * rms.max())
    first = max(0, int(loud[0] * hop - _BEFORE_S * RATE_HZ))
    last = min(len(clip.samples), int((loud[-1] + 1) * hop + _AFTER_S * RATE_HZ))
    level = float(np.sqrt((frames[rms > 0.1 * rms.max()] ** 2).mean()))
    samples = clip.samples[first:last] * np.float32(_LEVEL / level)
    peak = float(np.abs(samples).max())
    if peak > 0.95:
        samples *= np.float32(0.95 / peak)
    ends_s = np.clip(clip.ends_s - first / RATE_HZ, 0.0, len(samples) / RATE_HZ)
    ends_s[-1] = len(samples) / RATE_HZ
    return Clip(clip.text, clip.voice, samples, clip.symbols, ends_s)


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
    return Clip(JINGLE, "", sound.astype(np.float32), NOTE_SYMBOLS, np.cumsum(lengths))
