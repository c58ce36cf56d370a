"""The engine: submit, step, run_until_done. Knows sequences and slots, not what tokens mean.

One `step` is one turn of the scheduler: drop what is cancelled or late, then one prefill, or one
decode step over every running sequence. Not thread-safe; `async_engine` gives it a thread.
"""

from __future__ import annotations

import time
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.counters import Counters, Outcome
from pipeline.engine.precedence import Precedence
from pipeline.engine.sampler import next_token
from pipeline.engine.scheduler import Scheduler
from pipeline.engine.sequence import Prompt, Sequence
from pipeline.errors import BarkError, Cancelled, DeadlineExceeded, EngineFailed

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


class Runner(Protocol):
    """A causal model with a KV cache of `num_slots` rows of `max_positions`; see runner.py.

    `first_id` is the token id of logit 0; `busy_s` how long the last call had the device, which
    is less than it took where other models had it in between.
    """

    num_slots: int
    max_positions: int
    first_id: int
    busy_s: float

    def extend(self, slot: int, start: int, tokens: Int64, added: Int64 | None) -> Float32:
        """Run tokens [P] at positions start…, keep their KV; return the last one's logits [V]."""

    def decode(self, slots: list[int], positions: list[int], tokens: list[int]) -> Float32:
        """Run one token for each of B sequences; return logits [B, V]."""

    def rest(self) -> None:
        """No sequence runs now: what the slots hold is not needed again."""


class Engine:
    """Continuous batching over one runner: sequences join and leave at every step."""

    def __init__(self, runner: Runner, precedence: Precedence | None = None) -> None:
        self.runner, self._precedence = runner, precedence
        self.scheduler = Scheduler(runner.num_slots)
        self.steps = 0
        self.busy_s = 0.0  # how long the device worked for this engine: the sum of all shares
        # The most steps that any sequence had after it was given up: one may be in flight.
        self.most_wasted_steps = 0
        self.counters = Counters()

    @property
    def has_work(self) -> bool:
        """Say whether a step would do something: work of low priority may have to wait."""
        if not self.scheduler.has_work:
            return False
        if self._precedence is None or self.scheduler.has_other:
            return True
        return self._precedence.low_may_run()

    @property
    def waits(self) -> bool:
        """Say whether `has_work` may become true by itself, or something is to be let go of."""
        if self._precedence is None:
            return False
        if self._precedence.asks_again:
            self._precedence.low_may_run()  # lets go, when it is time
        return self._precedence.asks_again or self.scheduler.has_work

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence; its `result` completes with itself, or with a BarkError."""
        assert 0 < len(sequence.prompt.tokens) <= self.runner.max_positions
        assert 0 < sequence.params.max_tokens <= len(sequence.uniforms)
        # once marked as running, a Future can no longer be cancelled under the engine's hands
        if sequence.result.set_running_or_notify_cancel():
            sequence.submitted_s = time.monotonic()
            self.scheduler.add(sequence)
            if self._precedence is not None and not sequence.is_low:
                self._precedence.claim()
        else:
            self.counters.ended["cancelled"] += 1

    def step(self) -> None:
        """Do one turn. After a runner's exception only `fail_all` is left to do."""
        step = self.scheduler.schedule(time.monotonic())
        for sequence in step.cancelled:
            self._fail(sequence, Cancelled("The request was cancelled."), "cancelled")
        for sequence in step.expired:
            late = DeadlineExceeded("The request's time ran out before it was done.")
            self._fail(sequence, late, "late")
        if step.prefill is not None:
            self._prefill(step.prefill)
        elif step.decode:
            self._decode(step.decode)
        self._count_waste(step.decode if step.prefill is None else [step.prefill])
        if not self.scheduler.has_work:
            self.runner.rest()
        if self._precedence is not None and not self.scheduler.has_other:
            self._precedence.yield_soon()
        self.steps += 1

    def run_until_done(self) -> None:
        while self.scheduler.has_work:
            self.step()

    def fail_all(self, error: BarkError) -> None:
        """Give up every sequence, waiting or running, with this error."""
        for sequence in [*self.scheduler.waiting, *self.scheduler.running.values()]:
            if sequence.slot is not None:
                self.scheduler.finish(sequence)
            self._fail(sequence, error, "failed")
        self.scheduler.waiting.clear()

    def _count_waste(self, worked: list[Sequence]) -> None:
        now_s = time.monotonic()
        for sequence in worked:
            if sequence.is_given_up(now_s):
                sequence.wasted_steps += 1
                self.most_wasted_steps = max(self.most_wasted_steps, sequence.wasted_steps)

    def _prefill(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        prompt = sequence.prompt
        reused = _shared_prefix(sequence.cached, prompt)
        started = time.monotonic()
        if not sequence.stats.prefills:
            sequence.stats.queue_s = started - sequence.submitted_s
        added = None if prompt.added is None else prompt.added[reused:]
        logits = self.runner.extend(sequence.slot, reused, prompt.tokens[reused:], added)
        elapsed = time.monotonic() - started
        stats = sequence.stats
        stats.prefill_s += elapsed
        stats.device_s += self.runner.busy_s
        self.busy_s += self.runner.busy_s
        stats.prefills += 1
        self.counters.prefills.add(elapsed)
        self._count_positions(sequence, len(prompt.tokens) - reused, reused)
        sequence.cached = prompt.tokens.tolist()
        self._take_token(sequence, logits)

    def _decode(self, batch: list[Sequence]) -> None:
        slots = [s.slot for s in batch if s.slot is not None]
        tokens = [s.pending for s in batch if s.pending is not None]
        positions = [len(s.cached) for s in batch]
        started = time.monotonic()
        logits = self.runner.decode(slots, positions, tokens)  # [B, V]
        self.busy_s += self.runner.busy_s
        elapsed = time.monotonic() - started
        self.counters.steps.add(elapsed)
        self.counters.batched_rows += len(batch)
        for sequence, token, row in zip(batch, tokens, logits, strict=True):
            stats = sequence.stats
            stats.decode_s += elapsed
            stats.device_s += self.runner.busy_s / len(batch)
            stats.steps += 1
            stats.batched_rows += len(batch)
            sequence.cached.append(token)
            self._take_token(sequence, row)

    def _take_token(self, sequence: Sequence, logits: Float32) -> None:
        """Draw a token; what goes wrong here is this sequence's own fault, and ends it alone."""
        try:
            self._advance(sequence, logits)
        except Exception as error:  # rules and callbacks come from outside
            self.scheduler.finish(sequence)
            if not isinstance(error, BarkError):
                error = EngineFailed(f"The request's rules failed: {type(error).__name__}: {error}")
            self._fail(sequence, error, "failed")

    def _advance(self, sequence: Sequence, logits: Float32) -> None:
        params, n = sequence.params, len(sequence.tokens)
        uniform = float(sequence.uniforms[n])
        token = next_token(logits, self.runner.first_id, params, n, uniform)
        if token is None:
            return self._finish(sequence, "stop")
        sequence.tokens.append(token)
        self.counters.tokens += 1
        sequence.pending = token
        if sequence.on_token is not None:
            sequence.on_token(len(sequence.tokens))
        if len(sequence.tokens) >= params.max_tokens:
            return self._finish(sequence, "length")
        if sequence.is_window_full and sequence.next_prompt is not None:
            self._slide(sequence, sequence.next_prompt(sequence.tokens))
        return None

    def _slide(self, sequence: Sequence, prompt: Prompt) -> None:
        """Move to the next window; where nothing moved the cache stands and decoding goes on."""
        sequence.prompt = prompt
        assert sequence.pending is not None
        goes_on = [*sequence.cached, sequence.pending]
        if len(prompt.tokens) == len(goes_on) and np.array_equal(prompt.tokens, goes_on):
            self._count_positions(sequence, 0, len(goes_on) - 1)
        else:
            sequence.pending = None

    def _finish(self, sequence: Sequence, reason: str) -> None:
        sequence.finish_reason = reason
        self.scheduler.finish(sequence)
        self.counters.ended["finished"] += 1
        sequence.result.set_result(sequence)

    def _fail(self, sequence: Sequence, error: BarkError, outcome: Outcome) -> None:
        self.counters.ended[outcome] += 1
        sequence.result.set_exception(error)

    def _count_positions(self, sequence: Sequence, prefilled: int, reused: int) -> None:
        sequence.stats.prefilled_positions += prefilled
        sequence.stats.reused_positions += reused
        self.counters.prefilled_positions += prefilled
        self.counters.reused_positions += reused


def _shared_prefix(cached: list[int], prompt: Prompt) -> int:
    """Count the positions at whose cached keys and values the prompt would arrive again.

    Causal attention makes them a function of the tokens before them alone, so they are exact. At
    least the last position is run anew, for its logits.
    """
    if prompt.added is not None or not cached:
        return 0
    length = min(len(cached), len(prompt.tokens) - 1)
    differs = np.flatnonzero(np.asarray(cached[:length]) != prompt.tokens[:length])
    return int(differs[0]) if len(differs) else length
