"""What a model says of the tokens of rows: loss and entropy, by forward passes over rows of similar length.

Shapes: B rows of a batch, T positions, n tokens that are predicted and count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import PreTrainedModel

from forkpoint.engines.local.head import Head, hidden_at
from forkpoint.engines.local.logprobs import token_losses_and_entropy
from forkpoint.engines.local.memory import is_out_of_memory
from forkpoint.engines.local.products import float32_activations
from forkpoint.scores.context import Row, counted
from forkpoint.types import UserError

BATCH_TOKENS = 8192  # padded tokens in one forward pass
PAD = 0


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
    model: PreTrainedModel, head: Head, rows: Sequence[Row], batch_tokens: int = BATCH_TOKENS
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """For each row, in any order: its index, and loss and entropy (nats, float32, NaN where no token is predicted) [T].

    The model is in eval mode; in half precision it computes in float32, with its weights as they are. Where memory runs
    out the batches are halved; UserError where one row alone is too much, and where the model's logits are not finite.
    """
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
    pending = list(reversed(list(_batches([len(rows[i].ids) for i in order], batch_tokens))))
    while pending:
        part = pending.pop()
        chosen = [order[i] for i in part]
        try:
            columns = _batch_losses(model, head, [rows[i] for i in chosen])
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if len(part) == 1:
                raise UserError(
                    f"memory ran out on a single row of {len(rows[chosen[0]].ids)} tokens: lower --length"
                ) from error
            pending += [part[len(part) // 2 :], part[: len(part) // 2]]
            continue
        yield from zip(chosen, *columns, strict=True)


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Runs of falling lengths whose padded tokens fit; a row that alone is longer makes one of its own."""
    begin = 0
    while begin < len(lengths):
        end = min(len(lengths), begin + max(1, batch_tokens // lengths[begin]))
        yield list(range(begin, end))
        begin = end


def _batch_losses(model: PreTrainedModel, head: Head, rows: Sequence[Row]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    batch = batch_of(rows)
    places = batch.rows.to(model.device)
    with float32_activations(model):
        hidden = hidden_at(model, batch.ids.to(model.device), places)
    columns = token_losses_and_entropy(hidden, head, batch.targets.to(model.device))
    if not all(bool(torch.isfinite(column).all()) for column in columns):
        raise UserError("the model's logits are NaN or infinite: its weights or its precision are broken")
    found = []
    for column in columns:
        grid = np.full(batch.ids.shape, np.nan, dtype=np.float32)
        grid.reshape(-1)[batch.rows.numpy() + 1] = column.cpu().numpy()
        found.append([grid[b, : len(row.ids)] for b, row in enumerate(rows)])
    return found[0], found[1]
