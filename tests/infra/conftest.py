"""The infrastructure's files, in copies that may be changed, and what reads them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for tools.py and its neighbours
