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
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from forkpoint.engines.local.head import Head, head_of, hidden_at, in_eval_mode
from forkpoint.engines.local.logprobs import token_logprobs
from forkpoint.engines.local.probe import distance, is_refusal, tolerance
from forkpoint.engines.local.scoring import PAD
from forkpoint.pairs.pair import Pair
from forkpoint.types import TokenIds

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
    position attends to another. Of each wanted token, [n]: `rows`, the position in the flattened input_ids that
    predicts it; `targets`, its id; `response`, whose it is (b the chosen one of pair b, B + b the rejected one);
    `token_weights`; and `ref_logprobs` if the examples have them. Of each pair, [B]: `pair_weights` and `pair_index`.
    """
    pairs = [e.pair for e in examples]
    responses = [*(p.chosen_ids for p in pairs), *(p.rejected_ids for p in pairs)]
    if shared:
        batch = _rows([(p.prompt_ids, (p.chosen_ids, p.rejected_ids)) for p in pairs])
    else:
        prompts = [p.prompt_ids for p in pairs] * 2
        batch = _rows([(prompt, (ids,)) for prompt, ids in zip(prompts, responses, strict=True)])
    own = [*(p.chosen_weights for p in pairs), *(p.rejected_weights for p in pairs)]
    weights = [np.ones(len(ids)) if w is None else np.array(w) for ids, w in zip(responses, own, strict=True)]
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


def _rows(texts: Sequence[tuple[TokenIds, tuple[TokenIds, ...]]]) -> dict[str, Tensor]:
    """Rows of a prompt and its responses, which do not see one another; of each the last token is left out.

    `rows` are those of the first response of every prompt, then those of the second.
    """
    width = max(len(prompt) + sum(len(ids) - 1 for ids in responses) for prompt, responses in texts)
    input_ids = torch.full((len(texts), width), PAD)
    positions, part = torch.zeros(2, len(texts), width, dtype=torch.long)  # part: which response, 0 for the prompt
    places: list[list[Tensor]] = [[] for _ in texts[0][1]]
    for r, (prompt, responses) in enumerate(texts):
        start = end = len(prompt)
        input_ids[r, :start], positions[r, :start] = torch.tensor(prompt), torch.arange(start)
        for k, ids in enumerate(responses):
            begin, end = end, end + len(ids) - 1
            input_ids[r, begin:end], part[r, begin:end] = torch.tensor(ids[:-1]), k + 1
            positions[r, begin:end] = torch.arange(start, start + len(ids) - 1)
            # the prompt's last token predicts the first one of each
            places[k].append(torch.tensor([start - 1, *range(begin, end)]) + r * width)
    batch = {"input_ids": input_ids, "rows": torch.cat([place for own in places for place in own])}
    if len(places) > 1:
        queries, keys = part[:, :, None], part[:, None]
        batch |= {"position_ids": positions, "sees": ((keys == 0) | (keys == queries)).tril()}
    return batch


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
    window = getattr(model.config.get_text_config(decoder=True), "sliding_window", None) or longest
    if model.config._attn_implementation not in TAKE_MASKS or window < longest:
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
