"""The order of the stages, over stages that only write down how they were called."""

import asyncio
import re
import threading

import numpy as np
import pytest

from pipeline.errors import DeadlineExceeded, InvalidRequest, ModelChanged
from pipeline.payloads import (
    CoarseCodes,
    FineCodes,
    HistoryPrompt,
    SemanticTokens,
    StageReport,
    TextTokens,
    Waveform,
)
from pipeline.request import SynthesisRequest
from pipeline.spec import BarkSpec
from pipeline.synthesis import synthesize

SPEC = BarkSpec()
LONG = "This is the first sentence of a long text, which goes on for a good while. " * 12


class FakeStages:
    """Semantic token values are the text's length; later stages pass a number on."""

    spec = SPEC

    def __init__(self, tokens=40):
        self.tokens, self.seen, self.running = tokens, [], 0
        self.cancelled = 0
        self.late: str | None = None

    def count_tokens(self, text):
        return len(re.findall(r"\w+", text))

    def text(self, text):
        return TextTokens(np.full(256, len(text), np.int64), self.count_tokens(text))

    async def semantic(self, text, history, settings, call):
        self.seen.append(("semantic", call.segment, history))
        try:
            # later segments are done sooner, so that order is put to the test
            await asyncio.sleep(0.03 / (1 + call.segment))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.late == "semantic":
            raise DeadlineExceeded("late")
        ids = np.full(self.tokens, call.segment, np.int64)
        return SemanticTokens(ids), StageReport("semantic", 0.0, 1.0)

    async def coarse(self, semantic, history, settings, call):
        self.seen.append(("coarse", call.segment, history))
        frames = SPEC.num_frames(len(semantic.ids))
        codes = np.full((2, frames), semantic.ids[0], np.int32)
        return CoarseCodes(codes), StageReport("coarse", 0.0, 2.0)

    async def fine(self, coarse, history, settings, call):
        self.seen.append(("fine", call.segment, history))
        codes = np.repeat(coarse.codes[:1], 8, axis=0)
        return FineCodes(codes), StageReport("fine", 0.0, 3.0)

    async def codec(self, fine, call):
        samples = np.full(fine.codes.shape[1] * 320, fine.codes[0, 0], np.float32)
        return Waveform(samples, 24_000), StageReport("codec", 0.0, 4.0)


def run(stages, *, histories=None, first_alone=False, finish=None, **fields):
    request = SynthesisRequest.parse(fields)

    async def main():
        histories_ = histories or [None] * len(request.all_turns)
        return [
            result
            async for result in synthesize(
                request, histories_, 1, stages, first_alone=first_alone, finish=finish
            )
        ]

    return asyncio.run(main())


def preset(value):
    return HistoryPrompt(
        np.full(100, value, np.int64),
        np.full((2, 150), value, np.int32),
        np.full((8, 150), value, np.int32),
    )


def test_segments_come_out_in_order_however_long_they_take():
    results = run(FakeStages(), text=LONG)
    assert len(results) > 2
    assert [result.segment.index for result in results] == list(range(len(results)))
    assert [int(result.sound.samples[0]) for result in results] == list(range(len(results)))
    spoken = "".join(result.segment.text for result in results)
    assert spoken.replace(" ", "") == LONG.replace(" ", "")


def test_parallel_gives_every_segment_the_same_preset():
    stages, voice = FakeStages(), preset(5)
    run(stages, text=LONG, histories=[voice])
    assert {id(history) for _, _, history in stages.seen} == {id(voice)}


def test_chained_continues_from_the_segment_before():
    stages, voice = FakeStages(), preset(5)
    results = run(stages, text=LONG, long_form="chained", histories=[voice])
    given = {segment: history for stage, segment, history in stages.seen if stage == "fine"}
    assert given[0] is voice
    for index in range(1, len(results)):
        assert given[index] is results[index - 1].tokens


def test_chained_goes_on_from_the_last_usable_segment():
    """A run of 7 tokens is no preset by the original's own ratio rule."""
    stages, voice = FakeStages(tokens=7), preset(5)
    run(stages, text=LONG, long_form="chained", histories=[voice])
    assert {id(history) for _, _, history in stages.seen} == {id(voice)}


def test_dialogue_gives_each_turn_its_voice():
    stages = FakeStages()
    one, two = preset(1), preset(2)
    turns = [{"text": "Hello.", "voice": "one"}, {"text": "Good day.", "voice": "two"}]
    results = run(stages, turns=turns, long_form="chained", histories=[one, two])
    given = {segment: history for stage, segment, history in stages.seen if stage == "semantic"}
    assert (given[0], given[1]) == (one, two)
    assert [result.segment.turn for result in results] == [0, 1]


def test_model_that_says_nothing_is_silence():
    (result,) = run(FakeStages(tokens=0), text="Hello.")
    assert result.sound.samples.tolist() == [0.0] * 320
    assert result.tokens.fine.shape == (8, 0)
    assert [report.stage for report in result.reports] == ["semantic"]


def test_an_error_cancels_the_segments_in_flight():
    stages = FakeStages()
    stages.late = "semantic"
    with pytest.raises(DeadlineExceeded):
        run(stages, text=LONG)
    assert stages.cancelled + len([s for s in stages.seen if s[0] == "semantic"]) > 2


def test_leaving_early_cancels_what_is_in_flight():
    stages = FakeStages()
    request = SynthesisRequest.parse({"text": LONG * 3})

    async def main():
        results = synthesize(request, [None], 1, stages)
        task = asyncio.create_task(anext(results))
        while not stages.seen:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.05)

    asyncio.run(main())
    assert stages.cancelled > 0
    assert not [stage for stage, *_ in stages.seen if stage == "fine"]


def test_progress_names_stage_and_segment():
    seen = []

    class Reporting(FakeStages):
        async def codec(self, fine, call):
            call.on_progress(1, 1)
            return await super().codec(fine, call)

    async def main():
        request = SynthesisRequest.parse({"text": "Hello."})
        stages = Reporting()
        async for _ in synthesize(request, [None], 1, stages, progress=lambda *a: seen.append(a)):
            pass

    asyncio.run(main())
    assert seen == [("text", 0, 1, 1), ("codec", 0, 1, 1)]


def test_text_without_words_is_refused_before_any_stage_runs():
    stages = FakeStages()
    with pytest.raises(InvalidRequest):
        run(stages, text="  ")
    assert not stages.seen


def test_the_first_segment_can_go_alone():
    stages = FakeStages()
    results = run(stages, text=LONG, first_alone=True)
    assert [r.segment.index for r in results] == list(range(len(results)))
    order = [(stage, segment) for stage, segment, _ in stages.seen]
    assert order[:3] == [("semantic", 0), ("coarse", 0), ("fine", 0)]
    together = order[3 : 2 + len(results)]
    assert {stage for stage, _ in together} == {"semantic"}  # the others, all at once


def test_a_segment_whose_model_goes_starts_over_with_the_next():
    class Rolling(FakeStages):
        models = iter(["old", "new"])

        async def semantic(self, text, history, settings, call):
            tokens, report = await super().semantic(text, history, settings, call)
            return SemanticTokens(tokens.ids, "stop", next(self.models)), report

        async def coarse(self, semantic, history, settings, call):
            if semantic.model_digest == "old":
                raise ModelChanged("gone")
            return await super().coarse(semantic, history, settings, call)

    (result,) = run(Rolling(), text="Hello.")
    assert result.model_digest == "new"
    assert [report.stage for report in result.reports] == ["semantic", "coarse", "fine", "codec"]


def test_each_segment_is_finished_once_off_the_event_loop():
    stages, seen = FakeStages(), []

    def finish(sound):
        seen.append(threading.current_thread())
        return Waveform(sound.samples + 1, sound.sample_rate)

    plain, finished = run(stages, text=LONG), run(stages, text=LONG, finish=finish)
    assert len(seen) == len(finished) > 1
    assert threading.main_thread() not in seen
    for before, after in zip(plain, finished, strict=True):
        assert np.array_equal(after.sound.samples, before.sound.samples + 1)
        assert np.array_equal(after.tokens.fine, before.tokens.fine)


def test_a_segment_without_words_is_finished_too():
    (result,) = run(FakeStages(tokens=0), text="Hello.", finish=lambda sound: sound)
    assert not result.sound.samples.any()
