"""A score store on disk: what is read is what was written, and everything else is refused."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from selective_stores import ISOLATED, PACKED, SHARD, made_up_corpus, tiny
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from forkpoint.engines.identity import vocabulary_digest
from forkpoint.scores import reference_losses as scoring
from forkpoint.scores.context import Context, Row, counted, rows_of
from forkpoint.scores.store import (
    SCORES,
    STORE,
    ScoredRow,
    Shard,
    Store,
    _digest,
    document_rows,
    open_store,
    write_facts,
    write_shard,
)
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


def refusal(path: Path, *args, **options) -> str:
    with pytest.raises(UserError) as caught:
        open_store(path, *args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def scored(row: Row, rng: np.random.Generator) -> ScoredRow:
    """A row with made-up scores, which float16 can hold."""
    missing = ~counted(len(row.ids), row.starts, row.context)
    columns = {name: rng.gamma(0.6, 4.0, len(row.ids)).astype(np.float16).astype(np.float32) for name in SCORES}
    for column in columns.values():
        column[missing] = np.nan
    return ScoredRow(row, columns)


def made_up_store(path: Path, shards: list[list[Row]], context: Context = ISOLATED, names=SCORES):
    """A store of these rows, and what its rows should be."""
    path.mkdir()
    rng = np.random.default_rng(0)
    wanted = [[scored(row, rng) for row in rows] for rows in shards]
    written = [
        write_shard(path / f"shard-{i:05}.arrow", rows, names, len(rows), 0) for i, rows in enumerate(wanted)
    ]  # fmt: skip
    write_facts(path, FACTS if names else FACTS | {"reference": None}, context, written)
    return open_store(path), [row for rows in wanted for row in rows]


def rows(*lengths: int, context: Context = ISOLATED, first: int = 0) -> list[Row]:
    documents = [(first + i, list(range(10 * i, 10 * i + length))) for i, length in enumerate(lengths)]
    return list(rows_of(documents, context))


@pytest.mark.parametrize("names", [SCORES, ()])
def test_rows_are_read_as_they_were_written(tmp_path, names):
    """Also where shards hold none."""
    store, wanted = made_up_store(tmp_path / "store", [[], rows(3, 40), [], rows(5, 2, first=2), []], names=names)
    assert len(store) == len(wanted) == 6
    assert store.has_scores == bool(names)
    assert store.lengths().tolist() == [len(one.row.ids) for one in wanted]
    assert store.context == ISOLATED
    for found, one in zip(store, wanted, strict=True):
        assert found.row.ids.tolist() == one.row.ids.tolist()
        assert found.row.ids.dtype == np.int32
        assert (found.row.starts, found.row.context, found.row.document) == (
            one.row.starts, one.row.context, one.row.document
        )  # fmt: skip
        assert found.scores.keys() == {*names}
        for name in names:
            assert found.scores[name].dtype == np.float32
            np.testing.assert_array_equal(found.scores[name], one.scores[name])
    for index in (-1, 6):
        with pytest.raises(IndexError):
            store[index]


def test_datasets_reads_it(original):
    import datasets

    store = open_store(original)
    found = datasets.load_from_disk(str(original))
    assert len(store.shards) > 3
    assert len(found) == len(store)
    for one, other in zip(store, found.with_format("numpy"), strict=True):
        assert other["input_ids"].tolist() == one.row.ids.tolist()
        assert tuple(other["starts"].tolist()) == one.row.starts
        assert (other["context"], other["document"]) == (one.row.context, one.row.document)
        for name in SCORES:
            np.testing.assert_array_equal(other[name], one.scores[name])
    types = {name: str(one.feature.dtype) for name, one in found.features.items() if hasattr(one, "feature")}
    assert types == {"input_ids": "int32", "starts": "int32", **dict.fromkeys(SCORES, "float16")}


def test_scores_are_missing_exactly_where_nothing_is_predicted(original):
    store = open_store(original)
    predicted = 0
    for one in store:
        known = counted(len(one.row.ids), one.row.starts, one.row.context)
        predicted += int(known.sum())
        for column in one.scores.values():
            np.testing.assert_array_equal(np.isfinite(column), known)
    assert predicted == store.facts["counted_tokens"] == sum(shard.counted for shard in store.shards)


def test_what_it_is_used_with(path, tokenizer):
    vocabulary = vocabulary_digest(tokenizer)
    opened = open_store(path, vocabulary, {"documents": "packed", "length": 16, "stride": 12})
    assert len(opened) == opened.facts["rows"]
    assert refusal(path, "another") == f"{path} was made with another tokenizer, tiny's: its ids mean another text"
    for name, own, other in (("documents", "packed", "isolated"), ("length", 16, 32), ("stride", 12, 16)):
        said = refusal(path, vocabulary, {name: other})
        assert f"{path} was made with {name} {own}, but {other} is asked for" in said


def test_directories_without_a_finished_store(path, tmp_path):
    assert refusal(tmp_path / "nowhere").endswith("nowhere holds no score store")
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty").endswith("empty holds no score store")
    (path / STORE).unlink()
    assert refusal(path) == f"{path} holds an unfinished store: start its command again"


def test_another_format_or_none(path):
    change_facts(path, format=2)
    assert refusal(path) == f"{path / STORE} has format 2, but this version reads format 1"
    (path / STORE).write_text("{")
    assert refusal(path).startswith(f"{path / STORE} is not valid JSON")


def change_facts(path: Path, **changes) -> None:
    (path / STORE).write_text(json.dumps(json.loads((path / STORE).read_text()) | changes))


def test_shards_that_are_missing_cut_short_or_changed(path):
    last, first = path / open_store(path).shards[-1].file, path / "shard-00000.arrow"
    content = last.read_bytes()
    last.unlink()
    assert refusal(path, check=False) == f"{last} is missing: a store is only used whole"
    last.write_bytes(content[:-1])
    assert f"{last} has {len(content) - 1:,} bytes, but {len(content):,} were written" in refusal(path, check=False)
    last.write_bytes(content)
    for at in (0, 300, first.stat().st_size - 20):
        whole = first.read_bytes()
        first.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert refusal(path) == (
            f"{first} is not what was written (its hash differs): copy it again, or make the store anew"
        )
        first.write_bytes(whole)
    open_store(path)


def shifted(column: pa.ListArray, by: int) -> pa.ListArray:
    return pa.array([values[-by:] + values[:-by] for values in column.to_pylist()], column.type)


@pytest.mark.parametrize("change", [
    lambda column: shifted(column, 1), lambda column: shifted(column, -1),
    lambda column: pa.array([values[1:] for values in column.to_pylist()], column.type),
    lambda column: pa.array([[0.0, *values[1:]] for values in column.to_pylist()], column.type),
])  # fmt: skip
@pytest.mark.parametrize("name", SCORES)
def test_scores_that_are_not_aligned_to_their_tokens(path, name, change):
    """In files whose hashes are right."""
    store = open_store(path)
    file = path / store.shards[1].file
    with pa.ipc.open_stream(file.read_bytes()) as reader:
        batch = reader.read_next_batch()
    at = batch.schema.get_field_index(name)
    batch = batch.set_column(at, name, change(batch.column(name)))
    with pa.ipc.new_stream(file, batch.schema) as writer:
        writer.write_batch(batch)
    shards = json.loads((path / STORE).read_text())["shards"]
    shards[1] |= {"bytes": file.stat().st_size, "digest": _digest(file)}
    change_facts(path, shards=shards)
    changed = open_store(path)
    first = store.shards[0].rows
    assert changed._shard(1).column("input_ids").equals(batch.column("input_ids"))
    assert changed[first - 1].row.ids.tolist() == store[first - 1].row.ids.tolist()
    with pytest.raises(UserError, match=rf"^{file}, row 0: {name} is not aligned to its tokens.*anew$"):
        changed[first]


def test_the_same_store_after_pickling(original):
    """As workers of a data loader get it; the open files stay behind."""
    store = open_store(original)
    wanted = store[len(store) - 1]
    content = pickle.dumps(store)
    assert len(content) == len(pickle.dumps(open_store(original)))
    found = pickle.loads(content)[len(store) - 1]
    assert found.row.ids.tolist() == wanted.row.ids.tolist()
    np.testing.assert_array_equal(found.scores[SCORES[0]], wanted.scores[SCORES[0]])


def test_reading_takes_little_memory(tmp_path):
    documents = [(i, np.arange(1000)) for i in range(1500)]
    made_up_store(tmp_path / "store", [list(rows_of(documents, Context()))], Context())
    size = sum(file.stat().st_size for file in (tmp_path / "store").iterdir())
    assert size > 10e6
    arrow = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        store = open_store(tmp_path / "store")
        tokens = sum(len(one.row.ids) for one in store)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert tokens == 1_500_000
    assert peak < 1e6
    assert pa.total_allocated_bytes() - arrow < 1e6


def test_no_file_stays_open(original):
    store = open_store(original)
    before = len(os.listdir("/proc/self/fd"))
    assert sum(1 for _ in store) == len(store)
    assert len(os.listdir("/proc/self/fd")) == before


@st.composite
def packed_stores(draw):
    """A policy, and shards of numbered documents, some without tokens."""
    length = draw(st.integers(2, 8))
    context = Context(draw(st.sampled_from(["isolated", "packed"])), length, draw(st.integers(1, length)))
    lengths = draw(st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=5), min_size=1, max_size=3))
    number, shards = 0, []
    for part in lengths:
        shards.append([(number + i, [100 * (number + i) + at for at in range(n)]) for i, n in enumerate(part)])
        number += len(part)
    return context, shards


@given(packed_stores())
def test_the_rows_of_a_document_hold_each_of_its_tokens_once(drawn):
    context, shards = drawn
    parts = [list(rows_of(documents, context)) for documents in shards]
    store = in_memory(parts, context)
    held = {token for part in parts for row in part for token in row.ids[row.context :].tolist()}
    for number, ids in (document for documents in shards for document in documents):
        wanted = [token for token in ids if token in held]  # a row in which nothing counts is left out
        if wanted:
            found = document_rows(store, number)
            assert [token for one, part in found for token in one.row.ids[part].tolist()] == wanted
        else:
            with pytest.raises(UserError, match=f"holds no tokens of a document {number}"):
                document_rows(store, number)


def in_memory(parts: list[list[Row]], context: Context) -> Store:
    """A store of these rows without files."""
    facts = [Shard(f"{i}", 0, 0, len(part), 0, 0, 0, "") for i, part in enumerate(parts)]
    shards = [vars_of(shard) for shard in facts]
    store = Store(Path("memory"), {"shards": shards, "context": vars_of(context), "reference": None})
    for i, part in enumerate(parts):
        columns = {
            "input_ids": pa.array([row.ids for row in part], pa.list_(pa.int32())),
            "starts": pa.array([row.starts for row in part], pa.list_(pa.int32())),
            "context": pa.array([row.context for row in part], pa.int32()),
            "document": pa.array([row.document for row in part], pa.int64()),
        }
        store._open[i] = pa.record_batch(list(columns.values()), names=list(columns))
    return store


def vars_of(value) -> dict:
    return {name: getattr(value, name) for name in value.__slots__}


def word_tokenizer(*words: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_a_vocabulary_is_what_its_ids_mean(tokenizer):
    """And not how texts are cut or filled up."""
    digest = vocabulary_digest(word_tokenizer("a", "b", "c"))
    assert digest == vocabulary_digest(word_tokenizer("a", "b", "c"))
    others = [word_tokenizer("a", "c", "b"), word_tokenizer("a", "b", "C"), word_tokenizer("a", "b")]
    assert digest not in [vocabulary_digest(other) for other in others]
    changed = copy.deepcopy(tokenizer)
    changed.padding_side, changed.model_max_length = "left", 5
    changed.backend_tokenizer.enable_truncation(5)
    changed.backend_tokenizer.enable_padding(length=9)
    assert vocabulary_digest(changed) == vocabulary_digest(tokenizer)
    changed.add_tokens(["<|new|>"])
    assert vocabulary_digest(changed) != vocabulary_digest(tokenizer)
