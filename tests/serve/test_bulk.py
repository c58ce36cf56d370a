"""Bulk jobs by their command on a cluster of two nodes, with everything dying that can."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from otlp import Sink
from s3_server import BUCKET, S3Server

from pipeline import Bark
from pipeline.audio import SyntheticLabel, encode
from pipeline.generations import Generations, audio_key
from pipeline.store import Store, open_store
from pipeline.stored_voices import Voices
from pipeline.voice_sources import voice_library

Json = dict[str, Any]
SEED = int(os.environ.get("BARK_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
ROOM = 8  # rows under way at most
STORY = "Seven birds are in the garden. Good morning. " * 3
ROWS: list[Json] = [
    {"id": "plain", "text": "Good morning.", "seed": 1},
    {"id": "seedless", "text": "Good morning.", "voice": "oak"},
    {"id": "greedy", "text": "Hello.", "seed": 2, "semantic": {"temperature": 0}},
    {"id": "chained", "text": STORY, "seed": 3, "long_form": "chained"},
    {"id": "parallel", "text": STORY, "seed": 4, "voice": "heart"},
    {"id": "talk", "turns": [{"voice": "oak", "text": "Hello."}, {"text": "Yes."}], "seed": 5},
    {"id": "empty", "text": "  "},
    {"id": "stranger", "text": "Hello.", "voice": "stranger", "seed": 6},
    {"id": "long", "text": "word " * 20_000},
    {"id": "typed", "text": 5},
]
ERRORS = {
    "empty": "invalid_request",
    "stranger": "voice_not_found",
    "long": "text_too_long",
    "typed": "invalid_request",
}


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    found = Sink()
    yield found
    found.close()


@pytest.fixture(scope="module")
def nodes(sink: Sink, s3_server: S3Server) -> Iterator[Any]:
    """A head, and a node that is coarse's pool."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environment().items():
            patch.setenv(name, value)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url)
        found = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 8, "include_dashboard": False}
        )
        found.coarse = found.add_node(num_cpus=2, labels={"bark.stage": "coarse"})
        yield found
        found.shutdown()


@pytest.fixture(scope="module")
def bark() -> Iterator[Bark]:
    with Bark.load() as found:
        yield found


def command(nodes: Any, prompts: Path, output: str, *more: str) -> list[str]:
    module = [sys.executable, "-m", "deployments.bulk"]
    given = [
        "--input",
        str(prompts),
        "--output",
        output,
        "--config",
        str(prompts.parent / "c.yaml"),
    ]
    return [*module, *given, "--address", nodes.address, "--json", *more]


def run(nodes: Any, prompts: Path, output: str, *more: str) -> tuple[int, Json]:
    """Run a job to its end; return its exit code, and what it says last."""
    last = states(nodes, prompts, output, *more)[-1]
    return last.pop("code"), last


def states(nodes: Any, prompts: Path, output: str, *more: str) -> list[Json]:
    """Run a job to its end; return everything that it says."""
    done = subprocess.run(
        command(nodes, prompts, output, *more), capture_output=True, text=True, timeout=400
    )
    assert done.stdout, done.stderr
    return [{**json.loads(line), "code": done.returncode} for line in done.stdout.splitlines()]


def write(folder: Path, rows: list[Json], *, actors: int = 1) -> Path:
    """Write prompts, and beside them a config with so many actors a stage."""
    import yaml

    from deployments.serve_file import load_serve_file

    given = load_serve_file(Path(__file__).parents[2] / "serve_config.yaml")
    pool = {"min_size": actors, "max_size": actors, "num_cpus": 0.1}
    pools = dict.fromkeys(("text", "semantic", "coarse", "fine", "codec", "chained"), pool)
    given["applications"][0]["args"]["bulk"] = {**pools, "max_in_flight": ROOM}
    (folder / "c.yaml").write_text(yaml.safe_dump(given))
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def manifest(store: Store) -> list[Json]:
    return pq.read_table(io.BytesIO(store.get("manifest.parquet") or b"")).to_pylist()


def check_sounds(store: Store, rows: list[Json]) -> None:
    for row in rows:
        if row["status"] == "ok":
            sound = store.get(audio_key(row["generation_id"], "wav")) or b""
            assert hashlib.sha256(sound).hexdigest() == row["sha256"], row["id"]


def kept_before(bark: Bark, store: Store, row: Json) -> str:
    """Make a row as the service does, and return the sha256 of its file."""
    clip = bark.generate(**{name: value for name, value in row.items() if name != "id"})
    label = SyntheticLabel("nano", clip.id, clip.seed, clip.request.voice)
    sound = encode(clip.samples, clip.sample_rate, "wav", label)
    facts = {**bark.manifest(clip), "owner": "before"}
    Generations(store).save(clip.id, sound, "wav", clip.tokens.as_mapping(), facts)
    return hashlib.sha256(sound).hexdigest()


def test_rows_are_made_as_online_and_bad_ones_are_rows_with_errors(
    nodes, bark, sink, s3_server, tmp_path, monkeypatch
):
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    place, elsewhere = f"s3://{BUCKET}/bulk", open_store(tmp_path / "elsewhere")
    store, parent = open_store(place), f"00-{'ab' * 16}-{'cd' * 8}-01"
    before = kept_before(bark, store, ROWS[0])  # by the service
    prompts = write(tmp_path, [*ROWS[:4], {**ROWS[4], "trace": {"traceparent": parent}}, *ROWS[5:]])

    code, end = run(nodes, prompts, place)
    assert (code, end["ok"], end["errors"], end["left"]) == (1, 6, 4, 0)
    rows = {row["id"]: row for row in manifest(store)}
    assert list(rows) == [row["id"] for row in ROWS]
    assert {key: row["error"] for key, row in rows.items() if row["status"] != "ok"} == ERRORS
    check_sounds(store, list(rows.values()))
    assert rows["plain"]["sha256"] == before
    found = Generations(store).load_manifest(rows["plain"]["generation_id"])
    assert found is not None
    assert found["owner"] == "before"
    for row in ROWS[1:6]:
        seeded = {"seed": rows[row["id"]]["seed"], **row}
        assert rows[row["id"]]["sha256"] == kept_before(bark, elsewhere, seeded), row["id"]
        assert rows[row["id"]]["device_seconds"] > 0
        assert rows[row["id"]]["uri"].startswith(f"{place}/generations/")

    # one tree a row, from the caller's span to the codec, over all of its processes
    roots = [root for root in sink.trees() if root.parent_id == "cd" * 8]
    assert [root.name for root in roots] == ["bark.request"]
    segments = [child for child in roots[0].children if child.name == "bark.segment"]
    assert len(segments) > 1
    for segment in segments:
        assert segment.names == ["bark.semantic", "bark.coarse", "bark.fine", "bark.codec"]
        assert [s.resource["service.name"] for s in segment.children] == segment.names
    assert roots[0].attributes["bark.id"] == rows["parallel"]["generation_id"]
    assert roots[0].names[-1] == "bark.store"

    code, end = run(nodes, prompts, place)
    assert (code, end["made"], end["errors"]) == (1, 0, 4)

    # only the errors again, one of which is none any longer
    library = voice_library("nano", bark.checkpoint)
    Voices(store).add("stranger", library.get("oak"), {})
    code, end = run(nodes, prompts, place, "--retry-errors")
    assert (code, end["made"], end["ok"], end["errors"]) == (1, 4, 7, 3)
    again = {row["id"]: row for row in manifest(store)}
    assert again["stranger"]["status"] == "ok"
    assert again["plain"] == rows["plain"]


def test_several_actors_a_pool_and_a_stop_at_the_first_error(nodes, bark, tmp_path):
    good = [{"id": f"row {n}", "text": f"Number {n}.", "seed": n} for n in range(24)]
    prompts = write(tmp_path, [{"id": "bad", "text": " "}, *good])
    store = open_store(tmp_path / "out")

    stopped = states(nodes, prompts, str(tmp_path / "out"), "--fail-fast")[-1]
    assert (stopped["code"], stopped["errors"], stopped["manifest"]) == (1, 1, None)
    assert stopped["left"] > 0
    assert store.get("manifest.parquet") is None

    write(tmp_path, [{"id": "bad", "text": " "}, *good], actors=2)
    said = states(nodes, prompts, str(tmp_path / "out"))
    assert (said[-1]["code"], said[-1]["ok"], said[-1]["left"]) == (1, 24, 0)
    assert said[0]["todo"] == stopped["left"]  # the error is noted, and not tried again
    most = {
        stage: max(s["stages"].get(stage, {}).get("actors", 0) for s in said if "stages" in s)
        for stage in ("semantic", "coarse", "fine", "codec")
    }
    assert set(most.values()) == {2}
    rows = manifest(store)
    assert [row["id"] for row in rows] == ["bad", *(row["id"] for row in good)]
    check_sounds(store, rows)
    for row in (rows[1], rows[12], rows[24]):
        n = row["seed"]
        assert row["sha256"] == kept_before(bark, open_store(tmp_path / "own"), good[n])


def test_a_recheck_trusts_no_note_and_makes_only_what_is_gone(nodes, tmp_path):
    rows = [{"id": f"row {n}", "text": f"Number {n}.", "seed": n} for n in range(4)]
    prompts, output = write(tmp_path, rows), tmp_path / "out"
    assert run(nodes, prompts, str(output))[0] == 0
    store = open_store(output)
    before = manifest(store)
    gone = before[2]["generation_id"]
    assert store.delete(f"generations/{gone[:2]}/{gone}/manifest.json")
    # its sound is there still, so the job's notes are believed, until somebody asks
    assert run(nodes, prompts, str(output))[1]["made"] == 0

    code, end = run(nodes, prompts, str(output), "--recheck")
    assert (code, end["ok"], end["errors"]) == (0, 4, 0)
    assert Generations(store).load_manifest(gone) is not None
    after = manifest(store)
    assert [row["sha256"] for row in after] == [row["sha256"] for row in before]
    for n in (0, 1, 3):
        assert after[n]["device_seconds"] == before[n]["device_seconds"]


def test_a_job_outlives_driver_actor_and_node_and_makes_every_row_once(nodes, tmp_path):
    print(f"BARK_TEST_SEED={SEED}")
    dice, kills = random.Random(SEED), 0
    rows = [{"id": f"row {n}", "text": f"Number {n}.", "seed": n} for n in range(40)]
    prompts, output = write(tmp_path, rows), tmp_path / "out"
    arguments = command(nodes, prompts, str(output))
    entered = 0
    nodes_left = [nodes.coarse]

    def kill_driver(process: subprocess.Popen[str], _: Json) -> bool:
        process.kill()
        return True

    def kill_actor(_: subprocess.Popen[str], state: Json) -> bool:
        stage = dice.choice([name for name, found in state["stages"].items() if found["pids"]])
        os.kill(state["stages"][stage]["pids"][0], signal.SIGKILL)
        return False

    def kill_node(_: subprocess.Popen[str], __: Json) -> bool:
        nodes.remove_node(nodes_left.pop(), allow_graceful=False)
        return False

    def interrupt(process: subprocess.Popen[str], _: Json) -> bool:
        process.send_signal(signal.SIGINT)
        return False

    codes = []
    for blows in ([kill_driver], [kill_actor, interrupt], [kill_node]):
        last: Json = {}
        entered_now = 0
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
            due: int | None = None
            assert process.stdout is not None
            for line in process.stdout:
                state = json.loads(line)
                if state["event"] != "progress":
                    last = state
                    continue
                entered_now = state["entered"]
                if blows and state["in_flight"] and due is None:
                    due = state["rows"] + dice.randint(0, 3)
                if blows and due is not None and state["rows"] >= due:
                    kills += 1
                    due = None
                    if blows.pop(0)(process, state):
                        break
            codes.append(process.wait(120))
        entered += entered_now
    assert codes == [-signal.SIGKILL, 130, 0]
    assert (last["event"], last["ok"], last["left"]) == ("end", 40, 0)
    store = open_store(output)
    found = manifest(store)
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    check_sounds(store, found)
    assert len(Generations(store).list()) == 40
    assert entered <= 40 + kills * ROOM
    code, end = run(nodes, prompts, str(output))
    assert (code, end["made"]) == (0, 0)


def test_the_example_runs_as_it_stands(nodes, tmp_path):
    script = Path(__file__).parents[2] / "examples" / "bulk.py"
    ran = subprocess.run(
        [sys.executable, str(script), "out", "--address", nodes.address],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert "12 of 13 rows are made, 1 are errors" in ran.stdout, ran.stderr
    assert "exit code 1" in ran.stdout
    assert "room-11 ok" in ran.stdout
    assert "empty error the text is empty" in ran.stdout
    assert (tmp_path / "out" / "report.html").stat().st_size > 100_000
