"""What the numbers were measured on: hardware, versions, and what the hardware could do at most."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.bench.figures import Json

READ_BYTES = 256 << 20  # far beyond any CPU's cache
GEMM_SHAPE = (1024, 768, 3072)  # a fine pass of bark-small: rows, depth, columns


def hardware(device_class: str, threads: int) -> Json:
    """Describe this machine."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "device": device_class,
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> Json:
    """Name what takes part in the measurement."""
    found: Json = {"python": platform.python_version()}
    for package in ("torch", "transformers", "bark-serve"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found | {"commit": _commit()}


def ceilings(*, device: str) -> Json:
    """Measure how fast memory can be read, and how fast matrices multiply in each precision.

    The best of several runs each: a ceiling, not an average. GMAC/s counts multiply-adds.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.device(device)

    def fastest(call: Callable[[], object]) -> float:
        best = float("inf")
        for _ in range(6):
            began = time.perf_counter()
            call()
            if where.type == "cuda":
                torch.cuda.synchronize(where)
            best = min(best, time.perf_counter() - began)
        return best

    ones = torch.ones(READ_BYTES // 8, dtype=torch.int64, device=where)
    found: Json = {"read_gb_per_s": READ_BYTES / fastest(ones.max) / 1e9}
    rows, depth, columns = GEMM_SHAPE
    x, weight = torch.randn(rows, depth, device=where), torch.randn(columns, depth, device=where)

    def multiply(dtype: torch.dtype) -> Callable[[], object]:
        if dtype == torch.int8:
            a, b = (x * 20).to(dtype), (weight * 20).to(dtype).t()
            return lambda: torch._int_mm(a, b)
        a, b = x.to(dtype), weight.to(dtype).t()
        return lambda: a @ b

    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("int8", torch.int8)):
        try:
            seconds = fastest(multiply(dtype))
        except RuntimeError:  # a device without this product
            continue
        found[f"gemm_{name}_gmac_per_s"] = rows * depth * columns / seconds / 1e9
    return found


def peak_memory_bytes() -> int:
    """Return the most memory that this process ever held.

    NOTE: `ru_maxrss` of a child begins at its parent's peak on Linux; VmHWM begins anew.
    """
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def machine_busy_s() -> float | None:
    """Return the CPU seconds that all processes together have used, None where nobody counts."""
    try:
        user, nice, system, _, _, irq, soft_irq, steal = map(
            int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        )
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + soft_irq + steal) / os.sysconf("SC_CLK_TCK")


def _cpu_model() -> str:
    """Return the processor's name; with family, model and stepping, for names hide generations."""
    try:
        described = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0]
        pairs = (line.partition(":") for line in described.splitlines())
        fields = {key.strip(): value.strip() for key, _, value in pairs}
        marks = "/".join(fields[key] for key in ("cpu family", "model", "stepping"))
        return f"{fields['model name']} ({marks})"
    except (OSError, KeyError):
        return platform.processor() or platform.machine()


def _commit() -> str | None:
    """Return the commit of the source tree that runs, `+` behind it where files were changed."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    # no locks: somebody may be committing in this tree
    git = ["git", "--no-optional-locks", "-C", str(root)]
    try:
        head = subprocess.check_output([*git, "rev-parse", "--short=12", "HEAD"], text=True)
        changes = subprocess.check_output([*git, "status", "--porcelain", "-uno"], text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.strip() + ("+" if changes else "")
