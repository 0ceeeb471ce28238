"""Corpora as streams of documents: every kind of source, their order, what is refused, and memory that stays flat."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict

from forkpoint.scores.corpora import Document, corpus_files, read_corpus
from forkpoint.tasks.data_sets import ROWS_AT_ONCE as PARQUET_ROWS
from forkpoint.types import UserError

TEXTS = ["One fish.", "", " \n", "Two\nlines é", "blue 🐟"]
PARTED = b"\xef\xbb\xbf\n  One fish.\nIts second line.\r\n \t\r\n\n\nTwo \xc3\xa9\n\nThree"
PARAGRAPHS = [(2, "  One fish.\nIts second line."), (7, "Two é"), (9, "Three")]
NO_NETWORK = "cannot read {}, which is no local file, as a data set on the Hub"


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
    said = str(caught.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("ending", [".jsonl", ".json", ".JSONL"])
def test_json_lines(tmp_path, ending, packing):
    content = PACKED[packing](rows(*TEXTS[:2]) + b"\n" + rows(*TEXTS[2:]))
    path = written(tmp_path / f"corpus{ending}{packing}", content)
    places = [f"{path} line {i}" for i in (1, 2, 4, 5, 6)]
    assert list(read_corpus(str(path))) == [Document(*found, None) for found in zip(places, TEXTS, strict=True)]


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("ending", [".txt", ".TXT"])
def test_blank_lines_part_the_documents_of_a_text(tmp_path, ending, packing):
    path = written(tmp_path / f"corpus{ending}{packing}", PACKED[packing](PARTED))
    assert list(read_corpus(str(path))) == [Document(f"{path} line {n}", text, None) for n, text in PARAGRAPHS]


@pytest.mark.parametrize("packing", PACKED)
def test_a_text_file_may_be_one_document(tmp_path, packing):
    path = written(tmp_path / f"a.txt{packing}", PACKED[packing](b"\xef\xbb\xbfOne.\n\nTwo.\n"))
    assert list(read_corpus(str(path), whole_files=True)) == [Document(str(path), "One.\n\nTwo.\n", None)]
    written(tmp_path / "b.jsonl", rows(*TEXTS))
    assert texts(tmp_path, whole_files=True) == ["One.\n\nTwo.\n", *TEXTS]


def test_a_data_set_that_was_saved_is_read_by_its_rows(tmp_path):
    Dataset.from_dict({"text": TEXTS}).save_to_disk(tmp_path / "saved")
    assert texts(tmp_path / "saved") == TEXTS
    DatasetDict({"train": Dataset.from_dict({"input_ids": [[3, 4]]})}).save_to_disk(tmp_path / "splits")
    assert [document.token_ids for document in read_corpus(str(tmp_path / "splits"))] == [(3, 4)]
    assert all(name.endswith(".arrow") for name in corpus_files(str(tmp_path / "splits")))


def test_an_array_and_a_table_of_texts(tmp_path):
    path = written(tmp_path / "a.json", json.dumps([{"text": text} for text in TEXTS]).encode())
    assert texts(path) == TEXTS
    assert texts(written(tmp_path / "a.csv", b'text,id\n"a, b",1\nc,2')) == ["a, b", "c"]


@pytest.mark.parametrize("content", [b"", b"\n \r\n\n"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.txt.gz", "a.jsonl.zst"])
def test_a_file_without_documents_gives_none(tmp_path, name, content):
    packing = os.path.splitext(name)[1]
    assert texts(written(tmp_path / name, PACKED.get(packing, bytes)(content))) == []


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_every_part_of_a_file_that_was_compressed_in_parts(tmp_path, packing):
    parts = b"".join(PACKED[packing](rows(text)) for text in TEXTS)
    assert texts(written(tmp_path / f"a.jsonl{packing}", parts)) == TEXTS


def test_parquet_of_many_batches_in_its_order(tmp_path):
    many = [f"text {i}" for i in range(5 * PARQUET_ROWS + 3)]
    path = parquet(tmp_path / "a.parquet", other=[1] * len(many), text=many)
    found = list(read_corpus(str(path)))
    assert [document.text for document in found] == many
    assert [document.place for document in found] == [f"{path} row {i}" for i in range(1, len(many) + 1)]


def test_parquet_of_no_rows_and_of_empty_texts(tmp_path):
    assert texts(parquet(tmp_path / "none.parquet", text=pyarrow.array([], pyarrow.string()))) == []
    assert texts(parquet(tmp_path / "a.parquet", text=TEXTS)) == TEXTS


def test_another_text_column(tmp_path):
    path = written(tmp_path / "a.jsonl", b'{"text": "no", "body": "yes"}\n')
    assert texts(path, text_column="body") == ["yes"]
    assert texts(parquet(tmp_path / "a.parquet", text=["no"], body=["yes"]), text_column="body") == ["yes"]


def test_token_ids_are_taken_as_they_are(tmp_path):
    ids = [[5, 0, 70000], [], [1]]
    lines = b"".join(json.dumps({"input_ids": value, "text": "not this"}).encode() + b"\n" for value in ids)
    for path in (
        written(tmp_path / "a.jsonl", lines),
        parquet(tmp_path / "a.parquet", text=["not this"] * 3, input_ids=ids),
    ):
        found = [(document.text, document.token_ids) for document in read_corpus(str(path))]
        assert found == [(None, tuple(value)) for value in ids]


def test_a_directory_in_sorted_order_without_hidden_and_unknown_files(tmp_path):
    for name in ("b.jsonl", "a/2.jsonl", "a/10.jsonl.gz", "a/deep/x.json"):
        written(tmp_path / name, PACKED[".gz" if name.endswith(".gz") else ""](rows(name)))
    written(tmp_path / "c.txt", b"c.txt")
    parquet(tmp_path / "B.parquet", text=["B.parquet"])
    for name in (".hidden.jsonl", ".cache/x.jsonl", "a/.git/x.txt", "notes.csv", "bare", "b.parquet.gz", ".jsonl"):
        written(tmp_path / name, b"not to be read")
    for name in ("README.md", "a/README.md", "README.md.gz"):
        written(tmp_path / name, b"what the corpus is, not part of it")
    order = ["B.parquet", "a/10.jsonl.gz", "a/2.jsonl", "a/deep/x.json", "b.jsonl", "c.txt"]
    assert texts(tmp_path) == order
    assert [document.place for document in read_corpus(str(tmp_path))][:3] == [
        f"{tmp_path}/B.parquet row 1", f"{tmp_path}/a/10.jsonl.gz line 1", f"{tmp_path}/a/2.jsonl line 1",
    ]  # fmt: skip


def test_files_that_are_links_and_a_directory_below_a_hidden_one_are_read(tmp_path):
    blob = written(tmp_path / ".cache" / "blob", rows("a"))
    corpus = tmp_path / ".cache" / "corpus"
    corpus.mkdir()
    (corpus / "a.jsonl").symlink_to(blob)
    assert texts(corpus) == ["a"]


def test_a_directory_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    written(tmp_path / "corpus" / "a.txt", b"a")
    assert texts("~/corpus") == texts("~/corpus/a.txt") == ["a"]


@pytest.mark.parametrize(("content", "message"), [
    (b"{", "line 2: not valid JSON"), (b"[1]", "line 2: expected a JSON object, got a list"),
    (b'{"text": "\xff"}', "line 2: not UTF-8"),
    (b'{"text": null}', "line 2: column 'text' should be a string, got null"),
    (b'{"text": 1.5}', "line 2: column 'text' should be a string, got a number"),
    (b'{"texts": "a", "id": 1}', "line 2: no column 'text', it has 'texts', 'id'; did you mean 'texts'"),
    (b'{"text": "\\ud800"}', "line 2: column 'text' holds half a character"),
    (b'{"input_ids": "1 2"}', "line 2: input_ids must be a list of whole numbers, but is '1 2'"),
    (b'{"input_ids": null}', "line 2: no column 'text', it has 'input_ids'"),
    (b'{"input_ids": [1, 2.0]}', "line 2: input_ids must be a list of whole numbers, but holds 2.0"),
    (b'{"input_ids": [1, true]}', "line 2: input_ids must be a list of whole numbers, but holds True"),
    (b'{"input_ids": [1, -100]}', "line 2: input_ids must be whole numbers from 0, but holds -100"),
])  # fmt: skip
@pytest.mark.parametrize("packing", PACKED)
def test_a_row_that_is_no_document(tmp_path, packing, content, message):
    path = written(tmp_path / f"a.jsonl{packing}", PACKED[packing](rows("before") + content + b"\n" + rows("after")))
    seen: list[str] = []
    assert f"{path} {message}" in refusal(path, seen)
    assert seen == ["before"]


def test_a_long_value_is_not_told_in_full(tmp_path):
    assert len(refusal(written(tmp_path / "a.jsonl", b'{"input_ids": "%s"}' % (b"7 " * 10**5)))) < 300


def test_rows_of_parquet_that_are_no_documents(tmp_path):
    seen: list[str] = []
    path = parquet(tmp_path / "a.parquet", text=["before", None, "after"])
    assert f"{path} row 2: column 'text' should be a string, got null" in refusal(path, seen)
    assert seen == ["before"]
    assert "row 1: column 'text' should be a string, got bytes" in refusal(parquet(path, text=[b"a"]))
    assert "no column 'text', it has 'texts', 'id'; did you mean 'texts'" in refusal(parquet(path, texts=["a"], id=[1]))
    assert "row 2: input_ids must be whole numbers from 0" in refusal(parquet(path, input_ids=[[1], [-1]]))
    assert "row 1: input_ids must be a list of whole numbers, but is 7" in refusal(parquet(path, input_ids=[7]))


def test_a_text_that_is_not_utf8(tmp_path):
    seen: list[str] = []
    path = written(tmp_path / "a.txt", b"before\n\nof this\nb\xe9e\n\nafter")
    assert f"{path} line 4: not UTF-8 (byte 2 of the line)" in refusal(path, seen)
    assert seen == ["before"]
    assert "line 1: not UTF-8" in refusal(written(path, "a".encode("utf-16")))


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_an_archive_that_is_cut_off_gives_what_stands_before_the_cut(tmp_path, packing):
    many = [f"{i} {os.urandom(300).hex()}" for i in range(2000)]
    whole = PACKED[packing](rows(*many))
    path = written(tmp_path / f"b.jsonl{packing}", whole[: len(whole) // 2])
    written(tmp_path / "a.jsonl", rows("a"))
    written(tmp_path / "c.jsonl", rows("c"))
    seen: list[str] = []
    assert f"cannot read {path}: " in refusal(tmp_path, seen)
    assert seen == ["a", *many[: len(seen) - 1]]
    assert 600 < len(seen) < 1400


def test_an_archive_of_another_checksum_is_refused_at_its_end(tmp_path):
    whole = gzip.compress(rows(*TEXTS))
    seen: list[str] = []
    path = written(tmp_path / "a.jsonl.gz", whole[:-8] + bytes(4) + whole[-4:])
    assert f"cannot read {path}: BadGzipFile: CRC check failed" in refusal(path, seen)
    assert seen == TEXTS


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.txt.zst", "a.parquet"])
def test_a_file_that_is_not_what_its_name_says(tmp_path, name):
    path = written(tmp_path / name, b"this is plain text, whatever the name says")
    assert f"cannot read {path}: " in refusal(path)


def test_damaged_parquet_gives_what_stands_before_the_damage(tmp_path):
    many = [f"{i} {os.urandom(1000).hex()}" for i in range(1000)]
    pages = {"data_page_size": 2**16, "write_batch_size": 8, "use_dictionary": False, "write_page_checksum": True}
    path = parquet(tmp_path / "b.parquet", pages, text=many)
    content = path.read_bytes()
    at = content.index(many[700].encode())
    path.write_bytes(content[:at] + b"unseen" + content[at + 6 :])
    seen: list[str] = []
    assert f"cannot read {path}: OSError: could not verify page integrity" in refusal(path, seen)
    assert seen == many[: len(seen)]
    assert 600 < len(seen) <= 700
    assert f"cannot read {path}: " in refusal(written(path, content[:at]))


def test_sources_that_are_none_are_refused_before_anything_is_read(tmp_path):
    (tmp_path / "empty").mkdir()
    written(tmp_path / "tables" / "a.xls", b"a")
    for name in ("tables/a.xls", "tables/b.parquet.gz", "tables/c", "tables/README.md"):
        path = written(tmp_path / name, b"a")
        with pytest.raises(UserError, match=rf"{path} is no corpus file: .*\.jsonl.*\.zst.*\.parquet"):
            read_corpus(str(path))
    for name in ("empty", "tables"):
        with pytest.raises(UserError, match=rf"{tmp_path / name} holds no corpus file: .*\.parquet"):
            read_corpus(str(tmp_path / name))


@pytest.mark.parametrize("source", ["/no/such/corpus", "./corpus", "../corpus.jsonl", "~/no/such.txt"])
def test_a_missing_path_never_goes_to_the_hub(monkeypatch, source):
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("the Hub was asked"))
    with pytest.raises(UserError, match=f"cannot read {source}: there is no such file or directory"):
        read_corpus(source)


def test_a_local_directory_goes_before_a_data_set_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("the Hub was asked"))
    written(tmp_path / "owner" / "corpus" / "a.txt", b"a")
    assert list(read_corpus("owner/corpus")) == [Document("owner/corpus/a.txt line 1", "a", None)]


def test_a_data_set_on_the_hub_is_streamed(monkeypatch):
    asked = []

    def load_dataset(*args, **options):
        asked.append((args, options))
        return iter([{"body": "a", "id": 1}, {"body": "", "id": 2}, {"body": None, "id": 3}])

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    seen: list[str] = []
    options = {"split": "validation", "subset": "en", "revision": "main"}
    said = refusal("owner/corpus", seen, text_column="body", **options)
    assert asked == [(("owner/corpus",), {"name": "en", "split": "validation", "revision": "main", "streaming": True})]
    assert said == "owner/corpus row 3: column 'body' should be a string, got null"
    assert seen == ["a", ""]
    assert "row 1: no column 'text', it has 'body', 'id'" in refusal("owner/corpus")
    assert asked[-1][1] == {"name": None, "split": "train", "revision": None, "streaming": True}


def test_token_ids_from_the_hub(monkeypatch):
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: iter([{"input_ids": [3, 4]}]))
    assert list(read_corpus("owner/corpus")) == [Document("owner/corpus row 1", None, (3, 4))]


def test_a_real_stream_of_datasets(monkeypatch):
    from datasets import Dataset

    stream = Dataset.from_dict({"text": TEXTS}).to_iterable_dataset()
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: stream)
    assert texts("owner/corpus") == TEXTS


def test_what_the_hub_answers_is_one_sentence(monkeypatch):
    assert NO_NETWORK.format("owner/corpus") in refusal("owner/corpus")  # the tests are offline
    assert "there is no such file" in refusal("corpus.jsonl")  # no data set is called so

    def unnamed(*_, **__):
        raise ValueError("Config name is missing.\nPlease pick one among the available configs: ['en', 'de']\n" * 9)

    monkeypatch.setattr("datasets.load_dataset", unnamed)
    said = refusal("owner/corpus", split="test", revision="v2")
    assert "(split 'test', revision 'v2')" in said
    assert "['en', 'de']" in said


def test_a_stream_that_breaks_off(monkeypatch):
    def breaking(*_, **__):
        yield {"text": "a"}
        raise ConnectionError

    monkeypatch.setattr("datasets.load_dataset", breaking)
    seen: list[str] = []
    assert refusal("owner/corpus", seen).endswith("on the Hub (split 'train'): ConnectionError")
    assert seen == ["a"]


def test_memory_stays_flat_for_a_large_file(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        for _ in range(100):
            file.write(rows("x" * 10_000) * 100)
    assert path.stat().st_size > 100e6
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_corpus(str(path)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 10_000
    assert peak < 2e6


def test_memory_stays_flat_for_a_large_row_group(tmp_path):
    pages = {"data_page_size": 2**16, "write_batch_size": 8, "use_dictionary": False}
    path = parquet(tmp_path / "a.parquet", pages, text=[os.urandom(5_000).hex() for _ in range(4000)])
    assert path.stat().st_size > 40e6
    assert pyarrow.parquet.ParquetFile(path).num_row_groups == 1
    before = pyarrow.total_allocated_bytes()
    held = [pyarrow.total_allocated_bytes() - before for _ in read_corpus(str(path))]
    assert len(held) == 4000
    assert 0 < max(held) < 8e6


def test_nothing_heavy_is_imported_with_the_module():
    heavy = "{'torch', 'transformers', 'datasets', 'pyarrow'}"
    command = f"import sys, forkpoint.scores.corpora; sys.exit(str({heavy} & sys.modules.keys() or ''))"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
