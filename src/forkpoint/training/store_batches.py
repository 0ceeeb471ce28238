"""Batches for training: rows of a store as tensors, with everything that a rule may read of each token.

Shapes: B rows, T positions, n tokens that are predicted and count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor
from torch.utils.data import Dataset

from forkpoint.sampling.draw import key_hash, uniforms
from forkpoint.scores.context import Context, counted, document_of_tokens
from forkpoint.scores.corpora import Document
from forkpoint.scores.reference_losses import score_corpus
from forkpoint.scores.row_losses import batch_of
from forkpoint.scores.store import ScoredRow, Store, open_store
from forkpoint.training.models import context_of
from forkpoint.types import UserError
from forkpoint.weights.rules import Rule

IGNORED = -100  # the label of a token without loss
LENGTH = 1024  # of the rows of a data set, at most


@dataclass(frozen=True, slots=True)
class RowExample:
    """A row of a store, its index there, and a number in [0, 1) drawn for each of its tokens, by seed and row."""

    index: int
    scored: ScoredRow
    chance: Float64[np.ndarray, " T"]


class Rows(Dataset):  # type: ignore[type-arg]
    """A store's rows as examples."""

    def __init__(self, store: Store, seed: int) -> None:
        self.store, self.seed = store, seed

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, i: int) -> RowExample:
        scored = self.store[i]
        chance = uniforms(np.array([key_hash(self.seed, f"row {i}")], np.uint64), np.arange(len(scored.row.ids)))
        return RowExample(i, scored, chance)


def check_scores(rule: Rule, store: Store, ref_model: Any) -> None:
    """UserError where a rule reads scores that neither the store nor a reference model has."""
    if rule.needs_reference and ref_model is None and not store.has_scores:
        raise UserError(f"the rule {rule.score} needs a reference model's scores, but {store.path} has none")


def store_of(data: Any, tokenizer: Any, model: Any, path: str) -> Store | None:
    """The store itself; or one made in `path` of a data set with a column `input_ids` or `text`."""
    if data is None or isinstance(data, Store):
        return data
    column = next((name for name in ("input_ids", "text") if not isinstance(data, str) and name in data[0]), None)
    if column is None:
        raise UserError(
            "a data set to train on has a column text or input_ids; a corpus in files is read by read_corpus"
        )
    if tokenizer is None:
        raise UserError("a data set needs its tokenizer as processing_class")
    documents = (
        Document(f"row {i}", *((row[column], None) if column == "text" else (None, tuple(row[column]))))
        for i, row in enumerate(data)
    )
    length, size = min(context_of(model) or LENGTH, LENGTH), model.get_input_embeddings().num_embeddings
    score_corpus(documents, tokenizer, Path(path), Context(length=length, stride=length), vocabulary_size=size)
    return open_store(Path(path), check=False)


def collate(examples: Sequence[RowExample]) -> dict[str, Tensor]:
    """The tensors of a batch.

    `input_ids` and `attention_mask` [B, T], right-padded; `index` [B], the rows' in the store. Of each predicted token,
    [n]: `rows`, the position in the flattened input_ids that predicts it; `targets`; `owner`, which of the B rows it is
    in; `document`, which document of the corpus; `chance`; and the store's scores, if any.
    """
    rows = [e.scored.row for e in examples]
    batch = batch_of(rows)
    marks = [counted(len(row.ids), row.starts, row.context) for row in rows]
    lengths = torch.tensor([len(row.ids) for row in rows])
    columns = {name: [e.scored.scores[name] for e in examples] for name in examples[0].scored.scores}
    columns |= {"chance": [e.chance for e in examples], "document": [document_of_tokens(row) for row in rows]}
    predicted = {
        name: torch.from_numpy(np.concatenate([v[m] for v, m in zip(values, marks, strict=True)]))
        for name, values in columns.items()
    }
    mask = (torch.arange(batch.ids.shape[1]) < lengths[:, None]).long()
    return {
        "input_ids": batch.ids, "attention_mask": mask, "index": torch.tensor([e.index for e in examples]),
        "rows": batch.rows, "targets": batch.targets, "owner": batch.owner,
    } | predicted  # fmt: skip
