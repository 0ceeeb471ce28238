"""Corpora as streams of documents: every kind of source, their order, what is refused, and memory that stays flat."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict

from forkpoint.scores.corpora import Document, corpus_files, read_corpus
from forkpoint.tasks.data_sets import ROWS_AT_ONCE
from forkpoint.types import UserError

TEXTS = ["One fish.", "", " \n", "Two\nlines é", "blue 🐟"]
PARTED = b"\xef\xbb\xbf\n  One fish.\nIts second line.\r\n \t\r\n\n\nTwo \xc3\xa9\n\nThree"
PARAGRAPHS = [(2, "  One fish.\nIts second line."), (7, "Two é"), (9, "Three")]


def rows(*values: str) -> bytes:
    return b"".join(json.dumps({"text": value, "id": 1}).encode() + b"\n" for value in values)


def zst(content: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


PACKED = {"": bytes, ".gz": gzip.compress, ".zst": zst}


def texts(source: Path | str, **options) -> list[str | None]:
    return [document.text for document in read_corpus(str(source), **options)]


def written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def parquet(path: Path, options: dict | None = None, /, **columns) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path, compression="none", **options or {})
    return path


def refusal(source: Path | str, seen: list[str] | None = None, **options) -> str:
    """What is said where the stream ends; the texts before it are put into `seen`."""
    into = [] if seen is None else seen
    with pytest.raises(UserError) as caught:
        into.extend(document.text or "" for document in read_corpus(str(source), **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("packing", PACKED)
def test_rows_and_texts_of_files(tmp_path, packing):
    pack = PACKED[packing]
    path = written(tmp_path / f"a.JSONL{packing}", pack(rows(*TEXTS[:2]) + b"\n") + pack(rows(*TEXTS[2:])))
    places = [f"{path} line {i}" for i in (1, 2, 4, 5, 6)]
    assert list(read_corpus(str(path))) == [Document(*each, None) for each in zip(places, TEXTS, strict=True)]
    path = written(tmp_path / f"b.txt{packing}", pack(PARTED))
    assert list(read_corpus(str(path))) == [Document(f"{path} line {n}", text, None) for n, text in PARAGRAPHS]
    whole = PARTED.decode("utf-8-sig")
    assert list(read_corpus(str(path), whole_files=True)) == [Document(str(path), whole, None)]
    assert texts(tmp_path, whole_files=True) == [*TEXTS, whole]
    assert texts(written(path, pack(b"\n \r\n\n"))) == []


def test_rows_of_other_kinds(tmp_path):
    assert texts(parquet(tmp_path / "none.parquet", text=pyarrow.array([], pyarrow.string()))) == []
    many = [f"text {i}" for i in range(5 * ROWS_AT_ONCE + 3)]
    path = parquet(tmp_path / "a.parquet", other=many, text=many)
    assert [(one.text, one.place) for one in read_corpus(str(path))] == [
        (text, f"{path} row {i}") for i, text in enumerate(many, 1)
    ]
    assert texts(parquet(path, text=["no"], body=["yes"]), text_column="body") == ["yes"]
    Dataset.from_dict({"text": TEXTS}).save_to_disk(tmp_path / "saved")
    assert texts(tmp_path / "saved") == TEXTS
    assert [Path(file).suffix for file in corpus_files(str(tmp_path / "saved"))] == [".arrow"]


def test_token_ids_are_taken_as_they_are(tmp_path):
    ids = [[5, 0, 70000], [], [1]]
    lines = b"".join(json.dumps({"input_ids": value, "text": "not this"}).encode() + b"\n" for value in ids)
    DatasetDict({"train": Dataset.from_dict({"input_ids": ids})}).save_to_disk(tmp_path / "splits")
    parquet(tmp_path / "a.parquet", text=["not this"] * 3, input_ids=ids)
    for path in (written(tmp_path / "a.jsonl", lines), tmp_path / "a.parquet", tmp_path / "splits"):
        assert [(one.text, one.token_ids) for one in read_corpus(str(path))] == [(None, tuple(value)) for value in ids]


def test_a_directory_in_sorted_order_without_hidden_and_unknown_files(tmp_path, monkeypatch):
    corpus = tmp_path / ".below" / "corpus"  # a directory below a hidden one is read
    for name in ("b.jsonl", "a/2.jsonl", "a/10.jsonl.gz", "a/deep/x.json"):
        written(corpus / name, PACKED[".gz" if name.endswith(".gz") else ""](rows(name)))
    (corpus / "c.jsonl").symlink_to(written(tmp_path / "blob", rows("c.jsonl")))
    parquet(corpus / "B.parquet", text=["B.parquet"])
    for name in (".hidden.jsonl", ".cache/x.jsonl", "notes.csv", "bare", "b.parquet.gz", "README.md", "README.md.gz"):
        written(corpus / name, b"not to be read")
    order = ["B.parquet", "a/10.jsonl.gz", "a/2.jsonl", "a/deep/x.json", "b.jsonl", "c.jsonl"]
    assert texts(corpus) == order
    monkeypatch.setenv("HOME", str(tmp_path))
    assert texts("~/.below/corpus") == order
    assert texts("~/.below/corpus/b.jsonl") == ["b.jsonl"]


@pytest.mark.parametrize(("content", "message"), [
    (b"{", "not valid JSON"), (b'{"text": "\xff"}', "not UTF-8"),
    (b'{"text": null}', "column 'text' should be a string, got null"),
    (b'{"texts": "a", "id": 1}', "no column 'text', it has 'texts', 'id'; did you mean 'texts'"),
    (b'{"text": "\\ud800"}', "column 'text' holds half a character"),
    (b'{"input_ids": "1 2"}', "input_ids must be a list of whole numbers, but is '1 2'"),
    (b'{"input_ids": [1, true]}', "input_ids must be a list of whole numbers, but holds True"),
    (b'{"input_ids": [1, -100]}', "input_ids must be whole numbers from 0, but holds -100"),
])  # fmt: skip
def test_a_row_that_is_no_document_ends_the_stream_after_those_before_it(tmp_path, content, message):
    path = written(tmp_path / "a.jsonl.gz", gzip.compress(rows("before") + content + b"\n" + rows("after")))
    seen: list[str] = []
    assert f"{path} line 2: {message}" in refusal(path, seen)
    assert seen == ["before"]


def test_a_text_file_that_is_not_utf8_ends_the_stream_at_its_line(tmp_path):
    seen: list[str] = []
    path = written(tmp_path / "text.txt", b"before\n\nof this\nb\xe9e\n\nafter")
    assert f"{path} line 4: not UTF-8" in refusal(path, seen)
    assert seen == ["before"]


def test_sources_that_are_none_are_refused_before_anything_is_read(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("tables/a.xls", "tables/b.parquet.gz", "tables/c", "tables/README.md"):
        with pytest.raises(UserError, match="is no corpus file"):
            read_corpus(str(written(tmp_path / name, b"a")))
    for name in ("empty", "tables"):
        with pytest.raises(UserError, match=f"{name} holds no corpus file"):
            read_corpus(str(tmp_path / name))


def test_the_hub_is_asked_only_where_no_local_path_is_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("the Hub was asked"))
    for source in ("/no/such/corpus", "./corpus", "../corpus.jsonl", "~/no/such.txt", "corpus.jsonl"):
        with pytest.raises(UserError, match=f"cannot read {source}: there is no such file or directory"):
            read_corpus(source)
    written(tmp_path / "owner" / "corpus" / "a.txt", b"a")
    assert list(read_corpus("owner/corpus")) == [Document("owner/corpus/a.txt line 1", "a", None)]


def test_a_data_set_on_the_hub_is_streamed(monkeypatch):
    assert "cannot read owner/corpus, which is no local file, as a data set on the Hub" in refusal("owner/corpus")
    asked = []

    def load_dataset(*args, **options):
        asked.append((args, options))
        yield from Dataset.from_dict({"body": ["a", ""]}).to_iterable_dataset()
        yield {"input_ids": [3, 4]}
        raise ConnectionError

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    seen: list[str] = []
    options = {"split": "validation", "subset": "en", "revision": "main"}
    assert refusal("owner/corpus", seen, text_column="body", **options).endswith("ConnectionError")
    assert seen == ["a", "", ""]
    assert asked == [(("owner/corpus",), {"name": "en", "split": "validation", "revision": "main", "streaming": True})]
    stream = read_corpus("owner/corpus", text_column="body")
    assert [next(stream) for _ in range(3)][2] == Document("owner/corpus row 3", None, (3, 4))


PAGES = {"data_page_size": 2**16, "write_batch_size": 8, "use_dictionary": False, "write_page_checksum": True}


def test_damaged_files_give_what_stands_before_the_damage(tmp_path):
    many = [f"{i} {os.urandom(1000).hex()}" for i in range(1000)]
    content = parquet(tmp_path / "whole.parquet", PAGES, text=many).read_bytes()
    at = content.index(many[700].encode())
    for name, damage, least, most in (
        ("page.parquet", content[:at] + b"unseen" + content[at + 6 :], 600, 700),
        ("cut.jsonl.gz", (whole := gzip.compress(rows(*many)))[: len(whole) * 7 // 10], 500, 850),
        ("cut.jsonl.zst", (whole := zst(rows(*many)))[: len(whole) * 7 // 10], 500, 850),
        ("name.txt.zst", b"this is plain text, whatever the name says", 0, 0),
    ):
        seen: list[str] = []
        path = written(tmp_path / name, damage)
        assert f"cannot read {path}: " in refusal(path, seen)
        assert least <= len(seen) <= most, name
        assert seen == many[: len(seen)]


def test_memory_stays_flat_for_large_files(tmp_path):
    path = written(tmp_path / "a.jsonl", rows("x" * 10_000) * 2000)
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_corpus(str(path))) == 2000
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()
    path = parquet(tmp_path / "a.parquet", PAGES, text=[os.urandom(5_000).hex() for _ in range(4000)])
    before = pyarrow.total_allocated_bytes()
    assert 0 < max(pyarrow.total_allocated_bytes() - before for _ in read_corpus(str(path))) < 8e6
