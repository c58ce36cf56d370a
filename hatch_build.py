"""Compiles the CPU kernels into the package while hatchling builds it.

Without a compiler, or on another platform than Linux x86-64, the build succeeds with a pure wheel
and the engine runs on torch alone. By hand: `python hatch_build.py` compiles in place.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run by hand, outside a build
    BuildHookInterface = None  # type: ignore[assignment, misc]

ROOT = Path(__file__).resolve().parent
SOURCES = ROOT / "pipeline" / "engine" / "native"
LIBRARY = SOURCES / "_kernels.so"
INSTRUCTIONS = ("f", "bw", "vl", "dq", "vnni", "bf16")
# No contraction: where a multiplication and an addition round once, the sources say so.
FLAGS = (
    *("-O3", "-std=c++17", "-ffp-contract=off", "-fPIC", "-shared", "-pthread"),
    *("-fvisibility=hidden", "-mfma"),
    *(f"-mavx512{name}" for name in INSTRUCTIONS),
)


def find_compiler() -> list[str] | None:
    """Return the command of the first C++ compiler that there is."""
    for candidate in (os.environ.get("CXX", ""), "c++", "g++", "clang++"):
        command = shlex.split(candidate)
        if command and shutil.which(command[0]):
            return command
    return None


def compile_kernels() -> str | None:
    """Compile the library; return the reason if that cannot be done."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"they need Linux on x86-64, this is {sys.platform} on {platform.machine()}"
    compiler = find_compiler()
    if compiler is None:
        return "no C++ compiler found ($CXX, c++, g++, clang++)"
    # Into a file of its own first: the library may be in use, and a failure must not leave half.
    partial = LIBRARY.with_suffix(f".{os.getpid()}.partial")
    sources = [str(path) for path in sorted(SOURCES.glob("*.cpp"))]
    try:
        done = subprocess.run(
            [*compiler, *FLAGS, *sources, "-o", str(partial)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["no message"]
            first_error = next((line for line in lines if "error" in line), lines[-1])
            return f"{compiler[0]} failed: {first_error}"
        partial.replace(LIBRARY)
    finally:
        partial.unlink(missing_ok=True)
    return None


if BuildHookInterface is not None:

    class KernelsHook(BuildHookInterface):  # type: ignore[type-arg]
        PLUGIN_NAME = "custom"

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            del version
            if self.target_name != "wheel":
                return
            reason = compile_kernels()
            if reason is not None:
                self.app.display_warning(f"bark-serve: built without native CPU kernels: {reason}")
                return
            build_data["pure_python"] = False
            # Python is met through ctypes alone, so any Python 3 of this platform will do.
            build_data["tag"] = f"py3-none-{platform_tag()}"
            build_data["artifacts"].append(f"/{LIBRARY.relative_to(ROOT)}")


def platform_tag() -> str:
    """Return the wheel tag of the machine that compiles: its libc is the oldest that will do."""
    name, release = platform.libc_ver()
    if name == "glibc":
        return f"manylinux_{release.replace('.', '_')}_x86_64"
    return "linux_x86_64"


if __name__ == "__main__":
    problem = compile_kernels()
    print(f"not built: {problem}" if problem else f"built {LIBRARY.relative_to(ROOT)}")
    sys.exit(1 if problem else 0)
