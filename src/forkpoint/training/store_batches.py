"""Batches for training: rows of a store as tensors, with everything that a rule may read of each token.

Shapes: B rows, T positions, n tokens that are predicted and count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor
from torch.utils.data import Dataset

from forkpoint.sampling.draw import key_hash, uniforms
from forkpoint.scores.context import counted, document_of_tokens
from forkpoint.scores.row_losses import batch_of
from forkpoint.scores.store import ScoredRow, Store


@dataclass(frozen=True, slots=True)
class RowExample:
    """A row of a store, its index there, and a number in [0, 1) drawn for each of its tokens."""

    index: int
    scored: ScoredRow
    chance: Float64[np.ndarray, " T"]


class Rows(Dataset):  # type: ignore[type-arg]
    """A store's rows as examples. Chance depends on seed, row and position alone."""

    def __init__(self, store: Store, seed: int) -> None:
        self.store, self.seed = store, seed

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, i: int) -> RowExample:
        scored = self.store[i]
        chance = uniforms(np.array([key_hash(self.seed, f"row {i}")], np.uint64), np.arange(len(scored.row.ids)))
        return RowExample(i, scored, chance)


def collate(examples: Sequence[RowExample]) -> dict[str, Tensor]:
    """The tensors of a batch.

    `input_ids` and `attention_mask` [B, T], right-padded; `index` [B], the rows' in the store. Of each predicted token:
    `rows` [n], the position in the flattened input_ids that predicts it; `targets` [n]; `owner` [n], which of the B
    rows it is in; `document` [n], which document of the corpus; `chance` [n]; and the store's scores [n], if any.
    """
    rows = [e.scored.row for e in examples]
    batch = batch_of(rows)
    marks = [counted(len(row.ids), row.starts, row.context) for row in rows]
    lengths = torch.tensor([len(row.ids) for row in rows])
    columns = {name: [e.scored.scores[name] for e in examples] for name in examples[0].scored.scores}
    columns |= {"chance": [e.chance for e in examples], "document": [document_of_tokens(row) for row in rows]}
    return {
        "input_ids": batch.ids,
        "attention_mask": (torch.arange(batch.ids.shape[1]) < lengths[:, None]).long(),
        "index": torch.tensor([e.index for e in examples]),
        "rows": batch.rows,
        "targets": batch.targets,
        "owner": batch.owner,
        **{
            name: torch.from_numpy(np.concatenate([v[m] for v, m in zip(values, marks, strict=True)]))
            for name, values in columns.items()
        },
    }
