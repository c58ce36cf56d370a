import os
import subprocess
import sys

import pytest

COMMAND = [sys.executable, "-m", "pipeline"]


@pytest.fixture
def run(tmp_path):
    """Run the command line in an empty folder."""

    def run(*words, ok=True, **options) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [*COMMAND, *map(str, words)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env={**os.environ, "TERM": "dumb", "COLUMNS": "200"},
            **options,
        )
        if ok:
            assert done.returncode == 0, done.stderr
        return done

    return run
