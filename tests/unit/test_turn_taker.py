"""Jobs that take turns on a device: round robin, together where they may, each ending alone."""

import asyncio
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.turn_taker import AsyncTurnTaker, Job, TurnTaker
from pipeline.errors import DeadlineExceeded, EngineFailed, InvalidRequest


class Adder:
    """A network that adds one, and keeps whom it did it for."""

    def __init__(self, batch_size=1):
        self.batch_size, self.busy_s = batch_size, 0.5
        self.calls: list[list[tuple[str, int]]] = []
        self.error: BaseException | None = None

    def kind(self, step):
        return step[0].split()[0]

    def run(self, steps):
        if self.error is not None:
            raise self.error
        self.calls.append(list(steps))
        return [number + 1 for _, number in steps]


def counting(name, steps=3):
    number = 0
    for _ in range(steps):
        number = yield name, number
    return name, number


def wrong(after=1):
    for number in range(after):
        yield "wrong", number
    raise InvalidRequest("bad")


def finish(turns, *jobs):
    for job in jobs:
        turns.submit(job)
    for _ in range(1000):
        turns.step()
    return [job.result.result() for job in jobs]


def test_jobs_take_turns_and_each_is_sent_its_own_results():
    network = Adder()
    turns = TurnTaker(network)
    jobs = [Job(counting("a")), Job(counting("b", steps=2))]
    assert finish(turns, *jobs) == [("a", 3), ("b", 2)]
    assert [name for ((name, _),) in network.calls] == ["a", "b", "a", "b", "a"]
    assert (turns.steps, turns.busy_s, jobs[0].device_s, jobs[1].device_s) == (5, 2.5, 1.5, 1.0)


def test_those_of_a_kind_go_together_and_share_what_it_takes():
    network = Adder(batch_size=2)
    turns = TurnTaker(network)
    jobs = [Job(counting(name)) for name in ("a 1", "b 1", "a 2", "a 3")]
    assert finish(turns, *jobs) == [(name, 3) for name in ("a 1", "b 1", "a 2", "a 3")]
    batches = [[name for name, _ in call] for call in network.calls]
    assert batches[:3] == [["a 1", "a 2"], ["b 1"], ["a 3", "a 1"]]
    assert max(map(len, batches)) == 2
    assert turns.busy_s == pytest.approx(sum(job.device_s for job in jobs))
    assert turns.counters.batched_rows == 12


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_comes_when_each_job_ends_once_with_its_own(data):
    network = Adder(batch_size=data.draw(st.integers(1, 4), label="batch"))
    turns, jobs = TurnTaker(network), []
    for number in range(data.draw(st.integers(1, 8), label="jobs")):
        kind = data.draw(st.sampled_from(["a", "b", "wrong"]))
        steps = data.draw(st.integers(0, 4))
        source = wrong(steps) if kind == "wrong" else counting(f"{kind} {number}", steps)
        jobs.append((kind, steps, Job(source, is_low=data.draw(st.booleans()))))
        turns.submit(jobs[-1][2])
        for _ in range(data.draw(st.integers(0, 3))):
            turns.step()
        if data.draw(st.booleans()):
            data.draw(st.sampled_from(jobs))[2].cancel()
    for _ in range(200):
        turns.step()
    assert not turns.jobs
    for kind, steps, job in jobs:
        error = job.result.exception()
        if error is None:
            assert job.result.result()[1] == steps
        else:
            assert job.is_cancelled or (kind == "wrong" and isinstance(error, InvalidRequest))
    assert sum(turns.counters.ended.values()) == len(jobs)
    assert turns.most_wasted_steps <= 1
    assert turns.busy_s == pytest.approx(sum(job.device_s for _, _, job in jobs))


def test_low_priority_waits_and_is_never_taken_along():
    network = Adder(batch_size=4)
    turns = TurnTaker(network)
    for name in ("a low 1", "a low 2"):
        turns.submit(Job(counting(name, 2), is_low=True))
    turns.step()
    for name in ("a 1", "a 2"):
        turns.submit(Job(counting(name, 2)))
    for _ in range(9):
        turns.step()
    assert [[name for name, _ in call] for call in network.calls] == [
        ["a low 1", "a low 2"],
        ["a 1", "a 2"],
        ["a 1", "a 2"],
        ["a low 1", "a low 2"],
    ]


def test_device_that_breaks_fails_all_of_a_batch_and_all_that_wait():
    network = Adder(batch_size=2)
    turns = AsyncTurnTaker(network, name="test")

    async def main():
        network.error = RuntimeError("gone")
        jobs = [Job(counting("a")) for _ in range(5)]
        return await asyncio.gather(*(turns.run(job) for job in jobs), return_exceptions=True)

    found = asyncio.run(main())
    assert [type(error) for error in found] == [EngineFailed] * 5
    assert "gone" in str(turns.thread.failure)


@pytest.mark.parametrize("after", [0, 1])
def test_job_whose_own_code_breaks_leaves_nobody_waiting(after):
    """Not a BarkError: a fault of ours, which ends the thread. All are told, itself too."""
    turns = AsyncTurnTaker(Adder(batch_size=2), name="test")

    def broken():
        for number in range(after):
            yield "a", number
        raise ZeroDivisionError

    async def main():
        jobs = [Job(counting("a")), Job(broken()), Job(counting("a"))]
        found = asyncio.gather(*(turns.run(job) for job in jobs), return_exceptions=True)
        return await asyncio.wait_for(found, 10)

    assert EngineFailed in {type(error) for error in asyncio.run(main())}


def test_job_that_is_wrong_fails_alone():
    turns = AsyncTurnTaker(Adder(), name="test")

    async def main():
        with pytest.raises(InvalidRequest):
            await turns.run(Job(wrong()))
        return await turns.run(Job(counting("a")))

    assert asyncio.run(main()) == ("a", 3)
    turns.close()


def test_late_job_is_dropped_between_steps():
    turns = AsyncTurnTaker(Adder(), name="test")
    with pytest.raises(DeadlineExceeded):
        asyncio.run(turns.run(Job(counting("a"), deadline_s=0.0)))
    turns.close()


def test_a_job_given_up_before_it_arrives_stops_nothing():
    turns = AsyncTurnTaker(Adder(), name="test")
    gone = Job(counting("gone"))
    assert gone.result.cancel()
    arrived = threading.Event()
    turns.thread.post(lambda: (turns._turns.submit(gone), arrived.set()))
    arrived.wait(5)
    time.sleep(0.1)  # its turn has come and gone
    assert asyncio.run(turns.run(Job(counting("a")))) == ("a", 3)
    assert turns.thread.failure is None
    turns.close()


def test_counters_of_jobs_tell_frames_steps_and_how_each_ended():
    turns = AsyncTurnTaker(Adder(), name="test")

    async def main():
        jobs = [
            Job(counting("a"), size=7),
            Job(counting("b"), size=9, deadline_s=0.0),
            Job(wrong(), size=11),
        ]
        return await asyncio.gather(*(turns.run(job) for job in jobs), return_exceptions=True)

    asyncio.run(main())
    found = turns.counters
    assert found.ended == {"finished": 1, "cancelled": 0, "late": 1, "failed": 1}
    assert (found.tokens, sum(found.steps.counts), found.batched_rows) == (7, 4, 4)
    turns.close()
