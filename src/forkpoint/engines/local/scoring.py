"""What a model says about given tokens: forward passes over padded batches, vocabulary-sized work only where asked.

A hook on the output head lets only the wanted rows of hidden states reach it, so [B, T, V] logits are never made for
prompts, and whatever a model does to its logits afterwards (soft-capping, scaling) still happens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import PreTrainedModel

from forkpoint.engines.local.memory import LOGITS_COPIES, in_halves
from forkpoint.engines.local.products import float32_logits
from forkpoint.engines.local.token_choice import row_facts
from forkpoint.engines.local.trunk_attention import forward_lock
from forkpoint.sampling.processors import policy_logits
from forkpoint.types import Sampling, Scored, TokenIds, UserError

MOST_TOKENS = 16_384  # padded tokens in one forward pass
PAD = 0


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows first..last of one sequence's `Scored` (row i predicts position i); a long sequence has several."""

    tokens: TokenIds
    first: int
    last: int


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
        firsts = {i: range(starts[i], len(sequences[i]) + 1, fitting) for i in batch}
        work = [
            Stretch(sequences[i], first, min(first + fitting - 1, len(sequences[i])))
            for i in batch
            for first in firsts[i]
        ]
        size = len(work) if len(work) == len(batch) else 1  # the stretches of a long sequence one by one
        passes = [work[at : at + size] for at in range(0, len(work), size)]
        parts = in_halves(passes, lambda stretches: _score_batch(model, stretches, top, sampling), "sequence")
        for i in batch:
            columns = zip(*(next(parts) for _ in firsts[i]), strict=True)
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


@contextmanager
def only_rows(model: PreTrainedModel, rows: Int64[Tensor, " n"]) -> Iterator[None]:
    """Only these rows of the flattened [B*T] hidden states reach the output head, which gives float32."""

    def select(_: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0].flatten(0, 1)[rows][None], *inputs[1:])

    with forward_lock:
        handle = model.get_output_embeddings().register_forward_pre_hook(select)
        try:
            with float32_logits(model):
                yield
        finally:
            handle.remove()


def logits_at(model: PreTrainedModel, ids: Int64[Tensor, "B T"], rows: Int64[Tensor, " n"]) -> Float[Tensor, "n V"]:
    """Logits [n, V] at rows of the flattened [B*T] positions of right-padded sequences."""
    with only_rows(model, rows):
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits[0]


def _score_batch(
    model: PreTrainedModel, batch: Sequence[Stretch], top: int, sampling: Sampling | None
) -> list[list[np.ndarray]]:
    """The columns of each stretch."""
    width = max(len(s.tokens) for s in batch)
    ids = torch.tensor([[*s.tokens, *[PAD] * (width - len(s.tokens))] for s in batch])
    rows = torch.cat([torch.arange(s.first - 1, s.last) + b * width for b, s in enumerate(batch)])
    # the token that each row predicts; the row after the last token predicts none and gets a dummy
    targets = torch.cat([torch.tensor([*s.tokens, PAD][s.first : s.last + 1]) for s in batch])
    logits = logits_at(model, ids.to(model.device), rows.to(model.device)).float()
    table = describe(logits, targets.to(model.device)[:, None], top, sampling)
    ends = np.cumsum([s.last - s.first + 1 for s in batch])[:-1]
    return [list(part) for part in zip(*(np.split(column, ends) for column in table), strict=True)]


def describe(
    logits: Float[Tensor, "n V"], targets: Int64[Tensor, "n 1"], top: int, sampling: Sampling | None
) -> list[np.ndarray]:
    """Columns of `Scored`, in its field order, for the given rows."""
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
        probabilities = torch.softmax(policy_logits(logits, sampling), -1)
        policy, top_policy = probabilities.gather(-1, targets).squeeze(-1), probabilities.gather(-1, top_ids)
    columns = (logprobs, facts.entropy, facts.gaps, policy, top_ids, top_logprobs, top_policy)
    return [c.cpu().numpy() for c in columns]


def padded(start: int, length: int, part: list[np.ndarray]) -> Scored:
    """Columns of rows start..length of one sequence, with the rows before them filled in as undefined."""
    scored = Scored(*(
        np.concatenate([np.full((start, *c.shape[1:]), -1 if c.dtype.kind == "i" else np.nan, c.dtype), c])
        for c in part
    ))  # fmt: skip
    scored.logprobs[length] = scored.policy[length] = np.nan
    return scored
