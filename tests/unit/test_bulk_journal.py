"""What a job remembers: rows that still hold, whenever it was killed."""

import io
from typing import Any

import pyarrow.parquet as pq
import pytest

from deployments.bulk.journal import Journal
from deployments.bulk.rows import ROW_SCHEMA
from pipeline.errors import StoreUnavailable
from pipeline.store.local import LocalStore

MODEL = "m" * 64


def row(row_id: str, **more: Any) -> dict[str, Any]:
    found = {
        "row": 0,
        "id": row_id,
        "status": "ok",
        "row_sha256": f"sha of {row_id}",
        "generation_id": f"ab{row_id}0000",
        "model_digest": MODEL,
    }
    return found | more


def opened(store: LocalStore, *ids: str, **changed: str) -> Journal:
    journal = Journal(store, "manifest")
    wanted = {row_id: changed.get(row_id, f"sha of {row_id}") for row_id in ids}
    journal.load(is_model=MODEL, wanted=wanted)
    return journal


def test_rows_outlive_a_job_that_is_killed_after_a_flush(tmp_path):
    store = LocalStore(tmp_path)
    journal = opened(store, "a", "b", "c")
    journal.add([row("a"), row("b", status="error", model_digest=None)])
    journal.flush()
    journal.add([row("c")])  # killed before the next
    again = opened(store, "a", "b", "c")
    assert sorted(again.rows) == ["a", "b"]
    assert again.num_errors == 1
    again.drop_errors()
    assert list(again.rows) == ["a"]


def test_the_manifest_is_in_the_inputs_order_and_nothing_else_is_left(tmp_path):
    store = LocalStore(tmp_path)
    journal = opened(store, "a", "b")
    journal.add([row("b"), row("a")])
    journal.flush()
    journal.finish(["a", "b"])
    table = pq.read_table(io.BytesIO(store.get("manifest.parquet") or b""))
    assert table.schema.equals(ROW_SCHEMA)
    assert table.column("id").to_pylist() == ["a", "b"]
    assert table.column("row").to_pylist() == [0, 1]
    assert store.list("bulk/") == []
    assert opened(store, "a", "b").is_finished(["a", "b"])
    assert not opened(store, "a", "b").is_finished(["b", "a"])


def test_rows_of_another_request_or_model_do_not_count(tmp_path):
    store = LocalStore(tmp_path)
    journal = opened(store, "a", "b", "c", "d")
    journal.add([row("a"), row("b"), row("c", model_digest="other"), row("d")])
    journal.finish(["a", "b", "c", "d"])
    assert list(opened(store, "a", "b", "c", b="edited").rows) == ["a"]


def test_rows_whose_sound_is_gone_are_forgotten(tmp_path):
    store = LocalStore(tmp_path)
    journal = opened(store, "a", "b", "c")
    journal.add([row("a"), row("b"), row("c", status="error")])
    store.put("generations/ab/aba0000/audio.wav", b"sound")
    assert journal.drop_lost() == 1
    assert sorted(journal.rows) == ["a", "c"]


def test_a_damaged_part_is_told_by_its_name(tmp_path):
    store = LocalStore(tmp_path)
    store.put("bulk/manifest/rows/1.parquet", b"no parquet")
    with pytest.raises(StoreUnavailable, match=r"rows/1\.parquet is damaged"):
        opened(store, "a")
