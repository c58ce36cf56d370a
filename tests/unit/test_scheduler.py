import numpy as np

from pipeline.engine.scheduler import Scheduler
from pipeline.engine.sequence import Prompt, SamplingParams, Sequence
from pipeline.engine.slots import Slots


def sequence(**fields) -> Sequence:
    params = SamplingParams(temperature=0, allowed=((0, 5),), max_tokens=4)
    return Sequence(Prompt(np.arange(3)), params, np.zeros(4), **fields)


def running(scheduler: Scheduler) -> set[int]:
    return set(scheduler.running)


def test_slots_hand_out_the_lowest_free_one():
    slots = Slots(3)
    assert [slots.take(), slots.take()] == [0, 1]
    slots.free(0)
    assert slots.take() == 0
    assert slots.num_free == 1


def test_prefill_goes_before_decode():
    scheduler = Scheduler(2)
    first, second = sequence(), sequence()
    scheduler.add(first)
    assert scheduler.schedule(0).prefill is first
    first.pending = 1
    scheduler.add(second)
    assert scheduler.schedule(0).prefill is second
    second.pending = 1
    assert scheduler.schedule(0).decode == [first, second]


def test_all_waiting_prefills_come_before_the_next_decode_step():
    scheduler = Scheduler(3)
    batch = [sequence() for _ in range(3)]
    for one in batch:
        scheduler.add(one)
    for one in batch:
        assert scheduler.schedule(0).prefill is one
        one.pending = 1
    assert scheduler.schedule(0).decode == batch


def test_sequences_beyond_the_slots_wait_in_order():
    scheduler = Scheduler(1)
    first, second, third = sequence(), sequence(), sequence()
    for one in (first, second, third):
        scheduler.add(one)
    scheduler.schedule(0)
    assert list(scheduler.waiting) == [second, third]
    scheduler.finish(first)
    assert scheduler.schedule(0).prefill is second


def test_cancelled_sequence_frees_its_slot():
    scheduler = Scheduler(1)
    first, second = sequence(), sequence()
    scheduler.add(first)
    scheduler.add(second)
    scheduler.schedule(0)
    first.cancel()
    step = scheduler.schedule(0)
    assert step.cancelled == [first]
    assert step.prefill is second
    assert first.slot is None


def test_sequence_past_its_deadline_is_dropped_while_waiting_and_while_running():
    scheduler = Scheduler(1)
    runs, waits, lasts = sequence(deadline_s=5), sequence(deadline_s=4), sequence()
    for one in (runs, waits, lasts):
        scheduler.add(one)
    assert scheduler.schedule(3).prefill is runs
    step = scheduler.schedule(6)
    assert step.expired == [waits, runs]
    assert running(scheduler) == {0}
    assert step.prefill is lasts
    assert not scheduler.waiting


def test_finished_sequence_leaves_no_trace():
    scheduler = Scheduler(2)
    one = sequence()
    scheduler.add(one)
    scheduler.schedule(0)
    scheduler.finish(one)
    assert not scheduler.has_work
    assert scheduler.slots.num_free == 2


def test_sequence_whose_window_always_moves_starves_nobody():
    """One needs a prefill for every token; the other decodes once a round all the same."""
    scheduler = Scheduler(4)
    hog, other = sequence(), sequence()
    scheduler.add(hog)
    scheduler.add(other)
    decoded = 0
    for _ in range(40):
        step = scheduler.schedule(0)
        if step.prefill is not None and step.prefill is not hog:
            step.prefill.pending = 1
        decoded += other in step.decode
    assert decoded >= 15


def test_arrivals_that_end_in_their_prefill_starve_nobody():
    scheduler = Scheduler(4)
    other = sequence()
    other.pending = 1
    scheduler.add(other)
    decoded = 0
    for _ in range(50):
        scheduler.add(sequence())
        step = scheduler.schedule(0)
        if step.prefill is not None:
            scheduler.finish(step.prefill)
        decoded += other in step.decode
    assert decoded >= 8
