"""Finds, loads and types the compiled kernel library; says whether it can run here.

The sources beside this file are compiled by `hatch_build.py`. The binding that the engine uses is
`pipeline.engine.native_gpt`.
"""

import ctypes
import math
import os
from functools import cache
from pathlib import Path
from typing import Any

LIBRARY = Path(__file__).parent / "_kernels.so"
CPU_FLAGS = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni", "avx512bf16")

_POINTER = ctypes.c_void_p
_INT = ctypes.c_int
# Result and arguments of each function of api.cpp.
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "bark_missing_features": (_INT, ()),
    "bark_set_num_threads": (None, (_INT,)),
    "bark_gpt_new": (_POINTER, (_INT,) * 8),
    "bark_gpt_delete": (None, (_POINTER,)),
    "bark_gpt_load_linear": (None, (_POINTER, _INT, _INT, _POINTER, _POINTER)),
    "bark_gpt_load_norm": (None, (_POINTER, _INT, _INT, _POINTER, _POINTER)),
    "bark_gpt_load_head": (_INT, (_POINTER, _INT, _INT, _POINTER)),
    "bark_gpt_weight_bytes": (ctypes.c_int64, (_POINTER,)),
    "bark_gpt_cache_bytes": (ctypes.c_int64, (_POINTER,)),
    "bark_gpt_discard_cache": (None, (_POINTER,)),
    "bark_gpt_extend": (_INT, (_POINTER, _INT, _INT, _INT, _POINTER, _INT, _POINTER)),
    "bark_gpt_decode": (_INT, (_POINTER, _POINTER, _POINTER, _INT, _POINTER, _INT, _POINTER)),
    "bark_gpt_encode": (_INT, (_POINTER, _INT, _POINTER, *(_INT,) * 4, _POINTER)),
    "bark_draw": (_INT, (_POINTER, _INT, _INT, _POINTER, _POINTER)),
}


def is_supported() -> tuple[bool, str]:
    """Say whether the kernels can run here, and if not, why."""
    if not LIBRARY.exists():
        return (
            False,
            "the kernels are not built: install a C++ compiler, then `python hatch_build.py`",
        )
    try:
        missing = _load().bark_missing_features()
    except OSError as error:
        return False, f"the kernel library cannot be loaded: {error}"
    except AttributeError as error:
        return False, f"the kernel library is older than its binding: {error}"
    names = [name for bit, name in enumerate(CPU_FLAGS) if missing >> bit & 1]
    return (False, f"this CPU lacks {', '.join(names)}") if names else (True, "")


@cache
def kernels() -> ctypes.CDLL:
    """Return the library, its pool of threads set to `default_num_threads` on the first call."""
    library = _load()
    library.bark_set_num_threads(default_num_threads())
    return library


def default_num_threads() -> int:
    """Return OMP_NUM_THREADS, or how many CPUs this process may keep busy.

    A container's CPU quota counts: threads beyond it would spin away the time of the others.
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if wanted.isdecimal() and int(wanted) >= 1:
        return int(wanted)
    usable = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        usable = min(usable, max(1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2, or no limit ("max")
        pass
    return usable


@cache
def _load() -> ctypes.CDLL:
    library = ctypes.CDLL(str(LIBRARY))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library
