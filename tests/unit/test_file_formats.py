"""Equal content gives equal bytes, whenever and however it was made."""

from __future__ import annotations

import time

import numpy as np
import pytest

from pipeline.file_formats import pack_arrays


def test_equal_arrays_give_equal_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"b": np.arange(10), "a": np.ones((2, 15), np.int32)}
    first = pack_arrays(content)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    arrays = {name: np.asfortranarray(array) for name, array in content.items()}
    assert pack_arrays(dict(reversed(arrays.items()))) == first
