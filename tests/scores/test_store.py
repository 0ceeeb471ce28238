"""A score store on disk: what is read is what was written, and everything else is refused."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import tempfile
import tracemalloc
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selective_stores import ISOLATED, PACKED, SHARD, made_up_corpus, tiny
from test_context import corpora, policies

from forkpoint.engines.identity import vocabulary_digest
from forkpoint.scores import reference_losses as scoring
from forkpoint.scores.context import Context, Row, counted, rows_of
from forkpoint.scores.store import SCORES, STORE, ScoredRow, document_rows, open_store, write_facts, write_shard
from forkpoint.types import UserError

FACTS = {"vocabulary": "digest", "tokenizer": "made-up", "reference": {"model": "made-up"}}


@pytest.fixture(scope="module")
def original(tokenizer, tmp_path_factory) -> Path:
    """A store of several shards, packed with overlap."""
    out = tmp_path_factory.mktemp("original") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "SHARD_CHARACTERS", SHARD)
        model = tiny(tokenizer)
        scoring.score_corpus(iter(made_up_corpus()), tokenizer, out, PACKED, model=model, name="tiny")
    return out


@pytest.fixture
def path(original, tmp_path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(original, tmp_path / "store"))


def scored(row: Row, names, rng: np.random.Generator) -> ScoredRow:
    """A row with made-up scores, which float16 can hold."""
    known = counted(len(row.ids), row.starts, row.context)
    draws = {name: rng.gamma(0.6, 4.0, len(row.ids)).astype(np.float16).astype(np.float32) for name in names}
    return ScoredRow(row, {name: np.where(known, column, np.float32(np.nan)) for name, column in draws.items()})


def made_up_store(path: Path, shards: list[list[Row]], context: Context = ISOLATED, names=SCORES):
    """A store of these rows, and what its rows should be."""
    path.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    wanted = [[scored(row, names, rng) for row in rows] for rows in shards]
    files = [write_shard(path / f"shard-{i:05}.arrow", rows, names, len(rows), 0) for i, rows in enumerate(wanted)]
    write_facts(path, FACTS if names else FACTS | {"reference": None}, context, files)
    return open_store(path), [row for rows in wanted for row in rows]


def rows(*lengths: int, first: int = 0) -> list[Row]:
    documents = [(first + i, list(range(10 * i, 10 * i + length))) for i, length in enumerate(lengths)]
    return list(rows_of(documents, ISOLATED))


@pytest.mark.parametrize("names", [SCORES, ()])
def test_rows_are_read_as_they_were_written(tmp_path, names):
    """Also where shards hold none, and by `datasets`, and after pickling, which leaves open files behind."""
    store, wanted = made_up_store(tmp_path / "store", [[], rows(3, 40), [], rows(5, 2, first=2), []], names=names)
    content = pickle.dumps(store)
    assert len(store) == len(wanted) == 6
    assert (store.has_scores, store.context) == (bool(names), ISOLATED)
    assert store.lengths().tolist() == [len(one.row.ids) for one in wanted]
    assert store.largest_id() == max(max(one.row.ids) for one in wanted)
    assert len(content) == len(pickle.dumps(store))
    assert store.facts["counted_tokens"] == sum(shard.counted for shard in store.shards)
    for name in names:
        columns = np.concatenate([store.values(i, name) for i in range(5)])
        np.testing.assert_array_equal(columns, np.concatenate([one.scores[name] for one in wanted]))
        assert np.isfinite(columns).sum() == store.facts["counted_tokens"]
    found = datasets.load_from_disk(str(tmp_path / "store")).with_format("numpy")
    types = {name: str(one.feature.dtype) for name, one in found.features.items() if hasattr(one, "feature")}
    assert types == {"input_ids": "int32", "starts": "int32", **dict.fromkeys(names, "float16")}
    for read in (store, pickle.loads(content)):
        for one, other, row in zip(read, found, wanted, strict=True):
            assert one.row.ids.tolist() == other["input_ids"].tolist() == row.row.ids.tolist()
            assert (one.row.starts, one.row.context, one.row.document) == (
                (tuple(other["starts"].tolist()), other["context"], other["document"])
            ) == (row.row.starts, row.row.context, row.row.document)  # fmt: skip
            assert one.scores.keys() == {*names}
            for name in names:
                assert one.scores[name].dtype == np.float32
                np.testing.assert_array_equal(one.scores[name], row.scores[name])
                np.testing.assert_array_equal(other[name], row.scores[name])
    for index in (-1, 6):
        with pytest.raises(IndexError):
            store[index]


def change_facts(path: Path, **changes) -> None:
    (path / STORE).write_text(json.dumps(json.loads((path / STORE).read_text()) | changes))


def flip_a_bit(path: Path, at: int) -> None:
    first = path / "shard-00000.arrow"
    content = bytearray(first.read_bytes())
    content[at] ^= 1
    first.write_bytes(content)


@pytest.mark.parametrize(("damage", "options", "message"), [
    (lambda path: None, {"vocabulary": "another"}, "was made with another tokenizer, tiny's"),
    (lambda path: None, {"expected": {"documents": "isolated"}}, "made with documents packed, but isolated"),
    (lambda path: None, {"expected": {"stride": 16}}, "was made with stride 12, but 16 is asked for"),
    (lambda path: change_facts(path, format=2), {}, "has format 2, but this version reads format 1"),
    (lambda path: (path / STORE).write_text("{"), {}, "is not valid JSON"),
    (lambda path: (path / STORE).unlink(), {}, "holds an unfinished store"),
    (lambda path: shutil.rmtree(path), {}, "holds no score store"),
    (lambda path: (path / "shard-00001.arrow").unlink(), {"check": False}, r"shard-00001\.arrow is missing"),
    (lambda path: os.truncate(path / "shard-00001.arrow", 900), {"check": False}, "arrow has 900 bytes, but"),
    *((lambda path, at=at: flip_a_bit(path, at), {}, "arrow is not what was written") for at in (0, 300, -20)),
])  # fmt: skip
def test_what_it_was_not_made_for_and_damage_are_one_sentence(path, tokenizer, damage, options, message):
    asked = {
        "vocabulary": vocabulary_digest(tokenizer),
        "expected": {"documents": "packed", "length": 16, "stride": 12},
    }
    assert len(open_store(path, **asked)) == len(open_store(path)) > 0
    damage(path)
    with pytest.raises(UserError, match=message) as caught:
        open_store(path, **options)
    assert "\n" not in str(caught.value)


def shifted(column: pa.ListArray, by: int) -> pa.ListArray:
    return pa.array([values[-by:] + values[:-by] for values in column.to_pylist()], column.type)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("change", [
    lambda column: shifted(column, 1), lambda column: shifted(column, -1),
    lambda column: pa.array([values[1:] for values in column.to_pylist()], column.type),
    lambda column: pa.array([[0.0, *values[1:]] for values in column.to_pylist()], column.type),
])  # fmt: skip
def test_scores_that_are_not_aligned_to_their_tokens(path, name, change):
    store = open_store(path)
    file, first = path / store.shards[1].file, store.shards[0].rows
    with pa.ipc.open_stream(file.read_bytes()) as reader:
        batch = reader.read_next_batch()
    batch = batch.set_column(batch.schema.get_field_index(name), name, change(batch.column(name)))
    with pa.ipc.new_stream(file, batch.schema) as writer:
        writer.write_batch(batch)
    shards = store.facts["shards"]
    shards[1] |= {"bytes": file.stat().st_size}
    change_facts(path, shards=shards)
    changed = open_store(path, check=False)
    assert changed[first - 1].row.ids.tolist() == store[first - 1].row.ids.tolist()
    with pytest.raises(UserError, match=rf"^{path}, row {first}: {name} is not aligned to its tokens"):
        changed[first]


def test_reading_takes_little_memory_and_leaves_no_file_open(tmp_path):
    documents = [(i, np.arange(1000)) for i in range(1500)]
    made_up_store(tmp_path / "store", [list(rows_of(documents, Context()))], Context())
    files, arrow = len(os.listdir("/proc/self/fd")), pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        store = open_store(tmp_path / "store")
        assert sum(len(one.row.ids) for one in store) == 1_500_000  # more than 10 MB
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()
    assert pa.total_allocated_bytes() - arrow < 1e6
    assert len(os.listdir("/proc/self/fd")) == files


@settings(max_examples=30, deadline=None)
@given(corpora(), policies(), st.integers(1, 3))
def test_the_rows_of_a_document_hold_each_of_its_tokens_once(documents, context, size):
    parts = [list(rows_of(documents[i : i + size], context)) for i in range(0, len(documents), size)] or [[]]
    held = {token for part in parts for row in part for token in row.ids[row.context :].tolist()}
    with tempfile.TemporaryDirectory() as out:
        store, _ = made_up_store(Path(out), parts, context, ())
        for number, ids in documents:
            wanted = [token for token in ids if token in held]  # a row in which nothing counts is left out
            if wanted:
                found = document_rows(store, number)
                assert [token for one, part in found for token in one.row.ids[part].tolist()] == wanted
            else:
                with pytest.raises(UserError, match=f"holds no tokens of a document {number}"):
                    document_rows(store, number)


def test_a_vocabulary_is_what_its_ids_mean_and_not_how_texts_are_cut_or_filled_up(tokenizer):
    changed = copy.deepcopy(tokenizer)
    changed.padding_side, changed.model_max_length = "left", 5
    changed.backend_tokenizer.enable_truncation(5)
    changed.backend_tokenizer.enable_padding(length=9)
    assert vocabulary_digest(changed) == vocabulary_digest(tokenizer)
    changed.add_tokens(["<|new|>"])
    assert vocabulary_digest(changed) != vocabulary_digest(tokenizer)
