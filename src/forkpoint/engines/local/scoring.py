"""What a model says about given tokens: forward passes over padded batches, vocabulary-sized work only where asked.

A hook on the output head lets only the wanted rows of hidden states reach it, so [B, T, V] logits are never made for
prompts, and whatever a model does to its logits afterwards (soft-capping, scaling) still happens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from forkpoint.engines.local.memory import LOGITS_COPIES, in_halves
from forkpoint.engines.local.products import float32_logits
from forkpoint.engines.local.trunk_attention import forward_lock
from forkpoint.sampling.processors import policy_logits
from forkpoint.sampling.truncations import row_blocks
from forkpoint.types import Sampling, Scored, TokenIds, UserError

MOST_TOKENS = 16_384  # padded tokens in one forward pass
PAD = 0
LEAST = torch.finfo(torch.float32).min
Stretch = tuple[TokenIds, int, int]  # rows first to last of a sequence's `Scored`; row i predicts position i


@torch.inference_mode()
def score_sequences(
    model: PreTrainedModel,
    sequences: Sequence[TokenIds],
    starts: Sequence[int],
    top: int,
    sampling: Sampling | None,
    budget: int,
) -> Iterator[Scored]:
    """A `Scored` for each sequence, in order; rows before `starts[i]` stay NaN. Out of memory halves the batches."""
    fitting = rows_that_fit(model, budget)
    for batch in padded_batches(sequences, starts, fitting):
        stretches = [
            [(sequences[i], first, min(first + fitting - 1, len(sequences[i])))
             for first in range(starts[i], len(sequences[i]) + 1, fitting)]
            for i in batch
        ]  # fmt: skip
        flat = [one for own in stretches for one in own]
        passes = [flat] if len(batch) > 1 else [[one] for one in flat]  # those of a long sequence one by one
        parts = in_halves(passes, lambda part: _score_batch(model, part, top, sampling), "sequence")
        for i, own in zip(batch, stretches, strict=True):
            columns = zip(*(next(parts) for _ in own), strict=True)
            yield padded(starts[i], len(sequences[i]), [np.concatenate(column) for column in columns])


def rows_that_fit(model: PreTrainedModel, budget: int) -> int:
    """How many rows of logits may be made at once."""
    vocab_size: int = model.config.get_text_config(decoder=True).vocab_size
    return max(1, budget // (LOGITS_COPIES * 4 * vocab_size))


def padded_batches(sequences: Sequence[TokenIds], starts: Sequence[int], fitting: int) -> Iterator[list[int]]:
    """Runs of consecutive sequences, as indices, whose padded tokens and `fitting` wanted rows of logits fit.

    A sequence that alone wants more rows makes a batch of its own.
    """
    batch: list[int] = []
    width = wanted = 0
    for i, sequence in enumerate(sequences):
        rows = len(sequence) + 1 - starts[i]
        widened = max(width, len(sequence))
        if batch and (widened * (len(batch) + 1) > MOST_TOKENS or wanted + rows > fitting):
            yield batch
            batch, wanted, widened = [], 0, len(sequence)
        batch.append(i)
        width, wanted = widened, wanted + rows
    if batch:
        yield batch


def output_at(model: PreTrainedModel, ids: Int64[Tensor, "B T"], rows: Int64[Tensor, " n"], **options: Any) -> Any:
    """The model's output on right-padded sequences, with `logits` [1, n, V] at rows of the flattened [B*T] positions.

    Only these rows of the hidden states reach the output head, which gives float32.
    """

    def select(_: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0].flatten(0, 1)[rows][None], *inputs[1:])

    with forward_lock, model.get_output_embeddings().register_forward_pre_hook(select), float32_logits(model):
        return model(input_ids=ids, **options)


def logits_at(model: PreTrainedModel, ids: Int64[Tensor, "B T"], rows: Int64[Tensor, " n"]) -> Float[Tensor, "n V"]:
    """The logits alone, [n, V]."""
    logits: Tensor = output_at(model, ids, rows, use_cache=False).logits
    return logits[0]


def _score_batch(
    model: PreTrainedModel, batch: Sequence[Stretch], top: int, sampling: Sampling | None
) -> list[list[np.ndarray]]:
    """The columns of each stretch."""
    ids = pad_sequence([torch.tensor(tokens) for tokens, _, _ in batch], batch_first=True, padding_value=PAD)
    rows = torch.cat([torch.arange(first - 1, last) + b * ids.shape[1] for b, (_, first, last) in enumerate(batch)])
    # the token that each row predicts; the row after the last token predicts none and gets a dummy
    targets = torch.tensor([token for tokens, first, last in batch for token in (*tokens, PAD)[first : last + 1]])
    logits = logits_at(model, ids.to(model.device), rows.to(model.device)).float()
    table = describe(logits, targets.to(model.device)[:, None], top, sampling)
    ends = np.cumsum([last - first + 1 for _, first, last in batch])[:-1]
    return [list(part) for part in zip(*(np.split(column, ends) for column in table), strict=True)]


@dataclass(frozen=True, slots=True)
class RowFacts:
    """What n rows of logits hold."""

    best: Tensor  # [n, 1], the argmax, of several the first
    log_z: Tensor  # [n, 1], log Σ exp
    gaps: Tensor  # [n], p(top1) - p(top2)
    entropy: Tensor  # [n], in nats


def row_facts(logits: Float[Tensor, "n V"], *, with_entropy: bool) -> RowFacts:
    """The facts of float32 logits, in blocks of rows that fit a core's cache; an empty entropy unless asked for.

    A row with NaN or without a finite maximum gets a log_z that is not finite.
    """
    blocks = [_block_facts(logits[rows], with_entropy) for rows in row_blocks(logits)]
    return RowFacts(*(torch.cat(column) for column in zip(*blocks, strict=True)))


def _block_facts(logits: Tensor, with_entropy: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    first, best = logits.max(-1, keepdim=True)
    below = logits - first
    weights = below.exp()
    z = weights.sum(-1, keepdim=True)
    log_z = z.log()
    entropy = log_z[:0, 0]
    if with_entropy:  # log z - Σ p below, where a weight of 0 adds nothing, even for a logit of -inf
        entropy = log_z.squeeze(-1) - torch.linalg.vecdot(weights, below.clamp_(min=LEAST)) / z.squeeze(-1)
    second = weights.scatter_(-1, best, 0.0).amax(-1)
    return best, first + log_z, (1.0 - second) / z.squeeze(-1), entropy


def describe(
    logits: Float[Tensor, "n V"],
    targets: Int64[Tensor, "n 1"],
    top: int,
    sampling: Sampling | None,
    drawn: Float[Tensor, "n V"] | None = None,
) -> list[np.ndarray]:
    """Columns of `Scored`, in its field order, for the given rows; `drawn` are the logits of the policy, if others."""
    facts = row_facts(logits, with_entropy=True)
    if not bool(torch.isfinite(facts.log_z).all()):
        raise UserError("the model's logits are NaN or infinite: its weights or its precision are broken")
    logprobs = (logits.gather(-1, targets) - facts.log_z).squeeze(-1)
    top_ids = facts.best[:, :0]
    if top:  # the argmax first, so that of equals it is the one that greedy decoding takes
        top_ids = logits.scatter(-1, facts.best, float("inf")).topk(top, -1).indices
    top_logprobs = logits.gather(-1, top_ids) - facts.log_z
    if sampling is None:
        policy, top_policy = torch.full_like(logprobs, math.nan), torch.full_like(top_logprobs, math.nan)
    else:
        probabilities = torch.softmax(policy_logits(logits if drawn is None else drawn, sampling), -1)
        policy, top_policy = probabilities.gather(-1, targets).squeeze(-1), probabilities.gather(-1, top_ids)
    columns = (logprobs, facts.entropy, facts.gaps, policy, top_ids, top_logprobs, top_policy)
    return [c.cpu().numpy() for c in columns]


def padded(start: int, length: int, part: list[np.ndarray]) -> Scored:
    """Columns of rows start..length of one sequence, with the rows before them filled in as undefined."""
    undefined = [np.full((start, *c.shape[1:]), -1 if c.dtype.kind == "i" else np.nan, c.dtype) for c in part]
    scored = Scored(*map(np.concatenate, zip(undefined, part, strict=True)))
    scored.logprobs[length] = scored.policy[length] = np.nan
    return scored
