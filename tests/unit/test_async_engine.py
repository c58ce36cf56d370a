import asyncio
import threading

import pytest
from fake_runner import FakeRunner
from test_engine import alone, sequence

from pipeline.engine.async_engine import AsyncEngine
from pipeline.engine.engine import Engine
from pipeline.errors import EngineFailed, Overloaded


@pytest.fixture
def engine():
    engine = AsyncEngine(Engine(FakeRunner()), max_waiting=50)
    yield engine
    engine.close()


def test_many_tasks_share_the_engine_and_get_their_own_tokens(engine):
    async def main():
        return await asyncio.gather(*(engine.run(sequence(seed)) for seed in range(12)))

    for seed, done in enumerate(asyncio.run(main())):
        assert done.tokens == alone(seed)


class Gate(FakeRunner):
    """Waits in its first call until it is opened."""

    def __init__(self) -> None:
        super().__init__(num_slots=1)
        self.opened, self.entered = threading.Event(), threading.Event()

    def extend(self, slot, start, tokens, added):
        self.entered.set()
        assert self.opened.wait(10)
        return super().extend(slot, start, tokens, added)


def test_cancelling_the_task_frees_the_slot():
    runner = Gate()
    engine = AsyncEngine(Engine(runner))

    async def main():
        task = asyncio.create_task(engine.run(sequence(1)))
        await asyncio.to_thread(runner.entered.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        runner.opened.set()
        return await engine.run(sequence(2))

    assert asyncio.run(main()).tokens == alone(2)
    assert engine.num_running == 0
    assert engine.most_wasted_steps == 1  # the one that was in flight
    engine.close()


def test_full_queue_answers_overloaded():
    """One runs, two may wait; the rest are refused at once, though no step has ended."""
    runner = Gate()
    engine = AsyncEngine(Engine(runner), max_waiting=2)

    async def main():
        tasks = [asyncio.create_task(engine.run(sequence(seed))) for seed in range(20)]
        await asyncio.sleep(0.05)
        runner.opened.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(main())
    refused = [result for result in results if isinstance(result, Overloaded)]
    assert len(refused) == 17
    assert refused[0].retry_after_s > 0
    engine.close()


def test_device_error_fails_everything_and_later_calls():
    runner = FakeRunner()
    runner.error = RuntimeError("device lost")
    engine = AsyncEngine(Engine(runner))

    async def main():
        return await asyncio.gather(
            *(engine.run(sequence(seed)) for seed in range(3)), return_exceptions=True
        )

    assert all(isinstance(e, EngineFailed) for e in asyncio.run(main()))
    with pytest.raises(EngineFailed, match="device lost"):
        asyncio.run(engine.run(sequence(9)))
    assert engine.thread.failure is not None
    engine.close()


def test_close_ends_what_is_in_flight():
    runner = Gate()
    engine = AsyncEngine(Engine(runner))

    async def main():
        task = asyncio.create_task(engine.run(sequence(1)))
        await asyncio.to_thread(runner.entered.wait, 10)
        closing = asyncio.create_task(asyncio.to_thread(engine.close))
        while not engine.thread.is_closing:
            await asyncio.sleep(0.001)
        runner.opened.set()
        await closing
        with pytest.raises(EngineFailed):
            await task

    asyncio.run(main())


def test_heartbeat_stays_young_while_idle(engine):
    assert engine.thread.heartbeat_age_s < 5


def test_heartbeat_ages_while_a_step_hangs():
    runner = Gate()
    engine = AsyncEngine(Engine(runner))

    async def main():
        task = asyncio.create_task(engine.run(sequence(1)))
        await asyncio.to_thread(runner.entered.wait, 10)
        before = engine.thread.heartbeat_age_s
        await asyncio.sleep(0.05)
        assert engine.thread.heartbeat_age_s > before + 0.04
        runner.opened.set()
        await task

    asyncio.run(main())
    engine.close()
