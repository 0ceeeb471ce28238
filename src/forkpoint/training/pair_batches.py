"""Pairs as tensors, the prompt once for both responses or each response in a row of its own, and what a model says of
their tokens.

With a shared prompt a pair is one row, [prompt, chosen, rejected]: positions go on from the prompt's end in both
responses, and the rejected one does not see the chosen one. That is what a model sees anyway, computed once. The last
token of a response predicts nothing and is left out.

Shapes: B pairs, R rows (B with shared prompts, else 2B), T positions, n wanted tokens (those of all responses).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import PreTrainedModel

from forkpoint.engines.local.head import Head, head_of, hidden_at, in_eval_mode
from forkpoint.engines.local.logprobs import token_logprobs
from forkpoint.engines.local.probe import distance, is_refusal, tolerance
from forkpoint.engines.local.scoring import PAD
from forkpoint.pairs.pair import Pair

Batch = Mapping[str, Tensor]
TAKE_MASKS = ("eager", "sdpa")


@dataclass(frozen=True, slots=True)
class PairExample:
    """A pair with what the reference model says of its tokens; `index` is its place in the data."""

    pair: Pair
    index: int
    ref_chosen: np.ndarray | None = None
    ref_rejected: np.ndarray | None = None


def row_length(pair: Pair) -> int:
    """Tokens of the pair with its prompt once."""
    return len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids)


def collate(examples: Sequence[PairExample], shared: bool) -> dict[str, Tensor]:
    """The tensors of a batch.

    `input_ids` [R, T], right-padded; with shared prompts `position_ids` [R, T] and `sees` [R, T, T], whether a
    position attends to another. Of each wanted token: `rows` [n], the position in the flattened input_ids that
    predicts it; `targets` [n], its id; `response` [n], whose it is (b the chosen one of pair b, B + b the rejected
    one); `token_weights` [n]; and `ref_logprobs` [n] if the examples have them. Of each pair: `pair_weights` and
    `pair_index` [B].
    """
    pairs = [e.pair for e in examples]
    batch = _shared_rows(pairs) if shared else _separate_rows(pairs)
    responses = [*(p.chosen_ids for p in pairs), *(p.rejected_ids for p in pairs)]
    weighted = zip(responses, [*(p.chosen_weights for p in pairs), *(p.rejected_weights for p in pairs)], strict=True)
    weights = [np.ones(len(ids)) if own is None else np.array(own) for ids, own in weighted]
    batch |= {
        "targets": torch.tensor([token for ids in responses for token in ids]),
        "response": torch.repeat_interleave(torch.arange(len(responses)), torch.tensor([len(r) for r in responses])),
        "token_weights": torch.tensor(np.concatenate(weights), dtype=torch.float32),
        "pair_weights": torch.tensor([p.weight for p in pairs]),
        "pair_index": torch.tensor([e.index for e in examples]),
    }
    columns = [*(e.ref_chosen for e in examples), *(e.ref_rejected for e in examples)]
    if known := [column for column in columns if column is not None]:
        batch["ref_logprobs"] = torch.tensor(np.concatenate(known))
    return batch


def _separate_rows(pairs: Sequence[Pair]) -> dict[str, Tensor]:
    parts = [
        (p.prompt_ids, ids) for name in ("chosen_ids", "rejected_ids") for p in pairs for ids in [getattr(p, name)]
    ]
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
        "input_ids": _padded(texts, width), "position_ids": positions, "sees": sees,
        "rows": torch.cat([*chosen, *rejected]),
    }  # fmt: skip


def _padded(rows: Sequence[Sequence[int]], width: int) -> Int64[Tensor, "R T"]:
    return torch.tensor([[*row, *[PAD] * (width - len(row))] for row in rows])


def predicting(model: PreTrainedModel, batch: Batch, call: Callable[..., Any] | None = None) -> Float[Tensor, "n H"]:
    """The hidden states that predict the batch's wanted tokens; `call` as in `hidden_at`."""
    inputs = {}
    if "sees" in batch:
        mask = torch.zeros(batch["sees"].shape, dtype=model.dtype, device=batch["sees"].device)
        mask.masked_fill_(~batch["sees"], torch.finfo(model.dtype).min)
        inputs = {"position_ids": batch["position_ids"], "attention_mask": mask[:, None]}
    return hidden_at(model, batch["input_ids"], batch["rows"], call=call, **inputs)


@torch.no_grad()
def logprobs_of(model: PreTrainedModel, head: Head, batch: Batch) -> Float[Tensor, " n"]:
    """Log-probabilities of the wanted tokens, without gradients."""
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    return token_logprobs(predicting(model, batch), head, batch["targets"])


@torch.no_grad()
def shares_prompts(model: PreTrainedModel, longest: int) -> bool:
    """Whether the model gives the same log-probabilities when both responses of a pair share the prompt's row.

    Tried on made-up pairs. Not so for models that ignore such masks, and not known for layers with a window shorter
    than the `longest` row. Kernels that take no mask but the causal one are not tried: on a GPU they may break it.
    """
    config = model.config.get_text_config(decoder=True)
    if model.config._attn_implementation not in TAKE_MASKS:
        return False
    if (getattr(config, "sliding_window", None) or longest) < longest:
        return False
    examples = [
        PairExample(Pair("", prompt, chosen, rejected, "", "", ""), i)
        for i, (prompt, chosen, rejected) in enumerate([((2, 3, 4), (5, 6, 7), (6, 5)), ((4, 2), (3,), (7, 2, 5, 3))])
    ]
    head = head_of(model)
    try:
        with in_eval_mode(model):
            allowed = tolerance(model)
            together, apart = (logprobs_of(model, head, collate(examples, shared)) for shared in (True, False))
    except Exception as error:
        if not is_refusal(error):
            raise
        return False
    return distance(together, apart) <= allowed
