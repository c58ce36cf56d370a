"""Admission at the front: a bounded number of requests run, a bounded number wait, no more.

What is turned away is turned away at once; what is admitted is finished.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pipeline.errors import DeadlineExceeded, Overloaded

_FIRST_GUESS_S = 5.0
_MEMORY = 0.2  # weight of the newest request in the mean


class Admission:
    """A queue in order of arrival. For one event loop."""

    def __init__(self, max_running: int, max_waiting: int) -> None:
        self._room = asyncio.Semaphore(max_running)
        self._max_running, self._max_waiting = max_running, max_waiting
        self._mean_s = _FIRST_GUESS_S
        self.num_waiting = self.num_running = 0
        self._is_closed = False

    @property
    def retry_after_s(self) -> float:
        """Guess when there will be room: the queue's length at the recent pace."""
        turns = (self.num_waiting + 1) / self._max_running
        return max(1.0, round(turns * self._mean_s, 1))

    async def drain(self) -> None:
        """Admit nothing more, and return when all that was admitted is finished."""
        self._is_closed = True
        while self.num_waiting + self.num_running:
            await asyncio.sleep(0.05)

    @asynccontextmanager
    async def admit(self, deadline_s: float | None = None) -> AsyncIterator[None]:
        """Wait for room, then hold it until the block ends.

        Args:
            deadline_s: on the clock of `time.monotonic`.

        Raises:
            Overloaded: as many wait already as may; at once.
            DeadlineExceeded: there was no room in time.
        """
        if self._is_closed:
            raise Overloaded("the service is going down; try again later", self.retry_after_s)
        if self._room.locked() and self.num_waiting >= self._max_waiting:
            raise Overloaded("the queue is full; try again later", self.retry_after_s)
        self.num_waiting += 1
        try:
            async with asyncio.timeout(
                None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
            ):
                await self._room.acquire()
        except TimeoutError:
            raise DeadlineExceeded("The request's time ran out while it waited.") from None
        finally:
            self.num_waiting -= 1
        self.num_running += 1
        began = time.monotonic()
        try:
            yield
        finally:
            self.num_running -= 1
            self._room.release()
            self._mean_s += _MEMORY * (time.monotonic() - began - self._mean_s)
