"""The last requests of this process, remembered for whoever asks where their time went."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

_MAX_REQUESTS = 500


class Recent:
    """Requests by any of their ids: request, generation, trace. For one event loop.

    No text is kept.
    """

    def __init__(self, max_requests: int = _MAX_REQUESTS) -> None:
        self._max = max_requests
        self._records: OrderedDict[int, Mapping[str, Any]] = OrderedDict()
        self._numbers: dict[str, int] = {}
        self._next = 0

    def add(self, record: Mapping[str, Any], *ids: str) -> None:
        """Remember a request; the oldest is forgotten."""
        self._next += 1
        self._records[self._next] = record
        for name in ids:
            if name:
                self._numbers[name] = self._next
        if len(self._records) > self._max:
            oldest, _ = self._records.popitem(last=False)
            self._numbers = {n: number for n, number in self._numbers.items() if number != oldest}

    def find(self, name: str) -> Mapping[str, Any] | None:
        """Return the newest request with this id."""
        return self._records.get(self._numbers.get(name, 0))
