"""`make bulk`: ten thousand prompts with a tiny model, on two cores; memory stays where it was."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.generations import Generations, audio_key
from pipeline.models.seeded import build_seeded
from pipeline.store import open_store

NUM_ROWS = int(os.environ.get("BARK_TEST_ROWS", "10000"))
ROOM = 64
MOST_GROWTH_MB = 300  # of all processes together, from a tenth of the rows to the last
WORDS = ("train", "seven", "garden", "letter", "green", "river", "book", "key")


def memory_mb(session: int) -> float:
    """Return what the processes of a session have for themselves."""
    total = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if os.getsid(int(entry.name)) != session:
                continue
            for line in (entry / "smaps_rollup").read_text().splitlines():
                if line.startswith(("Private_Clean:", "Private_Dirty:")):
                    total += int(line.split()[1])
        except OSError:
            continue
    return total / 1024


@pytest.mark.soak
def test_ten_thousand_prompts_stay_within_bounds(tmp_path):
    model = tmp_path / "tiny"
    build_seeded(model, size="tiny", seed=0, layout="hf")
    prompts, output = tmp_path / "prompts.jsonl", tmp_path / "out"
    with prompts.open("w") as file:
        for number in range(NUM_ROWS):
            said = " ".join(WORDS[number // 8**place % 8] for place in range(5))
            fields = {"text": said, "semantic": {"max_duration_s": 0.3}}
            print(json.dumps({"id": f"n{number}", **fields}), file=file)
    began_s, peaks, most_inside = time.monotonic(), dict[int, float](), 0
    command = [
        *(sys.executable, "-m", "deployments.bulk", "--json", "--model", str(model)),
        *("--input", str(prompts), "--output", str(output), "--in-flight", str(ROOM)),
    ]
    state = {}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
    ) as job:
        assert job.stdout is not None
        for line in job.stdout:
            state = json.loads(line)
            if state["event"] == "progress":
                most_inside = max(most_inside, state["in_flight"])
                tenth = 10 * state["rows"] // NUM_ROWS
                peaks[tenth] = max(peaks.get(tenth, 0.0), memory_mb(job.pid))
                if peaks[tenth] and state["rows"] % 7 == 0:
                    print(f"{state['rows']} rows, {peaks[tenth]:.0f} MB", flush=True)
    assert job.returncode == 0
    print(f"{NUM_ROWS} rows in {time.monotonic() - began_s:.0f} s; MB by tenth: {peaks}")
    assert state["ok"] == NUM_ROWS
    assert most_inside <= ROOM
    assert peaks[max(peaks)] - peaks[1] < MOST_GROWTH_MB
    store = open_store(output)
    rows = pq.read_table(io.BytesIO(store.get("manifest.parquet") or b"")).to_pylist()
    assert [row["id"] for row in rows] == [f"n{number}" for number in range(NUM_ROWS)]
    assert len(Generations(store).list()) == len({row["generation_id"] for row in rows})
    for row in rows:
        sound = store.get(audio_key(row["generation_id"], "wav")) or b""
        assert hashlib.sha256(sound).hexdigest() == row["sha256"]
