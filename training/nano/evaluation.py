"""What nano says, judged: by a recogniser, by the teacher's durations, by a measure of voices.

Every score stands beside two controls, the teacher's own and that of noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from training.nano.held_out import held_out
from training.nano.recogniser import Recogniser, accuracy
from training.nano.speaker import Speakers
from training.nano.teacher import RATE_HZ, VOICES, Clip, Teacher
from training.nano.words import split_words

if TYPE_CHECKING:
    from pipeline.bark import Bark
    from pipeline.clip import Clip as Spoken


_WORDS_WITHIN = 0.08  # behind the teacher's


@dataclass(frozen=True, slots=True)
class Scores:
    """Shares in 0…1, but for the counts.

    digits, words: heard right, of those said. Each beside the teacher's and noise's.
    durations: clips within 20 % of the teacher's. endless: clips cut off at the model's limit.
    voices: clips told to be of the voice whose preset was used.
    """

    digits: float
    teacher_digits: float
    noise_digits: float
    words: float
    teacher_words: float
    durations: float
    endless: int
    voices: float
    teacher_voices: float
    num_clips: int
    num_digits: int
    num_words: int

    def failures(self) -> list[str]:
        """Return what falls short of the gates, in words."""
        gates = (
            (self.teacher_digits >= 0.97, "the recogniser fails on the teacher's digits"),
            (self.noise_digits < 0.2, "the recogniser hears digits in noise"),
            (self.digits >= 0.97, f"digits {self.digits:.1%}, wanted 97 %"),
            (
                self.words >= self.teacher_words - _WORDS_WITHIN,
                f"words {self.words:.1%}, the teacher's {self.teacher_words:.1%}",
            ),
            (self.durations >= 0.95, f"durations {self.durations:.1%} within 20 %, wanted 95 %"),
            (not self.endless, f"{self.endless} clips without an end"),
            (self.voices >= 0.95, f"voices {self.voices:.1%}, wanted 95 %"),
        )
        return [message for is_met, message in gates if not is_met]

    def as_dict(self) -> dict[str, Any]:
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}


class Judge:
    """The recognisers, the teacher and its voices; costly to make, used for many models."""

    def __init__(self) -> None:
        self.teacher = Teacher()
        self._hear = {"digits": Recogniser.of_digits(), "words": Recogniser.of_words()}
        known = held_out("dev", "words", 24)
        self.speakers = Speakers.of(
            {v: [self.teacher(t, v).samples for t in known] for v in VOICES}
        )

    def score(
        self,
        bark: Bark,
        *,
        split: str = "test",
        count: int,
        every: int = 1,
        seeds: Iterable[int] = (1, 2, 3),
    ) -> Scores:
        """Let a model speak `count` texts of each kind once a seed, and half of them by voice.

        every: 5 takes every fifth text, a sample of all that five times as many would be.
        """
        seeds = tuple(seeds)
        texts = {kind: held_out(split, kind, count * every)[::every] for kind in self._hear}
        said = {kind: self._taught(texts[kind]) for kind in texts}
        made = {kind: speak(bark, texts[kind], seeds) for kind in texts}
        right: dict[str, float] = {}
        for kind, hear in self._hear.items():
            clips = [clip for some in made[kind] for clip in some]
            right[kind] = accuracy(texts[kind] * len(seeds), [hear(c.samples) for c in clips])
            taught = [clip for both in said[kind].values() for clip in both]
            right[f"teacher_{kind}"] = accuracy(
                [c.text for c in taught], [hear(c.samples) for c in taught]
            )
        first = said["digits"][VOICES[0]]
        noise = [_noise(len(clip.samples), i) for i, clip in enumerate(first)]
        hear = self._hear["digits"]
        durations, endless, number = self._ends(made, said)
        return Scores(
            digits=right["digits"],
            teacher_digits=right["teacher_digits"],
            noise_digits=accuracy(texts["digits"], [hear(sound) for sound in noise]),
            words=right["words"],
            teacher_words=right["teacher_words"],
            durations=durations,
            endless=endless,
            voices=self._voices_told(bark, [*texts["digits"], *texts["words"]], seeds[0]),
            teacher_voices=self._teacher_told(said["words"]),
            num_clips=number,
            num_digits=len(seeds) * sum(len(split_words(text)) for text in texts["digits"]),
            num_words=len(seeds) * sum(len(split_words(text)) for text in texts["words"]),
        )

    def heard(self, kind: str, samples: np.ndarray[Any, np.dtype[np.float32]]) -> list[str]:
        return self._hear[kind](samples)

    def _taught(self, texts: Sequence[str]) -> dict[str, list[Clip]]:
        return {voice: [self.teacher(text, voice) for text in texts] for voice in VOICES}

    def _ends(
        self, made: Mapping[str, list[list[Spoken]]], said: Mapping[str, dict[str, list[Clip]]]
    ) -> tuple[float, int, int]:
        """Return the share of durations near the teacher's, the endless clips, and all clips."""
        near = endless = number = 0
        for kind, rounds in made.items():
            for clips in rounds:
                for clip, taught in zip(clips, said[kind][VOICES[0]], strict=True):
                    want_s = len(taught.samples) / RATE_HZ
                    near += abs(clip.duration_s - want_s) <= 0.2 * want_s
                    endless += clip.finish_reason != "stop"
                    number += 1
        return near / number, endless, number

    def _voices_told(self, bark: Bark, texts: Sequence[str], seed: int) -> float:
        told = total = 0
        for place, voice in enumerate(VOICES):
            (clips,) = speak(bark, texts[place :: len(VOICES)], (seed,), voice=voice)
            told += sum(self.speakers.nearest(clip.samples) == voice for clip in clips)
            total += len(clips)
        return told / total

    def _teacher_told(self, said: Mapping[str, list[Clip]]) -> float:
        clips = [clip for some in said.values() for clip in some]
        return float(np.mean([self.speakers.nearest(c.samples) == c.voice for c in clips]))


def speak(
    bark: Bark, texts: Sequence[str], seeds: Iterable[int], voice: str | None = None
) -> list[list[Spoken]]:
    """Return the clips of all texts, seed by seed, at the model's default sampling."""
    return [
        bark.generate_many([{"text": text, "seed": seed, "voice": voice} for text in texts])
        for seed in seeds
    ]


def _noise(length: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    rng = np.random.default_rng(seed)
    return (0.08 * rng.standard_normal(length)).astype(np.float32)
