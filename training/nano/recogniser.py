"""What a speech recogniser hears: pocketsphinx with a grammar of digits or a list of words.

    python -m training.nano.recogniser demo.wav

A small recogniser, and an honest judge: it knows nothing of nano. Digits are told almost without
error; of free words, uniformly likely, it hears about four in five even from the teacher, so
scores of words only mean something beside the teacher's.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from training.nano.words import DIGITS, split_words, vocabulary

RATE_HZ = 16_000  # of pocketsphinx's models
Samples = NDArray[np.float32]


class Recogniser:
    """One decoder; not to be shared between threads.

    Raises:
        ImportError: pocketsphinx is not installed.
    """

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder

    @classmethod
    def of_digits(cls) -> Recogniser:
        """Hear nothing but digits, any number of them, "oh" not being one."""
        decoder = _decoder(lm=None)
        decoder.add_jsgf_string(
            "digits", f"#JSGF V1.0; grammar digits; public <string> = ({' | '.join(DIGITS)})+;"
        )
        decoder.activate_search("digits")
        return cls(decoder)

    @classmethod
    def of_words(cls, words: Iterable[str] | None = None) -> Recogniser:
        """Hear these words, each as likely as any other; without any, nano's vocabulary.

        A unigram model, since a grammar of 300 words takes pocketsphinx minutes.
        """
        listed = sorted(set(vocabulary() if words is None else words))
        with tempfile.NamedTemporaryFile("w", suffix=".arpa") as file:
            weight = -np.log10(len(listed) + 1)
            entries = [f"{weight:.4f} {word} 0" for word in listed]
            file.write(f"\\data\\\nngram 1={len(listed) + 2}\n\n\\1-grams:\n-99 <s> 0\n")
            file.write("\n".join([f"{weight:.4f} </s>", *entries, "", "\\end\\", ""]))
            file.flush()
            return cls(_decoder(lm=file.name))

    def __call__(self, samples: Samples, rate_hz: int = 24_000) -> list[str]:
        """Return the words heard in mono sound."""
        sound = soxr.resample(samples.astype(np.float64), rate_hz, RATE_HZ)
        silence = np.zeros(RATE_HZ // 5)
        sound = np.concatenate([silence, sound, silence])
        # Exact zeros upset the recogniser's logarithms.
        sound += np.random.default_rng(0).normal(0.0, 1e-4, len(sound))
        sound *= 0.6 / max(float(np.abs(sound).max()), 1e-6)
        self._decoder.start_utt()
        self._decoder.process_raw((sound * 32767).astype(np.int16).tobytes(), full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        heard = found.hypstr.split() if found else []
        return [re.sub(r"\(\d\)", "", word) for word in heard]


def edits(said: Sequence[str], heard: Sequence[str]) -> int:
    """Count the words to insert, delete or replace: Levenshtein's distance."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(said, start=1):
        previous, row = row, [i]
        for j, other in enumerate(heard, start=1):
            row.append(min(previous[j - 1] + (word != other), previous[j] + 1, row[-1] + 1))
    return row[-1]


def accuracy(said: Iterable[str], heard: Iterable[Sequence[str]]) -> float:
    """Return 1 - edits / words over many texts."""
    wrong = total = 0
    for text, words in zip(said, heard, strict=True):
        wanted = split_words(text)
        wrong, total = wrong + edits(wanted, words), total + len(wanted)
    return 1 - wrong / total


def _decoder(lm: str | None) -> Any:
    import pocketsphinx

    models = Path(pocketsphinx.__file__).parent / "model" / "en-us"
    return pocketsphinx.Decoder(
        hmm=str(models / "en-us"),
        dict=str(models / "cmudict-en-us.dict"),
        lm=lm,
        loglevel="FATAL",
        samprate=RATE_HZ,
    )


def main() -> None:
    """Print what is heard in each file named."""
    try:
        hear = Recogniser.of_words()
    except ImportError:
        sys.exit("pocketsphinx is not installed: pip install pocketsphinx")
    import soundfile

    for name in sys.argv[1:]:
        samples, rate_hz = soundfile.read(name, dtype="float32", always_2d=True)
        print(f"{name}: the recogniser heard “{' '.join(hear(samples.mean(axis=1), rate_hz))}”")


if __name__ == "__main__":
    main()
