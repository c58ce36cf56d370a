"""The engine over a device that draws by itself, and whose tokens are looked at some turns late."""

import asyncio

import numpy as np
import pytest
from fake_runner import FakeRunner, LateRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine import alone, sequence, windowed

from pipeline.engine.async_engine import AsyncEngine
from pipeline.engine.drawing import DrawingRunner
from pipeline.engine.engine import Engine
from pipeline.engine.sequence import Prompt
from pipeline.errors import Cancelled, DeadlineExceeded, EngineFailed


def run(engine, *batch):
    for one in batch:
        engine.submit(one)
    engine.run_until_done()
    return [one.tokens for one in batch]


KINDS = {
    "plain": sequence,
    "window moves": lambda seed: windowed(seed, moves=True),
    "window stands": lambda seed: windowed(seed, moves=False),
}
ALONE = {
    (kind, seed): run(Engine(FakeRunner()), make(seed))[0]
    for kind, make in KINDS.items()
    for seed in range(9)
}


def test_others_decode_between_the_pieces_of_a_long_prompt():
    runner = LateRunner(steps_ahead=1, prefill_piece=4)
    engine, short, long = Engine(runner), sequence(1), sequence(2)
    long.prompt = Prompt(np.arange(14) % 9)
    alone_tokens = {}
    for one in (short, long):
        twin = sequence(1 if one is short else 2)
        twin.prompt = one.prompt
        alone_tokens[one.id] = run(Engine(FakeRunner()), twin)[0]
    engine.submit(short)
    engine.step()
    engine.step()
    engine.submit(long)
    engine.run_until_done()
    assert [short.tokens, long.tokens] == list(alone_tokens.values())
    kinds = [kind for kind, slots in runner.told if kind == "step" or slots == [1]]
    first, last = kinds.index("prefill"), len(kinds) - 1 - kinds[::-1].index("prefill")
    between = kinds[first : last + 1]
    assert between.count("prefill") == 4  # 4, 4, 4 and 2 positions
    assert between.count("step") >= 3
    assert [rows for kind, rows in runner.model.calls if kind == "extend"][-4:] == [4, 4, 4, 2]
    assert (long.stats.prefills, long.stats.prefilled_positions) == (1, 14)


def test_pieces_end_where_they_do_alone_whatever_was_kept():
    """A window that moved begins within a piece; the next ones are where they were."""
    runner = LateRunner(steps_ahead=0, prefill_piece=3)
    moved = windowed(1, moves=True)
    run(Engine(runner), moved)
    extended = [rows for kind, rows in runner.model.calls if kind == "extend"]
    assert max(extended) <= 3
    assert moved.tokens == ALONE["window moves", 1]


def test_fake_device_is_what_the_engine_asks_for():
    assert isinstance(LateRunner(steps_ahead=1), DrawingRunner)
    assert not isinstance(FakeRunner(), DrawingRunner)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_tokens_do_not_depend_on_how_late_they_are_seen(data):
    """Any steps ahead, slots, pieces, arrivals, precedence, cancels, windows: the same tokens."""
    ahead = data.draw(st.integers(0, 5), label="steps ahead")
    runner = LateRunner(
        steps_ahead=ahead,
        num_slots=data.draw(st.integers(1, 4), label="slots"),
        is_prompt=data.draw(st.booleans(), label="is prompt"),
        prefill_piece=data.draw(st.sampled_from([None, 1, 2, 3]), label="positions of a piece"),
    )
    engine, submitted = Engine(runner), []
    for _ in range(data.draw(st.integers(5, 60), label="turns")):
        action = data.draw(st.sampled_from(["submit", "step", "step", "step", "cancel", "late"]))
        if action == "submit" and len(submitted) < 9:
            kind = data.draw(st.sampled_from(sorted(KINDS)))
            one = KINDS[kind](len(submitted))
            one.is_low = data.draw(st.booleans(), label="low priority")
            submitted.append((kind, one))
            engine.submit(one)
        elif action in ("cancel", "late") and submitted:
            _, one = submitted[data.draw(st.integers(0, len(submitted) - 1))]
            if action == "cancel":
                one.cancel()
            else:
                one.deadline_s = 0.0
        else:
            engine.step()
    engine.run_until_done()
    for seed, (kind, one) in enumerate(submitted):
        if one.result.exception() is None:
            assert one.tokens == ALONE[kind, seed]
        else:
            assert isinstance(one.result.exception(), Cancelled | DeadlineExceeded)
    assert engine.scheduler.slots.num_free == runner.num_slots
    assert runner.num_told == runner.num_done
    assert runner.deepest <= ahead + 1
    assert engine.most_wasted_steps <= ahead + 1
    shares = sum(one.stats.device_s for _, one in submitted)
    assert engine.busy_s == pytest.approx(shares)
    assert engine.busy_s + engine.surplus_s == pytest.approx(runner.num_told * 0.001)


def test_device_is_given_the_next_steps_before_the_first_ones_tokens_are_seen():
    runner = LateRunner(steps_ahead=3)
    engine, one = Engine(runner), sequence(5)
    engine.submit(one)
    for _ in range(3):
        engine.step()
    assert (runner.num_told, runner.num_done, one.tokens) == (3, 0, [])
    engine.step()
    assert (runner.num_told, runner.num_done, len(one.tokens)) == (4, 1, 1)


@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_steps_after_a_stop_are_dropped_and_are_nobodys(ahead):
    """The steps that were begun before the stop was seen, and no more; nobody is billed."""
    seed = next(s for s in range(9) if len(alone(s)) < 8)
    runner = LateRunner(steps_ahead=ahead)
    engine, one = Engine(runner), sequence(seed)
    run(engine, one)
    assert one.tokens == alone(seed)
    assert one.finish_reason == "stop"
    assert runner.num_told == len(one.tokens) + 1 + ahead  # the stop is drawn, too
    assert one.stats.device_s == pytest.approx(engine.busy_s)
    assert engine.surplus_s == pytest.approx(ahead * 0.001)
    assert [kind for kind, _ in runner.told].count("rest") == 1


def test_sequence_that_ends_by_length_has_no_steps_to_drop():
    runner = LateRunner(steps_ahead=4)
    one = windowed(2, moves=False, tokens=10)  # in the middle of a window
    run(Engine(runner), one)
    assert runner.num_told == one.params.max_tokens == len(one.tokens)


def test_end_of_a_window_keeps_its_own_sequence_waiting_alone():
    """Two slots: while one's next prompt waits for tokens, the other is in every step."""
    runner = LateRunner(steps_ahead=2, num_slots=2)
    other = sequence(next(s for s in range(50) if len(alone(s, tokens=30)) == 30), tokens=30)
    sliding = windowed(1, moves=True)
    run(Engine(runner), other, sliding)
    steps = [slots for kind, slots in runner.told if kind == "step"]
    assert all(0 in slots for slots in steps[: other.params.max_tokens - 1])
    # three tokens a window: one by the prefill, two by steps, then a wait
    shared = [1 in slots for slots in steps]
    assert shared[:8] == [True, True, False, False, True, True, False, False]


@pytest.mark.parametrize("ends", ["cancelled", "late"])
@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_given_up_sequence_leaves_its_slot_at_the_next_turn(ends, ahead):
    """Turns in flight still compute its row; the newcomer's prefill comes after them."""
    runner = LateRunner(steps_ahead=ahead, num_slots=1)
    engine = Engine(runner)
    gone, newcomer = sequence(5, tokens=40), sequence(6)
    engine.submit(gone)
    engine.submit(newcomer)
    for _ in range(ahead + 2):
        engine.step()
    if ends == "cancelled":
        gone.cancel()
    else:
        gone.deadline_s = 0.0
    engine.step()
    assert runner.told[-1][0] == "prefill"
    assert newcomer.slot == 0
    engine.run_until_done()
    assert newcomer.tokens == alone(6)
    assert engine.most_wasted_steps == gone.wasted_steps == ahead


def test_logits_that_are_no_numbers_end_their_own_sequence_alone():
    class Broken(FakeRunner):
        def _logits(self, slot, stop):
            return super()._logits(slot, stop) * np.float32("nan" if slot == 0 else 1)

    runner = LateRunner(steps_ahead=2, num_slots=2)
    runner.model = Broken(num_slots=2)
    wrong, fine = sequence(1), sequence(2)
    run(Engine(runner), wrong, fine)
    with pytest.raises(EngineFailed, match="no numbers"):
        wrong.result.result()
    assert fine.result.result().tokens == alone(2)


def test_device_error_that_comes_late_fails_everything_in_flight():
    runner = LateRunner(steps_ahead=3, num_slots=2)
    engine = AsyncEngine(Engine(runner))

    async def main():
        batch = [engine.run(sequence(seed)) for seed in range(3)]
        runner.model.error = RuntimeError("device lost")
        return await asyncio.gather(*batch, return_exceptions=True)

    assert all(isinstance(error, EngineFailed) for error in asyncio.run(main()))
    assert "device lost" in engine.thread.failure.message
    engine.close()  # its thread has ended
    assert not engine._engine.has_work


def test_many_tasks_share_a_late_engine():
    engine = AsyncEngine(Engine(LateRunner(steps_ahead=4, num_slots=3)))

    async def main():
        return await asyncio.gather(*(engine.run(sequence(seed)) for seed in range(12)))

    for seed, done in enumerate(asyncio.run(main())):
        assert done.tokens == alone(seed)
    engine.close()
