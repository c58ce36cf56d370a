"""`python -m pipeline.bench.child JOB`: one measurement in a process of its own.

JOB is a JSON object: `run` names the measurement, the rest are its arguments. Standard output ends
with one JSON line; lines of standard error that begin with `NOTE` are progress. Exit code 2: the
job itself was wrong.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from typing import NoReturn

from pipeline.errors import BarkError, InvalidRequest

NOTE = "> "
# imported when asked for: one side must not pay for the other's imports
RUNS = {
    "prepare": "pipeline.bench.workload:prepare",
    "ceilings": "pipeline.bench.machine:ceilings",
    "single": "pipeline.bench.ours:single",
    "concurrent": "pipeline.bench.ours:concurrent",
    "scaling": "pipeline.bench.scaling:scaling",
    "transformers": "pipeline.bench.baseline:transformers_clip",
    # above this package: named here, and known to nobody
    "serve": "deployments.bench:overhead",
    "bulk": "deployments.bulk.bench:pipeline",
}


def note(text: str) -> None:
    """Tell the person who waits; the parent shows it."""
    print(f"{NOTE}{text}", file=sys.stderr, flush=True)


def main() -> NoReturn:
    """Run one job."""
    job = json.loads(sys.argv[1])
    module, _, name = RUNS[job.pop("run")].partition(":")
    try:
        result = getattr(import_module(module), name)(**job)
    except BarkError as error:
        print(error.message, file=sys.stderr)
        sys.exit(2 if isinstance(error, InvalidRequest) else 1)
    print(json.dumps(result), flush=True)
    sys.exit(0)


if __name__ == "__main__":
    main()
