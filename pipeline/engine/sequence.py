"""One request's tokens and state inside an engine.

A model's rules arrive here as data: which ids may come at which step, what ends a sequence, and
(for a model that works in windows) a function that gives the next prompt.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from collections.abc import Sequence as Seq
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_ids = itertools.count()


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one sequence draws its tokens.

    temperature: 0 is greedy. top_k, top_p: None is off.
    allowed: id ranges [start, stop); token n draws from `allowed[n % len(allowed)]`.
    stop_id: an id beside the range that ends the sequence and is not kept; None: no early end.
    min_stop_p: the sequence also ends once the probability of `stop_id` reaches this.
    max_tokens: at most this many tokens are kept.
    """

    temperature: float
    allowed: tuple[tuple[int, int], ...]
    max_tokens: int
    top_k: int | None = None
    top_p: float | None = None
    stop_id: int | None = None
    min_stop_p: float | None = None

    @property
    def has_filters(self) -> bool:
        """Whether any token may drop out before one is drawn."""
        return self.top_k is not None or self.top_p is not None


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """What a model sees before its first own token.

    tokens: int64 [P]. added: int64 [A], A <= P: a second token whose embedding is summed onto
    that of each of the first A positions.
    """

    tokens: NDArray[np.int64]
    added: NDArray[np.int64] | None = None


@dataclass(slots=True)
class SequenceStats:
    """What a sequence cost. `device_s` is its own share of the batches that it was part of."""

    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    device_s: float = 0.0
    prefills: int = 0
    prefilled_positions: int = 0
    reused_positions: int = 0
    steps: int = 0
    batched_rows: int = 0  # sum of the batch sizes of its decode steps

    @property
    def mean_batch(self) -> float:
        return self.batched_rows / self.steps if self.steps else 0.0


@dataclass(slots=True, eq=False)
class Sequence:
    """One sequence from submission to its last token.

    uniforms: float64 [max_tokens] in [0, 1): the number that draws token n stands at n, so what
    is drawn can not depend on other sequences.
    window: after this many tokens `next_prompt(tokens so far)` gives a new prompt; the engine
    keeps the part of its cache that the new prompt shares. None: the first prompt lasts.
    deadline_s: on the clock of `time.monotonic`; None: no deadline.
    """

    prompt: Prompt
    params: SamplingParams
    uniforms: NDArray[np.float64]
    window: int | None = None
    next_prompt: Callable[[Seq[int]], Prompt] | None = None
    deadline_s: float | None = None
    on_token: Callable[[int], None] | None = None  # told the number of tokens, on engine's thread
    is_low: bool = False  # it waits, and gives its slot away, while there are others

    id: int = field(default_factory=lambda: next(_ids))
    tokens: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    result: Future[Sequence] = field(default_factory=Future)
    stats: SequenceStats = field(default_factory=SequenceStats)
    submitted_s: float = 0.0
    is_cancelled: bool = False
    wasted_steps: int = 0  # that it had, or had begun, when it was given up
    life: int = 0  # how often it began anew
    in_flight: int = 0  # tokens that the device was told to draw and that were not looked at yet
    slot: int | None = None
    reached: int | None = None  # how far pieces of the prompt were begun; None: all, or none
    pending: int | None = None  # the newest token, not yet in the cache; None: prefill first
    cached: list[int] = field(default_factory=list)  # token at each position of the slot's cache
    _first: Prompt = field(init=False)

    def __post_init__(self) -> None:
        self._first = self.prompt

    def restart(self) -> None:
        """Begin anew, without a slot: what is drawn depends on nothing that is lost by that."""
        self.prompt, self.tokens, self.cached = self._first, [], []
        self.pending = self.slot = self.reached = None
        self.in_flight = 0
        self.life += 1  # tokens that are still to come belong to the one before

    @property
    def num_asked(self) -> int:
        """Tokens that it has, or that the device was told to draw: the number of its next one."""
        return len(self.tokens) + self.in_flight

    @property
    def needs_prefill(self) -> bool:
        return self.pending is None and not self.in_flight

    @property
    def can_decode(self) -> bool:
        """Whether its next token can be drawn before those in flight are known.

        Not where they decide what comes: at a window's end, and at the last token.
        """
        if not self.in_flight:
            return self.pending is not None
        return self.num_asked < self.params.max_tokens and not self._ends_window(self.num_asked)

    @property
    def is_window_full(self) -> bool:
        return self._ends_window(len(self.tokens))

    def _ends_window(self, num_tokens: int) -> bool:
        return self.window is not None and num_tokens % self.window == 0

    def cancel(self) -> None:
        """Ask for an end between two steps; its slot is freed then. Safe from any thread."""
        self.is_cancelled = True

    def is_given_up(self, now_s: float) -> bool:
        """Say whether nobody waits for it any longer."""
        return self.is_cancelled or (self.deadline_s is not None and now_s > self.deadline_s)
