"""One cluster a module."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for cluster.py

from cluster import Served


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    cluster = Served()
    try:
        yield cluster
    finally:
        cluster.close()
