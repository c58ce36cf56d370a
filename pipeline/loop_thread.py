"""An event loop on a thread of its own, for callers that have none, or have one running."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from pipeline.errors import EngineFailed

CLOSE_TIMEOUT_S = 10.0
_T = TypeVar("_T")


class LoopThread:
    """Runs coroutines to their end for threads that wait."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bark", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run to the end; an interrupt (Ctrl-C) here cancels the work there, between steps."""
        if self._loop.is_closed():
            coroutine.close()
            raise EngineFailed("The model was closed.")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Let the tasks in flight end, then stop. Can be called twice."""
        if self._loop.is_closed():
            return

        async def drain() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            if tasks:
                await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S)
            self._loop.stop()

        asyncio.run_coroutine_threadsafe(drain(), self._loop)
        self._thread.join()
        self._loop.close()
