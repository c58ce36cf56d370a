"""Rows of prompt files: whole, in spans, named, and bad ones where they stand."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_server import BUCKET, S3Server

from deployments.bulk.prompts import RawRow, read_span, scan
from deployments.bulk.rows import PromptIds, seed_of
from pipeline.errors import InvalidRequest
from pipeline.request import SynthesisRequest


def rows_of(path: Path | str) -> list[RawRow]:
    """Read a file both ways: at once, and span by span again."""
    parts = list(scan(str(path)))
    assert [rows for _, rows in parts] == [read_span(span) for span, _ in parts]
    return [row for _, rows in parts for row in rows]


def fields_of(path: Path) -> list[object]:
    return [row.fields for row in rows_of(path)]


def test_jsonl_keeps_types_and_nested_settings(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        '{"id": 7, "text": "Hello", "semantic": {"top_k": null, "min_eos_p": null}}\n\n'
        '{"text": "Grüße", "seed": 3, "coarse.temperature": 0}\n'
    )
    assert fields_of(path) == [
        {"id": 7, "text": "Hello", "semantic": {"top_k": None, "min_eos_p": None}},
        {"text": "Grüße", "seed": 3, "coarse": {"temperature": 0}},
    ]


def test_a_broken_line_spoils_no_other(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b'{"text": "one"}\n{"text": \n[1]\n"x"\n\xff\xfe\n{"text": "two"}')
    rows = rows_of(path)
    assert [row.fields for row in rows] == [
        {"text": "one"},
        None,
        None,
        None,
        None,
        {"text": "two"},
    ]
    assert "no JSON" in rows[1].problem
    assert "no JSON object but list" in rows[2].problem


def test_csv_cells_become_numbers_by_the_requests_own_rules(tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_text(
        "\ufeffid,text,seed,silence_s,semantic.allow_early_stop,semantic.top_k\n"
        'a,"Two lines,\nand a ""quote""",7,0.5,false,40\n'
        "b,plain,,,,\n"
    )
    first, second = fields_of(path)
    request = SynthesisRequest.parse({k: v for k, v in first.items() if k != "id"})
    assert request.text == 'Two lines,\nand a "quote"'
    assert (request.seed, request.silence_s) == (7, 0.5)
    assert (request.semantic.allow_early_stop, request.semantic.top_k) == (False, 40)
    assert second == {"id": "b", "text": "plain"}


def test_a_csv_row_of_too_many_cells_is_a_bad_row(tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_text("id,text\na,one,more\nb,two\n,\n")
    first, second, third = rows_of(path)
    assert first.fields is None
    assert "3 cells for 2 columns" in first.problem
    assert second.fields == {"id": "b", "text": "two"}
    assert third.fields == {"text": ""}  # refused later: there is nothing to say


def test_parquet_nulls_are_what_was_not_given(tmp_path):
    path = tmp_path / "prompts.parquet"
    table = pa.table(
        {
            "id": ["a", "b"],
            "text": ["one", "two"],
            "seed": [1.0, float("nan")],
            "semantic": [{"temperature": 0.5, "top_k": None}, None],
        }
    )
    pq.write_table(table, path)
    assert fields_of(path) == [
        {"id": "a", "text": "one", "seed": 1.0, "semantic": {"temperature": 0.5}},
        {"id": "b", "text": "two"},
    ]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_large_files_are_read_in_spans_without_loss(tmp_path, kind):
    path, rows = (
        tmp_path / f"prompts.{kind}",
        [{"id": f"n{n}", "text": f"{n}\n{n}"} for n in range(9000)],
    )
    if kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif kind == "csv":
        path.write_text("id,text\n" + "".join(f'{r["id"]},"{r["text"]}"\n' for r in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=5000)
    assert fields_of(path) == rows
    assert len(list(scan(str(path)))) > 2


def test_files_in_a_bucket_are_read_like_those_on_disk(s3: S3Server):
    body = b"".join(b'{"text": "%d"}\n' % n for n in range(600))
    s3.client().put_object(Bucket=BUCKET, Key="in/prompts.jsonl", Body=body)
    rows = rows_of(f"s3://{BUCKET}/in/prompts.jsonl")
    assert [row.fields["text"] for row in rows] == [str(n) for n in range(600)]
    with pytest.raises(InvalidRequest, match="can not read"):
        list(scan(f"s3://{BUCKET}/in/other.jsonl"))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("prompts.csv", "id,txet\na,one\n", "no request has a field 'txet'; did you mean text?"),
        ("prompts.csv", "text,text\none,two\n", "twice"),
        ("prompts.txt", "one", "ends in .jsonl"),
        ("prompts.parquet", "no parquet", "can not read"),
    ],
)
def test_a_file_that_is_none_is_refused_as_a_whole(tmp_path, name, content, says):
    (tmp_path / name).write_text(content)
    with pytest.raises(InvalidRequest, match=says):
        list(scan(str(tmp_path / name)))


# ── names ────────────────────────────────────────────────────────────────────────────────────────
def test_rows_without_an_id_are_named_after_what_they_hold():
    def names(*texts: str) -> list[str]:
        ids = PromptIds()
        return [ids.name(RawRow({"text": text})).id for text in texts]

    first = names("one", "two", "one")
    assert first[2] == f"{first[0]}-2"
    assert names("new", "two", "one", "one") == [names("new")[0], first[1], first[0], first[2]]
    assert len({seed_of(name) for name in first}) == 3
    assert seed_of("a") == 1622937883  # of every run, on every machine: never change


def test_two_rows_of_one_id_are_refused_and_named():
    ids = PromptIds()
    ids.name(RawRow({"id": "a", "text": "one"}))
    ids.name(RawRow({"id": 5, "text": "one"}))
    with pytest.raises(InvalidRequest, match="rows 2 and 3 have the same id, '5'"):
        ids.name(RawRow({"id": "5", "text": "two"}))


@pytest.mark.parametrize("given", [True, 1.5, ["a"], "", "a\nb", "x" * 201])
def test_an_odd_id_is_a_bad_row(given):
    row = PromptIds().name(RawRow({"id": given, "text": "one"}))
    assert row.fields is None
    assert row.problem.startswith("id must")
