"""Pairs as tensors: the prompt once for both responses, or each response in a row of its own.

With a shared prompt a pair is one row, [prompt, chosen, rejected]: positions go on from the prompt's end in both
responses, and the rejected one does not see the chosen one. That is what a model sees anyway, computed once. The last
token of a response predicts nothing and is left out.

Shapes: B pairs, R rows (B with shared prompts, else 2B), T positions, n wanted tokens (those of all responses).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from forkpoint.engines.local.scoring import PAD
from forkpoint.pairs.pair import Pair


@dataclass(frozen=True, slots=True)
class PairExample:
    """A pair with what the reference model says of its tokens; `index` is its place in the data."""

    pair: Pair
    index: int
    reference_chosen: np.ndarray | None = None
    reference_rejected: np.ndarray | None = None


def collate(examples: Sequence[PairExample], shared: bool) -> dict[str, Tensor]:
    """The tensors of a batch.

    `input_ids` [R, T], right-padded; with shared prompts `position_ids` [R, T] and `sees` [R, T, T], whether a
    position attends to another. Of each wanted token: `rows` [n], the position in the flattened input_ids that
    predicts it; `targets` [n], its id; `response` [n], whose it is (b the chosen one of pair b, B + b the rejected
    one); `token_weights` [n]; and `reference_logprobs` [n] if the examples have them. Of each pair: `pair_weights` and
    `pair_index` [B].
    """
    pairs = [e.pair for e in examples]
    batch = _shared_rows(pairs) if shared else _separate_rows(pairs)
    responses = [*(p.chosen_ids for p in pairs), *(p.rejected_ids for p in pairs)]
    weights = [*(np.ones(len(p.chosen_ids)) for p in pairs), *(_rejected_weights(p) for p in pairs)]
    batch |= {
        "targets": torch.tensor([token for ids in responses for token in ids]),
        "response": torch.repeat_interleave(torch.arange(len(responses)), torch.tensor([len(r) for r in responses])),
        "token_weights": torch.tensor(np.concatenate(weights), dtype=torch.float32),
        "pair_weights": torch.tensor([p.weight for p in pairs]),
        "pair_index": torch.tensor([e.index for e in examples]),
    }
    if examples[0].reference_chosen is not None:
        columns = [*(e.reference_chosen for e in examples), *(e.reference_rejected for e in examples)]
        batch["reference_logprobs"] = torch.tensor(np.concatenate([c for c in columns if c is not None]))
    return batch


def _rejected_weights(pair: Pair) -> np.ndarray:
    return np.ones(len(pair.rejected_ids)) if pair.rejected_weights is None else np.array(pair.rejected_weights)


def _separate_rows(pairs: Sequence[Pair]) -> dict[str, Tensor]:
    sides = [[(p.prompt_ids, getattr(p, name)) for p in pairs] for name in ("chosen_ids", "rejected_ids")]
    parts = [*sides[0], *sides[1]]
    width = max(len(prompt) + len(response) - 1 for prompt, response in parts)
    rows = [
        torch.arange(len(prompt) - 1, len(prompt) + len(response) - 1) + r * width
        for r, (prompt, response) in enumerate(parts)
    ]
    return {"input_ids": _padded([[*p, *r[:-1]] for p, r in parts], width), "rows": torch.cat(rows)}


def _shared_rows(pairs: Sequence[Pair]) -> dict[str, Tensor]:
    texts = [[*p.prompt_ids, *p.chosen_ids[:-1], *p.rejected_ids[:-1]] for p in pairs]
    width = max(map(len, texts))
    positions = torch.zeros(len(pairs), width, dtype=torch.long)
    sees = torch.ones(width, width, dtype=torch.bool).tril().repeat(len(pairs), 1, 1)
    chosen, rejected = [], []
    for b, (pair, text) in enumerate(zip(pairs, texts, strict=True)):
        start, end = len(pair.prompt_ids), len(pair.prompt_ids) + len(pair.chosen_ids) - 1
        positions[b, : len(text)] = torch.arange(len(text))
        positions[b, end : len(text)] -= end - start
        sees[b, end:, start:end] = False
        own = torch.arange(end, len(text))
        first = torch.tensor([start - 1])  # the prompt's last token predicts the first one of both
        chosen.append(torch.arange(start - 1, end) + b * width)
        rejected.append(torch.cat([first, own]) + b * width)
    return {
        "input_ids": _padded(texts, width),
        "position_ids": positions,
        "sees": sees,
        "rows": torch.cat([*chosen, *rejected]),
    }


def _padded(rows: Sequence[Sequence[int]], width: int) -> Int64[Tensor, "R T"]:
    return torch.tensor([[*row, *[PAD] * (width - len(row))] for row in rows])
