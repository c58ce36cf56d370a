"""What a bulk job has done, in the store: rows as they end, then the manifest of all of them.

```
manifest.parquet                  a row a prompt, in the input's order; written last
report.html                       a page about them
bulk/{name}/rows/{…}.parquet      rows that have ended since; gone when the manifest is there
```

A generation is found by its id in the store itself; this only spares looking for each of them.
So the loss of any of these costs time, and no sound is made twice.
"""

from __future__ import annotations

import io
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet

from deployments.bulk.rows import ROW_SCHEMA, Json
from pipeline.errors import StoreUnavailable
from pipeline.generations import audio_key
from pipeline.store import Store

_FLUSH_ROWS: Final = 500
_FLUSH_S: Final = 5.0
_AT_ONCE: Final = 16


class Journal:
    """The rows of one job that have ended, by id. For one thread.

    name: of the manifest, without its suffix: two jobs in one store need two.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store, self.name = store, name
        self.manifest_key, self.report_key = f"{name}.parquet", "report.html"
        if name != "manifest":
            self.report_key = f"{name}-report.html"
        self._folder = f"bulk/{name}/rows/"
        self._fresh: list[Json] = []
        self._flushed_s = time.monotonic()
        self._listed: list[str] | None = None  # ids in the manifest that is there
        self._parts: list[str] = []
        self.rows: dict[str, Json] = {}

    def is_finished(self, ids: Sequence[str]) -> bool:
        """Say whether the manifest is of just these rows, and nothing has come since."""
        return self._listed == list(ids) and not self._parts

    def load(self, *, is_model: str, wanted: Mapping[str, str]) -> None:
        """Read what earlier runs have left, as far as it still holds.

        Args:
            is_model: rows made with a model of another digest do not count.
            wanted: id → digest of the row; others are of an older input.

        Raises:
            StoreUnavailable.
        """
        self._parts = self._store.list(self._folder)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            tables = list(pool.map(self._read, [self.manifest_key, *self._parts]))
            if tables[0] is not None:
                self._listed = tables[0].column("id").to_pylist()
            for table in tables:
                for row in [] if table is None else table.to_pylist():
                    if wanted.get(row["id"]) != row["row_sha256"]:
                        continue
                    if row["status"] == "ok" and row["model_digest"] != is_model:
                        continue
                    self.rows[row["id"]] = row

    def drop_lost(self) -> int:
        """Forget rows whose sound is no longer in the store; say how many there were."""
        ok = [row for row in self.rows.values() if row["status"] == "ok"]
        prefixes = sorted({f"generations/{row['generation_id'][:2]}/" for row in ok})
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            there = {key for keys in pool.map(self._store.list, prefixes) for key in keys}
        lost = [row["id"] for row in ok if audio_key(row["generation_id"], "wav") not in there]
        for row_id in lost:
            del self.rows[row_id]
        return len(lost)

    def drop_errors(self) -> None:
        """Forget rows that ended with an error, so that they are tried again."""
        self.rows = {key: row for key, row in self.rows.items() if row["status"] == "ok"}

    def add(self, rows: Iterable[Json]) -> None:
        """Note rows that have ended; now and then, in the store."""
        for row in rows:
            self.rows[row["id"]] = row
            self._fresh.append(row)
        if len(self._fresh) >= _FLUSH_ROWS or time.monotonic() - self._flushed_s > _FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Put what is new in the store.

        Raises:
            StoreUnavailable: nothing is lost; flush again.
        """
        self._flushed_s = time.monotonic()
        if self._fresh:
            key = f"{self._folder}{time.time_ns():020d}-{secrets.token_hex(4)}.parquet"
            self._store.put(key, _parquet(self._fresh))
            self._fresh = []

    def finish(self, ids: Sequence[str]) -> None:
        """Write the manifest of these rows, in this order; then nothing else is needed.

        Raises:
            StoreUnavailable.
        """
        rows = [{**self.rows[row_id], "row": number} for number, row_id in enumerate(ids)]
        self._store.put(self.manifest_key, _parquet(rows))
        for key in self._store.list(self._folder):
            self._store.delete(key)

    @property
    def num_errors(self) -> int:
        return sum(row["status"] != "ok" for row in self.rows.values())

    def _read(self, key: str) -> pa.Table | None:
        data = self._store.get(key)
        if data is None:
            return None
        try:
            return pyarrow.parquet.read_table(io.BytesIO(data), schema=ROW_SCHEMA)
        except (pa.ArrowException, OSError) as error:
            raise StoreUnavailable(f"{key} is damaged: {error}") from error


def _parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    out = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(list(rows), ROW_SCHEMA), out)
    return out.getvalue()
