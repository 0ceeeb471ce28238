"""The score store: a tokenised corpus on disk, with what a reference model says of each token.

A directory of Arrow files ("shards") and store.json, which says what they are; `datasets.load_from_disk` reads it too.
A row has `input_ids` (int32); `starts`, the offsets at which documents begin (those without tokens where the next one
does); `context`, how many leading tokens stand there as context only; `document`, the number in the corpus of the
document that its first token is of; and, unless the corpus was only tokenised, `reference_loss` (−log P(x_i | x_<i),
nats) and `reference_entropy` (nats) in float16, aligned to input_ids: number i is about token i. Both are NaN exactly
where a token is not predicted: at the beginning of documents and rows, and where it is context only.

Rows are read from memory maps: a store may be larger than memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float16, Float32

from forkpoint.files import read_json, to_json, whole_file, write_whole
from forkpoint.scores.context import Context, Row, counted, document_of_tokens
from forkpoint.types import UserError

STORE = "store.json"
FORMAT = 1
SCORES = ("reference_loss", "reference_entropy")


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """A row, with one float32 number a token from each column of scores."""

    row: Row
    scores: Mapping[str, Float32[np.ndarray, " T"]]


@dataclass(frozen=True, slots=True)
class Shard:
    """What is known of a shard's file. `tokens` are all that are stored, `counted` those that are predicted."""

    file: str
    documents: int
    empty: int
    rows: int
    tokens: int
    counted: int
    bytes: int
    digest: str


def write_shard(path: Path, rows: Sequence[ScoredRow], scores: Sequence[str], documents: int, empty: int) -> Shard:
    """Write a shard with these columns of scores, whole or not at all: of so many documents, `empty` without tokens."""
    columns = {
        "input_ids": lists([r.row.ids for r in rows], np.int32),
        "starts": lists([np.array(r.row.starts) for r in rows], np.int32),
        "context": pa.array([r.row.context for r in rows], pa.int32()),
        "document": pa.array([r.row.document for r in rows], pa.int64()),
        **{name: lists([r.scores[name] for r in rows], np.float16) for name in scores},
    }
    write_arrow(path, columns)
    seen = sum(int(counted(len(r.row.ids), r.row.starts, r.row.context).sum()) for r in rows)
    tokens = sum(len(r.row.ids) for r in rows)
    return Shard(path.name, documents, empty, len(rows), tokens, seen, path.stat().st_size, _digest(path))


def write_arrow(path: Path, columns: Mapping[str, pa.Array]) -> None:
    """Write an Arrow file of one batch, whole or not at all."""
    batch = pa.record_batch(list(columns.values()), names=list(columns))
    with whole_file(path) as file, pa.ipc.new_stream(file, batch.schema) as writer:
        writer.write_batch(batch)


def lists(values: Sequence[np.ndarray], dtype: Any) -> pa.ListArray:
    """A column of lists of numbers."""
    offsets = np.cumsum([0, *map(len, values)])
    flat = np.concatenate([*values, np.empty(0, dtype)]).astype(dtype)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(flat))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def write_facts(out: Path, facts: Mapping[str, Any], context: Context, shards: Sequence[Shard]) -> dict[str, Any]:
    """Write store.json, and what `datasets.load_from_disk` wants beside it; returns store.json's content."""
    content = {
        "format": FORMAT, **facts, "context": asdict(context),
        "documents": sum(s.documents for s in shards), "empty_documents": sum(s.empty for s in shards),
        "rows": sum(s.rows for s in shards), "tokens": sum(s.tokens for s in shards),
        "counted_tokens": sum(s.counted for s in shards), "shards": [asdict(s) for s in shards],
    }  # fmt: skip
    describe_files(out, [s.file for s in shards], shards[0].digest[:16])
    write_whole(out / STORE, to_json(content, indent=2) + "\n")
    return content


def describe_files(out: Path, files: Sequence[str], name: str) -> None:
    """Write what `datasets.load_from_disk` wants beside Arrow files; `name` tells it one content from another."""
    from datasets import Dataset

    state: dict[str, Any] = {
        "_data_files": [{"filename": file} for file in files], "_fingerprint": name, "_format_columns": None,
        "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False, "_split": None,
    }  # fmt: skip
    features = Dataset.from_file(str(out / files[0])).features.to_dict()
    write_whole(out / "dataset_info.json", to_json({"features": features}, indent=2) + "\n")
    write_whole(out / "state.json", to_json(state, indent=2) + "\n")


class Store:
    """A finished store, as a sequence of rows."""

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self.path, self.facts = path, facts
        self.shards = [Shard(**shard) for shard in facts["shards"]]
        self.context = Context(**facts["context"])
        self.ends = np.cumsum([shard.rows for shard in self.shards])
        self._open: dict[int, pa.RecordBatch] = {}

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> ScoredRow:
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = int(np.searchsorted(self.ends, index, side="right"))
        return self._row(shard, index - int(self.ends[shard]) + self.shards[shard].rows)

    @property
    def has_scores(self) -> bool:
        """Whether a reference model has scored it; else it is only tokenised."""
        return self.facts["reference"] is not None

    def lengths(self) -> np.ndarray:
        """The number of tokens of each row."""
        parts = [np.diff(self._shard(i).column("input_ids").offsets.to_numpy()) for i in range(len(self.shards))]
        return np.concatenate(parts)

    def values(self, shard: int, score: str) -> Float16[np.ndarray, " n"]:
        """A column of scores over all tokens of a shard, NaN where none is predicted; not checked."""
        found: np.ndarray = self._shard(shard).column(score).values.to_numpy()
        return found

    def largest_id(self) -> int:
        """The largest token id."""
        parts = (self._shard(i).column("input_ids").values for i in range(len(self.shards)))
        return max(int(ids.to_numpy().max()) for ids in parts if len(ids))

    def first_row_after(self, document: int) -> int:
        """The index of the first row that begins in a document with a higher number."""
        for i, end in enumerate(self.ends):
            numbers = self._shard(i).column("document").to_numpy()
            if len(numbers) and numbers[-1] > document:
                return int(end) - len(numbers) + int(np.searchsorted(numbers, document, side="right"))
        return len(self)

    def _row(self, shard: int, at: int) -> ScoredRow:
        batch = self._shard(shard)
        values = {name: _values(batch.column(name), at) for name in batch.schema.names if name in SCORES}
        row = Row(
            _values(batch.column("input_ids"), at), tuple(_values(batch.column("starts"), at).tolist()),
            batch.column("context")[at].as_py(), batch.column("document")[at].as_py(),
        )  # fmt: skip
        missing = ~counted(len(row.ids), row.starts, row.context)
        for name, column in values.items():
            if len(column) != len(row.ids) or not np.array_equal(np.isnan(column), missing):
                raise UserError(
                    f"{self.path / self.shards[shard].file}, row {at}: {name} is not aligned to its tokens: a token "
                    "without context must have no score, every other one must have one; make the store anew"
                )
        return ScoredRow(row, {name: column.astype(np.float32) for name, column in values.items()})

    def _shard(self, shard: int) -> pa.RecordBatch:
        if shard not in self._open:
            # The map outlives the file, which is closed here: there are limits to how many may be open.
            with (
                pa.memory_map(str(self.path / self.shards[shard].file)) as file,
                pa.ipc.open_stream(file) as reader,
            ):
                self._open[shard] = reader.read_next_batch()
        return self._open[shard]

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_open": {}}


def _values(lists: pa.ListArray, at: int) -> np.ndarray:
    """The numbers of one list, without a copy."""
    begin, end = lists.offsets[at].as_py(), lists.offsets[at + 1].as_py()
    values: np.ndarray = lists.values.slice(begin, end - begin).to_numpy(zero_copy_only=True)
    return values


def open_store(
    path: Path, vocabulary: str | None = None, expected: Mapping[str, Any] | None = None, *, check: bool = True
) -> Store:
    """The store in a directory.

    `vocabulary` is the digest of the tokens that it is to be used with; `expected` are fields of the `Context` that it
    should have been made with; with `check` all its files are read once and compared with what was written. Raises
    UserError for a directory without a finished store, for another vocabulary or context, and for files that are
    missing, cut short or changed.
    """
    if not (path / STORE).is_file():
        what = "an unfinished store: start its command again" if any(path.glob("shard-*")) else "no score store"
        raise UserError(f"{path} holds {what}")
    facts = read_json(path / STORE)
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        facts = facts if isinstance(facts, dict) else {}
        raise UserError(f"{path / STORE} has format {facts.get('format')!r}, but this version reads format {FORMAT}")
    try:
        store = Store(path, facts)
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path / STORE} is not what `forkpoint score` writes") from error
    if vocabulary is not None and facts["vocabulary"] != vocabulary:
        raise UserError(f"{path} was made with another tokenizer, {facts['tokenizer']}'s: its ids mean another text")
    for name, value in (expected or {}).items():
        if value != getattr(store.context, name):
            raise UserError(
                f"{path} was made with {name} {getattr(store.context, name)}, but {value} is asked for: scores hold "
                "only for the context that they were made with"
            )
    for shard in store.shards:
        _check_shard(path / shard.file, shard, check)
    return store


def document_rows(store: Store, number: int) -> list[tuple[ScoredRow, slice]]:
    """The rows that hold a document's tokens, each with where they are, none of them twice.

    Raises UserError for a number that no row has.
    """
    found = []
    overlapping = -(-store.context.length // store.context.stride)  # rows that may hold its first token
    index = max(0, store.first_row_after(number - 1) - overlapping)
    while index < len(store) and (scored := store[index]).row.document <= number:
        own = np.flatnonzero(document_of_tokens(scored.row) == number)
        own = own[own >= scored.row.context]
        if len(own):
            found.append((scored, slice(int(own[0]), int(own[-1]) + 1)))
        index += 1
    if not found:
        raise UserError(f"{store.path} holds no tokens of a document {number}; they are numbered from 0")
    return found


def _check_shard(path: Path, shard: Shard, check: bool) -> None:
    """UserError for a shard that is not as it was written."""
    size = path.stat().st_size if path.is_file() else None
    if size is None:
        raise UserError(f"{path} is missing: a store is only used whole")
    if size != shard.bytes:
        raise UserError(f"{path} has {size:,} bytes, but {shard.bytes:,} were written: copy it again, or make it anew")
    if check and _digest(path) != shard.digest:
        raise UserError(f"{path} is not what was written (its hash differs): copy it again, or make the store anew")
