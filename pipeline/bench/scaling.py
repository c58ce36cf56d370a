"""How speed grows with slots, and what a request's settings cost: `bench --suite scaling`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import numpy as np

from pipeline.bark import Bark
from pipeline.bench.child import note
from pipeline.bench.figures import STAGES, Json
from pipeline.bench.ours import request, together
from pipeline.bench.workload import Work, text
from pipeline.payloads import HistoryPrompt
from pipeline.spec import BarkSpec

# Beyond the knee, twice the slots give less than this much more sound a second.
KNEE_GAIN = 1.1
_VOICE_SECONDS = (3.0, 15.0)
_WORDS = (3, 12, 24)  # all of them one segment


def scaling(
    *,
    path: str,
    precision: str,
    device: str,
    backend: str,
    slots: list[int],
    work: Json,
    warm_up: Json,
) -> Json:
    """Measure full engines of each number of slots, then single requests of each setting.

    Returns:
        `slots`: N → figures of N requests at once in N slots, with `cost_s`, each stage's
        device-seconds per second of sound; `knee`: an N; `settings`: name and value → seconds of
        one request, whole and by stage.
    """
    clip, short = Work(**work), Work(**warm_up)
    load = partial(Bark.load, path, device=device, precision=precision, backend=backend)
    by_slots: Json = {}
    for number in sorted(slots):
        with load(slots=number) as bark:
            bark.generate_many([request(n, short) for n in range(number)])
            found = together(bark, clip, number)
        found["cost_s"] = {
            stage: found["device_s"][stage] / (number * clip.seconds) for stage in STAGES
        }
        by_slots[str(number)] = found
        note(f"{number} slots: {found['audio_s_per_s']:.2f} s of sound a second")
    settings: Json = {}
    with load(slots=1) as bark:
        bark.generate(**request(0, short))
        for name, fields, asked in _requests(bark.spec, clip, short):
            began = time.perf_counter()
            made = bark.generate(**request(1, asked) | fields)
            total_s = time.perf_counter() - began
            stages = {report.stage: report.device_s for report in made.reports}
            settings[name] = {"total_s": total_s, "seconds": asked.seconds, "device_s": stages}
            note(f"{name}: {total_s:.2f} s")
    return {"slots": by_slots, "knee": knee(by_slots), "settings": settings}


def knee(by_slots: Json) -> int:
    """Return the number of slots from which on the next larger one gains too little."""
    numbers = sorted(map(int, by_slots))
    for fewer, more in pairwise(numbers):
        gain = by_slots[str(more)]["audio_s_per_s"] / by_slots[str(fewer)]["audio_s_per_s"]
        if gain < KNEE_GAIN:
            return fewer
    return numbers[-1]


def _requests(spec: BarkSpec, clip: Work, short: Work) -> Iterator[tuple[str, Json, Work]]:
    """Yield each setting's name, the request's fields, and its work."""
    yield "defaults", {}, clip
    for seconds in _VOICE_SECONDS:
        yield f"voice of {seconds:g} s", {"voice": _voice(spec, seconds).as_mapping()}, clip
    coarse = spec.coarse
    room = coarse.gpt.block_size - coarse.semantic_length - coarse.max_history
    for window in (coarse.window // 3, min(room, 2 * coarse.window)):
        yield f"coarse.window {window}", {"coarse": {"window": window}}, clip
    for history in (coarse.window, coarse.max_history // 2):
        yield f"coarse.max_history {history}", {"coarse": {"max_history": history}}, clip
    for words in _WORDS:
        said = (text(words).split()[:-1] * words)[:words]
        yield f"text of {words} words", {"text": " ".join(said)}, short


def _voice(spec: BarkSpec, seconds: float) -> HistoryPrompt:
    """Return a preset of random tokens, as long as asked."""
    rng = np.random.default_rng(0)
    semantic = rng.integers(0, spec.semantic.vocab_size, round(seconds * spec.semantic.rate_hz))
    frames = spec.num_frames(len(semantic))
    fine = rng.integers(0, spec.codebook_size, (spec.fine.num_codebooks, frames), np.int32)
    return HistoryPrompt(semantic, fine[: spec.coarse.num_codebooks], fine)
