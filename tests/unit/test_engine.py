import numpy as np
import pytest
from fake_runner import FakeRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.counters import STEP_BOUNDS_S, Times
from pipeline.engine.engine import Engine
from pipeline.engine.sequence import Prompt, SamplingParams, Sequence
from pipeline.engine.uniforms import DrawKey
from pipeline.errors import Cancelled, DeadlineExceeded, EngineFailed


def sequence(seed: int, *, tokens: int = 12, prompt: int = 4, **fields) -> Sequence:
    params = SamplingParams(
        temperature=0.8,
        allowed=((0, 10),),
        stop_id=10,
        min_stop_p=0.6,
        max_tokens=tokens,
        top_k=7,
    )
    return Sequence(
        Prompt(np.arange(prompt) + seed % 3), params, DrawKey(seed, 0, 0).uniforms(tokens), **fields
    )


def alone(seed: int, **fields) -> list[int]:
    engine = Engine(FakeRunner())
    one = sequence(seed, **fields)
    engine.submit(one)
    engine.run_until_done()
    return one.tokens


def test_engine_equals_naive_generation():
    """The plain loop, written out: run the whole sequence anew for every token."""
    from pipeline.engine.sampler import next_token

    one = sequence(5)
    runner, tokens = FakeRunner(), []
    while len(tokens) < one.params.max_tokens:
        everything = np.concatenate([one.prompt.tokens, np.array(tokens, int)])
        logits = runner.extend(0, 0, everything, None)
        n = len(tokens)
        token = next_token(logits, 0, one.params, n, float(one.uniforms[n]))
        if token is None:
            break
        tokens.append(token)
    assert tokens == alone(5)
    assert len(tokens) > 2


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_tokens_do_not_depend_on_neighbours_slots_joining_or_cancelling(data):
    """Any schedule of arrivals and cancellations gives every survivor the tokens it has alone."""
    engine = Engine(FakeRunner(num_slots=data.draw(st.integers(1, 4), label="slots")))
    submitted: dict[int, Sequence] = {}
    for _ in range(data.draw(st.integers(5, 40), label="turns")):
        action = data.draw(st.sampled_from(["submit", "step", "step", "cancel"]))
        if action == "submit" and len(submitted) < 9:
            one = sequence(len(submitted))
            submitted[len(submitted)] = one
            engine.submit(one)
        elif action == "cancel" and submitted:
            submitted[data.draw(st.sampled_from(sorted(submitted)))].cancel()
        else:
            engine.step()
    engine.run_until_done()
    for seed, one in submitted.items():
        if one.result.exception() is None:
            assert one.tokens == alone(seed)
        else:
            assert isinstance(one.result.exception(), Cancelled)
    assert engine.scheduler.slots.num_free == engine.runner.num_slots


def test_batch_joins_and_leaves_at_every_step():
    runner = FakeRunner(num_slots=2)
    engine = Engine(runner)
    engine.submit(sequence(0, tokens=6))
    engine.step()
    engine.step()
    engine.submit(sequence(1, tokens=3))
    engine.run_until_done()
    rows = [rows for kind, rows in runner.calls if kind == "decode"]
    assert rows[0] == 1
    assert 2 in rows


def windowed(seed: int, moves: bool, tokens: int = 9) -> Sequence:
    head = np.array([7, 8, 9])

    def next_prompt(made):
        start = len(made) // 3 if moves else 0
        return Prompt(np.concatenate([head + start, np.array(made, int)]))

    params = SamplingParams(temperature=0.8, allowed=((0, 4), (4, 10)), max_tokens=tokens)
    uniforms = DrawKey(seed, 0, 1).uniforms(tokens)
    return Sequence(Prompt(head), params, uniforms, window=3, next_prompt=next_prompt)


def test_window_whose_prefix_stands_goes_on_without_a_prefill():
    runner = FakeRunner()
    engine = Engine(runner)
    one = windowed(1, moves=False)
    engine.submit(one)
    engine.run_until_done()
    assert [kind for kind, _ in runner.calls].count("extend") == 1
    assert one.stats.reused_positions == (3 + 3 - 1) + (3 + 6 - 1)


def test_window_that_moves_is_prefilled_from_the_first_changed_position():
    runner = FakeRunner()
    engine = Engine(runner)
    one = windowed(1, moves=True)
    engine.submit(one)
    engine.run_until_done()
    assert [rows for kind, rows in runner.calls if kind == "extend"] == [3, 6, 9]


def test_shared_prefix_is_reused_exactly():
    """A next prompt that shares two positions runs only the rest, with the same tokens out."""

    def generate(reuse: bool) -> tuple[list[int], int]:
        def next_prompt(made):
            return Prompt(np.array([7, 8, 5, 5, *made]))

        params = SamplingParams(temperature=0.8, allowed=((0, 10),), max_tokens=6)
        one = Sequence(
            Prompt(np.array([7, 8, 9])),
            params,
            DrawKey(3, 0, 1).uniforms(6),
            window=3,
            next_prompt=next_prompt,
        )
        engine = Engine(FakeRunner())
        engine.submit(one)
        while engine.has_work:
            if not reuse and one.needs_prefill:
                one.cached = []
            engine.step()
        return one.tokens, one.stats.prefilled_positions

    assert generate(True)[0] == generate(False)[0]
    assert generate(True)[1] == generate(False)[1] - 2


def test_alternating_ranges_draw_in_turn():
    engine = Engine(FakeRunner())
    one = windowed(2, moves=False)
    engine.submit(one)
    engine.run_until_done()
    assert all(token < 4 for token in one.tokens[::2])
    assert all(token >= 4 for token in one.tokens[1::2])
    assert one.finish_reason == "length"


def test_late_sequence_gets_deadline_exceeded_and_others_finish():
    engine = Engine(FakeRunner(num_slots=1))
    late, fine = sequence(1, deadline_s=0.0), sequence(2)
    engine.submit(late)
    engine.submit(fine)
    engine.run_until_done()
    assert isinstance(late.result.exception(), DeadlineExceeded)
    assert fine.result.result() is fine


def test_shares_of_the_steps_add_up_to_the_devices_time():
    runner = FakeRunner(num_slots=3)
    engine = Engine(runner)
    batch = [sequence(seed, tokens=5) for seed in range(4)]
    for one in batch:
        engine.submit(one)
    engine.run_until_done()
    shares = sum(one.stats.device_s for one in batch)
    steps = sum(kind != "rest" for kind, _ in runner.calls)
    assert shares == pytest.approx(steps * runner.busy_s)
    assert engine.busy_s == pytest.approx(shares)


def test_idle_engine_lets_its_cache_go():
    runner = FakeRunner(num_slots=2)
    engine = Engine(runner)
    for seed in range(3):
        engine.submit(sequence(seed))
    engine.run_until_done()
    assert [kind for kind, _ in runner.calls].count("rest") == 1
    assert runner.calls[-1] == ("rest", 0)


def test_fail_all_reaches_waiting_and_running():
    engine = Engine(FakeRunner(num_slots=1))
    batch = [sequence(seed) for seed in range(3)]
    for one in batch:
        engine.submit(one)
    engine.step()
    engine.fail_all(EngineFailed("broken"))
    for one in batch:
        with pytest.raises(EngineFailed):
            one.result.result()
    assert not engine.has_work


def test_rules_that_raise_end_their_own_sequence_alone():
    def broken(*_):
        raise KeyError("the caller's own mistake")

    engine = Engine(FakeRunner(num_slots=2))
    wrong, fine = sequence(1, on_token=broken), sequence(2)
    engine.submit(wrong)
    engine.submit(fine)
    engine.run_until_done()
    with pytest.raises(EngineFailed, match="KeyError"):
        wrong.result.result()
    assert fine.result.result().tokens == alone(2)
    assert engine.scheduler.slots.num_free == 2


def test_logits_that_are_no_numbers_are_an_error():
    class Broken(FakeRunner):
        def _logits(self, slot, stop):
            return super()._logits(slot, stop) * np.float32("nan")

    engine = Engine(Broken())
    one = sequence(1)
    engine.submit(one)
    engine.run_until_done()
    with pytest.raises(EngineFailed, match="no numbers"):
        one.result.result()


@pytest.mark.parametrize("ends", ["cancelled", "late"])
def test_steps_for_nobody_are_counted(ends, monkeypatch):
    engine, one = Engine(FakeRunner()), sequence(1, tokens=40)
    engine.submit(one)
    for _ in range(3):
        engine.step()
    assert engine.most_wasted_steps == 0
    real = engine.runner.decode

    def given_up_meanwhile(*arguments):
        if ends == "cancelled":
            one.cancel()
        else:
            one.deadline_s = 0.0
        return real(*arguments)

    monkeypatch.setattr(engine.runner, "decode", given_up_meanwhile)
    engine.run_until_done()
    assert isinstance(
        one.result.exception(), Cancelled if ends == "cancelled" else DeadlineExceeded
    )
    assert engine.most_wasted_steps == one.wasted_steps == 1


def test_counters_agree_with_what_the_sequences_and_the_runner_saw():
    runner = FakeRunner(num_slots=2)
    engine = Engine(runner)
    given_up, late, wrong = sequence(1, tokens=40), sequence(2, deadline_s=0.0), sequence(3)
    wrong.on_token = lambda _: 1 // 0
    gone = sequence(9)
    gone.result.cancel()  # before the engine saw it
    done = [windowed(seed, moves=seed % 2 == 0) for seed in range(4)]
    for one in (given_up, late, wrong, gone, *done):
        engine.submit(one)
    engine.step()
    given_up.cancel()
    engine.run_until_done()
    found, seen = engine.counters, [given_up, wrong, *done]
    assert found.ended == {"finished": 4, "cancelled": 2, "late": 1, "failed": 1}
    assert found.tokens == sum(len(one.tokens) for one in seen)
    rows = [rows for kind, rows in runner.calls if kind == "decode"]
    assert (sum(found.steps.counts), found.batched_rows) == (len(rows), sum(rows))
    extended = [positions for kind, positions in runner.calls if kind == "extend"]
    assert sum(found.prefills.counts) == len(extended)
    assert found.prefilled_positions == sum(extended)
    assert found.reused_positions == sum(one.stats.reused_positions for one in seen) > 0
    assert found.steps.total_s > 0
    engine.submit(sequence(4))
    engine.fail_all(EngineFailed("broken"))
    assert found.ended["failed"] == 2


@pytest.mark.parametrize(
    ("seconds", "place"), [(0.0, 0), (0.0005, 0), (0.0006, 1), (30.0, 14), (31.0, 15)]
)
def test_times_are_counted_up_to_and_with_their_bound(seconds, place):
    times = Times()
    times.add(seconds)
    assert times.counts == [int(n == place) for n in range(len(STEP_BOUNDS_S) + 1)]
    assert times.total_s == seconds
