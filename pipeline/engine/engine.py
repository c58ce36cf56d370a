"""The engine: submit, step, run_until_done. Knows sequences and slots, not what tokens mean.

One `step` is one turn of the scheduler: drop what is cancelled or late, then one prefill (or a
piece of one), or one decode step over every running sequence, then a look at the tokens of a turn
that was begun before (with a model whose logits come to the host: of this one). Not thread-safe;
`async_engine` gives it a thread.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

import numpy as np

from pipeline.engine.counters import Counters, Outcome
from pipeline.engine.drawing import DrawingRunner, Drawn, HostDrawing, Runner
from pipeline.engine.precedence import Precedence
from pipeline.engine.scheduler import Scheduler
from pipeline.engine.sequence import Prompt, Sequence
from pipeline.errors import BarkError, Cancelled, DeadlineExceeded, EngineFailed


@dataclass(frozen=True, slots=True)
class _Prefill:
    """Positions [start, stop) of a prompt; reused: those before, which its first piece found."""

    start: int
    stop: int
    reused: int
    is_last: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    """What the device was given to do: a prefill, or a piece of one, or (None) a decode step.

    lives: which life of each sequence it was for; one that began anew has no use for the token.
    """

    batch: list[Sequence]
    lives: list[int]
    prefill: _Prefill | None
    began_s: float
    drawn: Drawn


class Engine:
    """Continuous batching over one runner: sequences join and leave at every step."""

    def __init__(
        self, runner: Runner | DrawingRunner, precedence: Precedence | None = None
    ) -> None:
        self.runner, self._precedence = runner, precedence
        self._drawing = runner if isinstance(runner, DrawingRunner) else HostDrawing(runner)
        self._in_flight: deque[_Turn] = deque()
        self._landed_s = 0.0  # when the last turn's tokens were there
        self.scheduler = Scheduler(runner.num_slots)
        self.steps = 0
        self.busy_s = 0.0  # how long the device worked for this engine: the sum of all shares
        self.surplus_s = 0.0  # … and on turns whose sequences had all ended when it was done
        # The most turns that any sequence had after it was given up: at most 1 + steps_ahead.
        self.most_wasted_steps = 0
        self.counters = Counters()

    @property
    def has_work(self) -> bool:
        """Say whether a step would do something: work of low priority may have to wait."""
        return bool(self._in_flight) or (self.scheduler.has_work and self._may_begin())

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
        turn = None
        if not self._may_begin():
            pass  # what is in flight is taken, and nothing more begun
        elif step.prefill is not None:
            turn = self._begin_prefill(step.prefill)
        elif step.decode:
            turn = self._begin_decode(step.decode)
        if turn is not None:
            self._in_flight.append(turn)
            self.steps += 1
        # where there was nothing to begin, whatever waits does so for the oldest turn's tokens
        if self._in_flight and (turn is None or len(self._in_flight) > self._drawing.steps_ahead):
            self._land(self._in_flight.popleft())
        if not self.scheduler.has_work and not self._in_flight:
            self._drawing.rest()
        if self._precedence is not None and not self.scheduler.has_other:
            self._precedence.yield_soon()

    def run_until_done(self) -> None:
        while self.scheduler.has_work or self._in_flight:
            self.step()

    def fail_all(self, error: BarkError) -> None:
        """Give up every sequence, waiting or running, with this error."""
        for sequence in [*self.scheduler.waiting, *self.scheduler.running.values()]:
            if sequence.slot is not None:
                self.scheduler.finish(sequence)
            self._fail(sequence, error, "failed")
        self.scheduler.waiting.clear()
        self._in_flight.clear()

    def _may_begin(self) -> bool:
        return (
            self._precedence is None or self.scheduler.has_other or self._precedence.low_may_run()
        )

    def _begin_prefill(self, sequence: Sequence) -> _Turn:
        """Begin a prefill, or go on with it; a long one in pieces, with decode steps between.

        Pieces end at fixed places, so that their shapes, and with them a device's rounding, are
        the sequence's own.
        """
        began_s, start, reused = time.monotonic(), sequence.reached, 0
        if start is None:
            start = reused = _shared_prefix(sequence.cached, sequence.prompt)
            if not sequence.stats.prefills:
                sequence.stats.queue_s = began_s - sequence.submitted_s
        stop, piece = len(sequence.prompt.tokens), self._drawing.prefill_piece
        if piece is not None:
            stop = min(stop, (start // piece + 1) * piece)
        part = _Prefill(start, stop, reused, stop == len(sequence.prompt.tokens))
        drawn = self._drawing.prefill(sequence, start, stop)
        sequence.reached = None if part.is_last else stop
        sequence.in_flight += part.is_last
        return _Turn([sequence], [sequence.life], part, began_s, drawn)

    def _begin_decode(self, batch: list[Sequence]) -> _Turn:
        began_s = time.monotonic()
        drawn = self._drawing.step(batch)
        for sequence in batch:
            sequence.in_flight += 1
        return _Turn(batch, [s.life for s in batch], None, began_s, drawn)

    def _land(self, turn: _Turn) -> None:
        """Take a turn's tokens. Whoever has ended since it began neither gets one nor pays."""
        busy_s = turn.drawn.wait()
        now_s = time.monotonic()
        elapsed = now_s - max(turn.began_s, self._landed_s)
        self._landed_s = now_s
        is_running = [
            sequence.slot is not None and sequence.life == life
            for sequence, life in zip(turn.batch, turn.lives, strict=True)
        ]
        num_running = sum(is_running)
        if num_running:
            self.busy_s += busy_s
        else:
            self.surplus_s += busy_s
        part = turn.prefill
        if part is None:
            self.counters.steps.add(elapsed)
            self.counters.batched_rows += num_running
        else:
            self.counters.prefills.add(elapsed)
        for row, sequence in enumerate(turn.batch):
            if not is_running[row]:
                continue
            stats = sequence.stats
            stats.device_s += busy_s / num_running
            if part is not None:
                stats.prefill_s += elapsed
                self._count_positions(sequence, part.stop - part.start, part.reused)
                sequence.cached = sequence.prompt.tokens[: part.stop].tolist()
                if not part.is_last:
                    continue
                stats.prefills += 1
            else:
                assert sequence.pending is not None
                stats.decode_s += elapsed
                stats.steps += 1
                stats.batched_rows += num_running
                sequence.cached.append(sequence.pending)
            sequence.in_flight -= 1
            self._take_token(sequence, turn.drawn, row)
        self._count_waste(turn.batch)

    def _count_waste(self, worked: list[Sequence]) -> None:
        now_s = time.monotonic()
        for sequence in worked:
            # what ends by itself wastes surplus steps, too, but keeps nobody's cancel waiting
            if sequence.finish_reason is None and sequence.is_given_up(now_s):
                sequence.wasted_steps += 1
                self.most_wasted_steps = max(self.most_wasted_steps, sequence.wasted_steps)

    def _take_token(self, sequence: Sequence, drawn: Drawn, row: int) -> None:
        """Take a token; what goes wrong here is this sequence's own fault, and ends it alone."""
        try:
            self._advance(sequence, drawn.token(row))
        except Exception as error:  # rules and callbacks come from outside
            self.scheduler.finish(sequence)
            if not isinstance(error, BarkError):
                error = EngineFailed(f"The request's rules failed: {type(error).__name__}: {error}")
            self._fail(sequence, error, "failed")

    def _advance(self, sequence: Sequence, token: int | None) -> None:
        if token is None:
            return self._finish(sequence, "stop")
        sequence.tokens.append(token)
        self.counters.tokens += 1
        sequence.pending = token
        if sequence.on_token is not None:
            sequence.on_token(len(sequence.tokens))
        if len(sequence.tokens) >= sequence.params.max_tokens:
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
