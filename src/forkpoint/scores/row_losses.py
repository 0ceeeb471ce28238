"""What a model says of the tokens of rows: loss and entropy, by forward passes over rows of similar length.

Shapes: B rows of a batch, T positions, n tokens that are predicted and count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import PreTrainedModel

from forkpoint.engines.local.head import Head, hidden_at, in_eval_mode
from forkpoint.engines.local.logprobs import token_losses_and_entropy
from forkpoint.engines.local.memory import in_halves, is_out_of_memory
from forkpoint.engines.local.products import float32_activations
from forkpoint.scores.context import Row, counted
from forkpoint.types import UserError

BATCH_TOKENS = 8192  # padded tokens in one forward pass
PAD = 0
Step = Callable[[int, int, int], None]


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded rows as tensors: `ids` [B, T]; of each predicted token `rows` [n], the position in the flattened
    ids that predicts it, `targets` [n], its id, and `owner` [n], the row it is in."""

    ids: Int64[Tensor, "B T"]
    rows: Int64[Tensor, " n"]
    targets: Int64[Tensor, " n"]
    owner: Int64[Tensor, " n"]


def batch_of(rows: Sequence[Row]) -> Batch:
    """The rows as one batch, on the CPU."""
    width = max(len(row.ids) for row in rows)
    ids = np.full((len(rows), width), PAD, dtype=np.int64)
    marked = np.zeros((len(rows), width), dtype=bool)
    for b, row in enumerate(rows):
        ids[b, : len(row.ids)] = row.ids
        marked[b, : len(row.ids)] = counted(len(row.ids), row.starts, row.context)
    places = np.flatnonzero(marked)
    flat = ids.reshape(-1)
    return Batch(*map(torch.from_numpy, (ids, places - 1, flat[places], places // width)))


@torch.inference_mode()
def row_losses(
    model: PreTrainedModel, head: Head, rows: Sequence[Row], batch_tokens: int = BATCH_TOKENS, step: Step | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Loss and entropy of each row, in order: nats, float32 [T], NaN where no token is predicted.

    In half precision the model computes in float32, with its weights as they are. Where memory runs out batches are
    halved; UserError where one row alone is too much, and where the model's logits are not finite. `step` hears how
    many rows of how many are done, and of how many tokens.
    """
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
    columns: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    batches, begin, tokens = list[list[Row]](), 0, 0
    while begin < len(rows):
        size = max(1, batch_tokens // len(rows[order[begin]].ids))
        batches.append([rows[i] for i in order[begin : begin + size]])
        begin += size
    with in_eval_mode(model):
        found = in_halves(batches, partial(_batch_losses, model, head), "row")
        for i, both in zip(order, found, strict=True):
            columns[i] = both
            tokens += len(rows[i].ids)
            if step:
                step(len(columns), len(rows), tokens)
    return [columns[i] for i in range(len(rows))]


def _batch_losses(model: PreTrainedModel, head: Head, rows: Sequence[Row]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Loss and entropy of each row."""
    batch = batch_of(rows)
    try:
        with float32_activations(model):
            hidden = hidden_at(model, batch.ids.to(model.device), batch.rows.to(model.device))
        columns = token_losses_and_entropy(hidden, head, batch.targets.to(model.device))
    except Exception as error:
        if len(rows) == 1 and is_out_of_memory(error):
            raise UserError(f"memory ran out on a single row of {batch.ids.numel()} tokens: lower --length") from error
        raise
    if not all(bool(torch.isfinite(column).all()) for column in columns):
        raise UserError("the model's logits are NaN or infinite: its weights or its precision are broken")
    losses, entropies = np.full((2, *batch.ids.shape), np.nan, dtype=np.float32)
    for grid, column in zip((losses, entropies), columns, strict=True):
        grid.reshape(-1)[batch.rows.numpy() + 1] = column.cpu().numpy()
    return [(losses[b, : len(row.ids)], entropies[b, : len(row.ids)]) for b, row in enumerate(rows)]
