"""The prompts of a bulk job: rows of JSONL, CSV and Parquet files, on disk or in a bucket.

Files are read in spans, each by one task. A row that is no row (broken JSON, bytes that are no
text) is one with a problem, never the end of its file: that is why no reader of tables is used
for JSONL and CSV, where one odd cell would spoil a block.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet

from pipeline.errors import InvalidRequest
from pipeline.request import SynthesisRequest

Kind = Literal["jsonl", "csv", "parquet"]
Fields = dict[str, Any]

_KINDS: Final[Mapping[str, Kind]] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}
_SPAN_ROWS: Final = 256
_SPAN_BYTES: Final = 1_000_000
_GROUP_ROWS: Final = 4096  # of a Parquet row group, which is read anew for each span
_NESTED: Final = ("semantic", "coarse", "fine")
# Beside the fields of a request: what a row is called, and the trace that it belongs to.
OWN_COLUMNS: Final = ("id", "trace")
csv.field_size_limit(100_000_000)


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a file: bytes start…stop - 1, or these rows of a Parquet row group."""

    path: str
    kind: Kind
    start: int
    stop: int
    group: int = 0
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as it was given: fields by name, or what is wrong with it."""

    fields: Fields | None
    problem: str = ""


def scan(path: str) -> Iterator[tuple[Span, list[RawRow]]]:
    """Read a whole file, span by span.

    Raises:
        InvalidRequest: it can not be read, is of no known kind, or has a column that no request
            has.
    """
    kind = _KINDS.get(Path(path).suffix.lower())
    if kind is None:
        raise InvalidRequest(f"{path}: give a file that ends in {', '.join(_KINDS)}.")
    with _open(path) as file:
        try:
            if kind == "parquet":
                yield from _scan_parquet(path, file)
            else:
                yield from _scan_text(path, kind, io.BufferedReader(file))
        except (OSError, pa.ArrowException) as error:
            raise InvalidRequest(f"can not read {path}: {error}") from None


def read_span(span: Span) -> list[RawRow]:
    """Read the rows of one span again.

    Raises:
        InvalidRequest: the file is gone, or can not be read.
    """
    with _open(span.path) as file:
        if span.kind == "parquet":
            group = pyarrow.parquet.ParquetFile(file).read_row_group(span.group)
            return _rows_of(group.slice(span.start, span.stop - span.start))
        file.seek(span.start)
        return list(_parse(file.read(span.stop - span.start), span))


def _open(path: str) -> Any:
    try:
        if "://" in path:
            files, inner = pyarrow.fs.FileSystem.from_uri(path)
        else:
            files, inner = pyarrow.fs.LocalFileSystem(), str(Path(path).absolute())
        return files.open_input_file(inner)
    except (OSError, pa.ArrowException) as error:
        raise InvalidRequest(f"can not read {path}: {error}") from None


# ── text ─────────────────────────────────────────────────────────────────────────────────────────
class _Lines:
    """Lines of a file, and where the last one ended."""

    def __init__(self, file: Iterable[bytes]) -> None:
        self._lines, self.position = iter(file), 0

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.position += len(line)
            yield line.decode(errors="surrogateescape")  # refused as text, later and by name


def _scan_text(path: str, kind: Kind, file: Iterable[bytes]) -> Iterator[tuple[Span, list[RawRow]]]:
    lines = _Lines(file)
    records: Iterator[Any] = iter(lines) if kind == "jsonl" else csv.reader(lines)
    columns: tuple[str, ...] = ()
    if kind == "csv":
        columns = tuple(name.strip().removeprefix("\ufeff") for name in next(records, ()))
        _check_columns(path, columns)
    start, rows = lines.position, list[RawRow]()
    for record in records:
        row = _json_row(record) if kind == "jsonl" else _csv_row(columns, record)
        if row is not None:
            rows.append(row)
        if len(rows) >= _SPAN_ROWS or lines.position - start >= _SPAN_BYTES:
            yield Span(path, kind, start, lines.position, columns=columns), rows
            start, rows = lines.position, []
    if rows:
        yield Span(path, kind, start, lines.position, columns=columns), rows


def _parse(data: bytes, span: Span) -> Iterator[RawRow]:
    lines = _Lines(io.BytesIO(data))
    records: Iterator[Any] = iter(lines) if span.kind == "jsonl" else csv.reader(lines)
    for record in records:
        row = _json_row(record) if span.kind == "jsonl" else _csv_row(span.columns, record)
        if row is not None:
            yield row


def _json_row(line: str) -> RawRow | None:
    """Return a line's row; None for one that is blank."""
    if not line.strip():
        return None
    try:
        fields = json.loads(line.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        return RawRow(None, f"the row is no JSON: {error}")
    if not isinstance(fields, dict):
        return RawRow(None, f"the row is no JSON object but {type(fields).__name__}")
    return RawRow(_nested(fields))


def _csv_row(columns: Sequence[str], cells: Sequence[str]) -> RawRow | None:
    """Return a record's row. Cells are strings, which the request's own rules turn into numbers."""
    if not cells:
        return None
    if len(cells) > len(columns):
        return RawRow(None, f"the row has {len(cells)} cells for {len(columns)} columns")
    fields: Fields = {}
    for name, cell in zip(columns, cells, strict=False):
        if cell == "" and name != "text":
            continue
        fields[name] = cell
        if name in (*_NESTED, "turns", "trace"):
            try:
                fields[name] = json.loads(cell)
            except (ValueError, RecursionError) as error:
                return RawRow(None, f"{name} is no JSON: {error}")
    if fields.get("text") == "" and "turns" in fields:
        del fields["text"]
    return RawRow(_nested(fields))


# ── Parquet ──────────────────────────────────────────────────────────────────────────────────────
def _scan_parquet(path: str, file: Any) -> Iterator[tuple[Span, list[RawRow]]]:
    table = pyarrow.parquet.ParquetFile(file)
    _check_columns(path, table.schema_arrow.names)
    for group in range(table.num_row_groups):
        rows = _rows_of(table.read_row_group(group))
        for start in range(0, len(rows), _GROUP_ROWS):
            part = rows[start : start + _GROUP_ROWS]
            yield Span(path, "parquet", start, start + len(part), group), part


def _rows_of(table: pa.Table) -> list[RawRow]:
    """Return rows without their nulls: a table has no other way to leave a cell out."""
    return [RawRow(_nested(_without_nulls(row))) for row in table.to_pylist()]


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _without_nulls(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if not _is_null(item)}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _is_null(value: Any) -> bool:
    return value is None or value == {} or (isinstance(value, float) and math.isnan(value))


# ── names ────────────────────────────────────────────────────────────────────────────────────────
def _nested(fields: Fields) -> Fields:
    """Turn `semantic.temperature` into a field of a field."""
    if not any("." in name for name in fields):
        return fields
    found: Fields = {name: value for name, value in fields.items() if "." not in name}
    for name, value in fields.items():
        group, dot, rest = name.partition(".")
        if dot:
            place = found.setdefault(group, {})
            if isinstance(place, dict):
                found[group] = {**place, rest: value}
            else:
                found[name] = value  # refused by its name
    return found


def _check_columns(path: str, columns: Sequence[str]) -> None:
    known = [*OWN_COLUMNS, *SynthesisRequest.model_fields]
    for group in _NESTED:
        settings = SynthesisRequest.model_fields[group].annotation
        known += [f"{group}.{name}" for name in settings.model_fields]  # type: ignore[union-attr]
    for name in columns:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise InvalidRequest(f"{path}: no request has a field {name!r}{hint}")
    if len(set(columns)) != len(columns):
        raise InvalidRequest(f"{path}: a column is there twice")
