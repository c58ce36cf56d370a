"""Low priority: it waits, gives its slot away, and still gets its own tokens."""

import asyncio
import subprocess
import sys
import time

import pytest
from fake_runner import FakeRunner, LateRunner
from test_engine import alone, sequence

from pipeline.engine.async_engine import AsyncEngine
from pipeline.engine.engine import Engine
from pipeline.engine.precedence import Precedence


def low_ones(count: int) -> list:
    return [sequence(seed, is_low=True) for seed in range(count)]


@pytest.mark.parametrize(
    "runner", [FakeRunner(num_slots=3), LateRunner(num_slots=3, steps_ahead=3)], ids=["now", "late"]
)
def test_others_pass_and_what_they_interrupt_is_made_as_if_alone(runner):
    engine = Engine(runner)
    lows, others = low_ones(5), [sequence(seed) for seed in range(10, 14)]
    for one in lows:
        engine.submit(one)
    for _ in range(7):
        engine.step()
    assert any(one.tokens for one in lows)
    for one in others:
        engine.submit(one)
    while not all(one.result.done() for one in others):
        finished = [one for one in lows if one.result.done()]
        engine.step()
        assert [one for one in lows if one.result.done()] == finished  # they stand still
    engine.run_until_done()
    for seed, one in enumerate(lows):
        assert one.tokens == alone(seed)
    for seed, one in zip(range(10, 14), others, strict=True):
        assert one.tokens == alone(seed)


def test_a_slot_is_taken_from_the_youngest():
    engine = Engine(FakeRunner(num_slots=2))
    first, second = low_ones(2)
    for one in (first, second):
        engine.submit(one)
    for _ in range(4):
        engine.step()
    begun = list(first.tokens)
    engine.submit(sequence(7))
    engine.step()
    assert (first.slot is not None, second.slot) == (True, None)
    assert first.tokens == begun
    assert second.tokens == []
    assert list(engine.scheduler.waiting) == [second]


HOLDER = """
import sys, time
from pathlib import Path
from pipeline.engine.precedence import Precedence
Precedence("test", Path(sys.argv[1])).claim()
print("held", flush=True)
time.sleep(60)
"""


def test_low_work_waits_for_another_process_and_not_for_one_that_died(tmp_path):
    engine = AsyncEngine(Engine(FakeRunner(), Precedence("test", tmp_path)))
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"

        async def main():
            waits = asyncio.create_task(engine.run(sequence(3, is_low=True)))
            assert (await engine.run(sequence(4))).tokens == alone(4)
            await asyncio.sleep(0.3)
            assert not waits.done()
            holder.kill()
            return await asyncio.wait_for(waits, 10)

        assert asyncio.run(main()).tokens == alone(3)
    engine.close()


def test_a_claim_outlasts_the_work_by_a_moment(tmp_path):
    ours, other = Precedence("test", tmp_path), Precedence("test", tmp_path)
    assert other.low_may_run()
    ours.claim()
    ours.yield_soon()
    assert not other.low_may_run()
    assert not ours.low_may_run()
    ours.claim()  # the next request is here
    time.sleep(0.1)
    assert not other.low_may_run()
    ours.yield_soon()
    time.sleep(0.1)
    assert ours.low_may_run()
    assert other.low_may_run()
    assert not ours.asks_again
