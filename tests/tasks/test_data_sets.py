"""Rows from every kind of file and directory: the same rows, each with its place, and what is left out as bad."""

from __future__ import annotations

import csv
import gzip
import json
import time
from pathlib import Path

import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict
from huggingface_hub import constants

from forkpoint.tasks import load_problems
from forkpoint.tasks.data_sets import is_path, read_rows, read_source
from forkpoint.types import UserError

ROWS = [{"question": 'How many, "Ada"?\né', "answer": "007"}, {"question": "None", "answer": "1"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def made(path: Path) -> Path:
    """A file, or directory, of ROWS in the form that its name says."""
    table, kind = pyarrow.Table.from_pylist(ROWS), path.name
    if kind.startswith(("lines", "array")):
        content = LINES if kind.startswith("lines") else b"\xef\xbb\xbf\n" + json.dumps(ROWS, indent=1).encode()
        path.write_bytes(gzip.compress(content) if kind.endswith(".gz") else content)
    elif kind.endswith((".csv", ".tsv")):
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, ["question", "answer"], delimiter="," if kind.endswith("csv") else "\t")
            writer.writeheader()
            writer.writerows(ROWS)
    elif kind == "a.parquet":
        pyarrow.parquet.write_table(table, path)
    elif kind == "stream.arrow":
        with pyarrow.ipc.new_stream(path, table.schema) as stream:
            stream.write_table(table)
    elif kind == "file.arrow":
        pyarrow.feather.write_feather(table, path, compression="uncompressed")
    elif kind == "saved":
        Dataset.from_list(ROWS).save_to_disk(path)
    elif kind == "splits":
        DatasetDict({"test": Dataset.from_list(ROWS), "train": Dataset.from_list(ROWS[:1])}).save_to_disk(path)
    else:
        path.mkdir()
        (path / "test.jsonl").write_bytes(LINES)
        (path / "train.jsonl").write_bytes(LINES[:60])
    return path


KINDS = {
    "lines": "line", "lines.jsonl": "line", "lines.ndjson": "line", "lines.JSON.gz": "line", "array.json": "item",
    "array.jsonl.gz": "item", "a.csv": "row", "a.tsv": "row", "a.parquet": "row", "stream.arrow": "row",
    "file.arrow": "row", "saved": "row", "splits": "row", "directory": "row",
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_rows_of_every_kind_are_the_same(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    path = made(tmp_path / kind)
    places, rows = zip(*read_source(str(path), split="test"), strict=True)
    assert list(map(dict, rows)) == ROWS
    assert list(places) == [f"{path} {KINDS[kind]} {i}" for i in (1, 2)]
    problems = load_problems("jsonl", data=str(path))
    assert [(problem.question, problem.answer) for problem in problems] == [(ROWS[0]["question"], "7"), ("None", "1")]


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.json", b'[{"a": 1},\n{"a" 2}]', "a.json line 2: not valid JSON"),
    ("a.json", b'[{"a": 1}, 7]', "a.json item 2: expected a JSON object, got a number"),
    ("a.csv", b"a,b\n1,2\n1", "a.csv row 2: "), ("a.csv", b"a,b\n1,2,3", "a.csv row 1: "),
    ("a.csv", b"a\n\xff", "cannot read .*a.csv: UnicodeDecodeError"),
    ("a.arrow", b"none", "cannot read .*a.arrow: Arrow"), ("a.parquet", b"none", "cannot read .*a.parquet: Arrow"),
    ("a.jsonl.gz", b"none", "cannot read .*a.jsonl.gz: BadGzip"),
])  # fmt: skip
def test_a_broken_file_is_one_sentence(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as refusal:
        list(read_rows(tmp_path / name))
    assert "\n" not in str(refusal.value)


def test_bad_rows_are_left_out_and_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(LINES + b"oops\n[1]\n\xff\n" + LINES)
    (tmp_path / "a.json").write_text(json.dumps([*ROWS, 7]))
    bad: list[str] = []
    assert len(list(read_rows(tmp_path / "a.jsonl", bad=bad))) == 4
    assert len(list(read_rows(tmp_path / "a.json", bad=bad))) == 2
    assert [text.split(": ")[0].removeprefix(f"{tmp_path}/") for text in bad] == [
        "a.jsonl line 3", "a.jsonl line 4", "a.jsonl line 5", "a.json item 3",
    ]  # fmt: skip


def test_a_split_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="it has no split 'dev', but 'test', 'train'"):
        list(read_source(str(made(tmp_path / "splits")), split="dev"))


def test_what_is_not_there_is_an_error_at_once(monkeypatch):
    for name in ("a.csv", "data/more/a", "./a", "a.jsonl.gz", "a b"):
        assert is_path(name)
        with pytest.raises(UserError, match="there is no such file or directory"):
            read_source(name)
    assert not any(map(is_path, ("gsm8k", "openai/gsm8k", "owner/name.v2")))
    addresses = []

    class Session:
        def head(self, address):
            addresses.append(address)
            raise ConnectionError("no route\nto host")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_session", Session)
    begun = time.monotonic()
    with pytest.raises(UserError, match=r"no data set nobody/here: it is no local file .* cannot be reached .no route"):
        read_source("nobody/here")
    assert addresses == [constants.ENDPOINT]
    assert time.monotonic() - begun < 5
