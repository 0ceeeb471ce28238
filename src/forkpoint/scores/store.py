"""The score store: a tokenised corpus on disk, with what a reference model says of each token.

A directory of Arrow files ("shards") and store.json, which says what they are; `datasets.load_from_disk` reads it too.
A row, with the fields of `Row`:

    {"input_ids": [5, 9, 7, 0], "starts": [0], "context": 0, "document": 12,
     "reference_loss": [nan, 2.5, 0.25, 1.0], "reference_entropy": [nan, 3.0, 0.5, 0.75]}

Loss (−log P(x_i | x_<i)) and entropy are in nats, float16, number i about token i, NaN exactly where a token is not
predicted; a corpus that was only tokenised has none. Rows are read from memory maps: a store may be larger than memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float16, Float32

from forkpoint.files import read_json, to_json, whole_file, write_whole
from forkpoint.scores.context import Context, Row, counted, document_of_tokens
from forkpoint.text import visible_pieces
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
    """Write a shard with these columns of scores: of so many documents, `empty` without tokens."""
    write_arrow(path, {
        "input_ids": lists([r.row.ids for r in rows], np.int32),
        "starts": lists([np.array(r.row.starts) for r in rows], np.int32),
        "context": pa.array([r.row.context for r in rows], pa.int32()),
        "document": pa.array([r.row.document for r in rows], pa.int64()),
        **{name: lists([r.scores[name] for r in rows], np.float16) for name in scores},
    })  # fmt: skip
    predicted = sum(int(counted(len(r.row.ids), r.row.starts, r.row.context).sum()) for r in rows)
    tokens = sum(len(r.row.ids) for r in rows)
    return Shard(path.name, documents, empty, len(rows), tokens, predicted, path.stat().st_size, _digest(path))


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


def write_facts(out: Path, facts: Mapping[str, Any], context: Context, shards: Sequence[Shard]) -> None:
    """Write store.json, and what `datasets.load_from_disk` wants beside it."""
    content = {
        "format": FORMAT, **facts, "context": asdict(context),
        "documents": sum(s.documents for s in shards), "empty_documents": sum(s.empty for s in shards),
        "rows": sum(s.rows for s in shards), "tokens": sum(s.tokens for s in shards),
        "counted_tokens": sum(s.counted for s in shards), "shards": [asdict(s) for s in shards],
    }  # fmt: skip
    describe_files(out, [s.file for s in shards], shards[0].digest[:16])
    write_whole(out / STORE, to_json(content, indent=2) + "\n")


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


def document_line(index: int, scored: ScoredRow, tokenizer: Any, columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The row of that index as a line of documents.jsonl, with a number a token from each column:

    {"id": "row 3", "token_ids": [5, 9], "tokens": ["Q", ":"], "reference_loss": [null, 2.5]}
    """
    ids = scored.row.ids.tolist()
    numbers = {name: [float(v) if np.isfinite(v) else None for v in values] for name, values in columns.items()}
    return {"id": f"row {index}", "token_ids": ids, "tokens": visible_pieces(tokenizer, ids), **numbers}


class Store:
    """A finished store, as a sequence of rows."""

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self.path, self.facts = path, facts
        self.shards = [Shard(**shard) for shard in facts["shards"]]
        self.context = Context(**facts["context"])

    def __len__(self) -> int:
        return int(self.facts["rows"])

    def __getitem__(self, index: int) -> ScoredRow:
        if not 0 <= index < len(self):
            raise IndexError(index)
        row = Row(
            self._values("input_ids", index), tuple(self._values("starts", index).tolist()),
            self.table["context"][index].as_py(), self.table["document"][index].as_py(),
        )  # fmt: skip
        scores = {name: self._values(name, index) for name in self.table.column_names if name in SCORES}
        missing = ~counted(len(row.ids), row.starts, row.context)
        for name, column in scores.items():
            if not np.array_equal(np.isnan(column), missing):
                raise UserError(
                    f"{self.path}, row {index}: {name} is not aligned to its tokens: a token without context must have "
                    "no score, every other one must have one; make the store anew"
                )
        return ScoredRow(row, {name: column.astype(np.float32) for name, column in scores.items()})

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "table"}

    @property
    def has_scores(self) -> bool:
        """Whether a reference model has scored it; else it is only tokenised."""
        return self.facts["reference"] is not None

    @cached_property
    def table(self) -> pa.Table:
        """All rows as columns, a chunk a shard."""
        return pa.concat_tables([_mapped(self.path / shard.file) for shard in self.shards])

    def lengths(self) -> np.ndarray:
        """The number of tokens of each row."""
        return np.asarray(pc.list_value_length(self.table["input_ids"]))

    def values(self, shard: int, score: str) -> Float16[np.ndarray, " n"]:
        """A column of scores over all tokens of a shard, NaN where none is predicted; not checked."""
        return np.asarray(self.table[score].chunk(shard).values)

    def largest_id(self) -> int:
        """The largest token id."""
        return int(pc.max(pc.list_flatten(self.table["input_ids"])).as_py())

    def _values(self, name: str, index: int) -> np.ndarray:
        return np.asarray(self.table[name][index].values)  # without a copy


def _mapped(path: Path) -> pa.Table:
    """A shard on disk. The map outlives the file, which is closed here: there are limits to how many may be open."""
    with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as reader:
        return reader.read_all()


def open_store(
    path: Path, vocabulary: str | None = None, expected: Mapping[str, Any] | None = None, *, check: bool = True
) -> Store:
    """The store in a directory; with `check` the hashes of its files are compared.

    UserError for a directory without a finished store, another `vocabulary` (a digest), a context other than the
    `expected` fields, and files that are missing, cut short or changed.
    """
    if not (path / STORE).is_file():
        what = "an unfinished store: start its command again" if any(path.glob("shard-*")) else "no score store"
        raise UserError(f"{path} holds {what}")
    facts = read_json(path / STORE)
    try:
        if (version := facts.get("format")) != FORMAT:
            raise UserError(f"{path / STORE} has format {version!r}, but this version reads format {FORMAT}")
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
        file = path / shard.file
        size = file.stat().st_size if file.is_file() else None
        if size is None:
            raise UserError(f"{file} is missing: a store is only used whole")
        if size != shard.bytes:
            raise UserError(f"{file} has {size:,} bytes, but {shard.bytes:,} were written: copy it again")
        if check and _digest(file) != shard.digest:
            raise UserError(f"{file} is not what was written (its hash differs): copy it again, or make the store anew")
    return store


def document_rows(store: Store, number: int) -> list[tuple[ScoredRow, slice]]:
    """The rows that hold a document's tokens, each with where they are, none of them twice. UserError for none."""
    numbers = store.table["document"].to_numpy()
    overlapping = -(-store.context.length // store.context.stride)  # rows that may hold its first token
    first = max(0, int(np.searchsorted(numbers, number)) - overlapping)
    parts = []
    for index in range(first, int(np.searchsorted(numbers, number, side="right"))):
        scored = store[index]
        own = np.flatnonzero(document_of_tokens(scored.row) == number)
        own = own[own >= scored.row.context]
        if len(own):
            parts.append((scored, slice(int(own[0]), int(own[-1]) + 1)))
    if not parts:
        raise UserError(f"{store.path} holds no tokens of a document {number}; they are numbered from 0")
    return parts
