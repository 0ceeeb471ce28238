"""What a model says about given tokens: one forward pass over padded batches, vocabulary-sized work only where asked.

A hook on the output head lets only the wanted rows of hidden states reach it, so [B, T, V] logits are never made for
prompts, and whatever a model does to its logits afterwards (soft-capping, scaling) still happens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import PreTrainedModel

from forkpoint.engines.choice import top_two_gap
from forkpoint.engines.memory import LOGITS_COPIES, is_out_of_memory
from forkpoint.sampling.processors import policy_logits
from forkpoint.types import Sampling, Scored, TokenIds, UserError

MOST_TOKENS = 16_384  # padded tokens in one forward pass
PAD = 0


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
    for batch in padded_batches(sequences, starts, model.config.get_text_config(decoder=True).vocab_size, budget):
        scored: dict[int, Scored] = {}
        pending = [batch]
        while pending:
            part = pending.pop()
            try:
                scored |= zip(part, _score_batch(model, sequences, starts, part, top, sampling), strict=True)
            except Exception as error:
                if not is_out_of_memory(error) or len(part) == 1:
                    raise
                pending += [part[: len(part) // 2], part[len(part) // 2 :]]
        yield from (scored[i] for i in batch)


def padded_batches(
    sequences: Sequence[TokenIds], starts: Sequence[int], vocab_size: int, budget: int
) -> Iterator[list[int]]:
    """Runs of consecutive sequences, as indices, whose padded tokens and wanted logits fit."""
    rows_that_fit = max(1, budget // (LOGITS_COPIES * 4 * vocab_size))
    batch: list[int] = []
    width = wanted = 0
    for i, sequence in enumerate(sequences):
        rows = len(sequence) + 1 - starts[i]
        widened = max(width, len(sequence))
        if batch and (widened * (len(batch) + 1) > MOST_TOKENS or wanted + rows > rows_that_fit):
            yield batch
            batch, wanted, widened = [], 0, len(sequence)
        batch.append(i)
        width, wanted = widened, wanted + rows
    if batch:
        yield batch


@contextmanager
def _only_rows(model: PreTrainedModel, rows: Int64[Tensor, " n"]) -> Iterator[None]:
    """Let only the given rows of the flattened [B*T] hidden states reach the output head."""

    def select(_: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0].flatten(0, 1)[rows][None], *inputs[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def logits_at(model: PreTrainedModel, ids: Int64[Tensor, "B T"], rows: Int64[Tensor, " n"]) -> Float[Tensor, "n V"]:
    """Logits [n, V] at rows of the flattened [B*T] positions of right-padded sequences."""
    with _only_rows(model, rows):
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits[0]


def _score_batch(
    model: PreTrainedModel,
    sequences: Sequence[TokenIds],
    starts: Sequence[int],
    batch: list[int],
    top: int,
    sampling: Sampling | None,
) -> list[Scored]:
    width = max(len(sequences[i]) for i in batch)
    ids = torch.tensor([[*sequences[i], *[PAD] * (width - len(sequences[i]))] for i in batch])
    rows = torch.cat([torch.arange(starts[i] - 1, len(sequences[i])) + b * width for b, i in enumerate(batch)])
    # the token that each row predicts; the row after the last predicts none and gets a dummy
    targets = torch.cat([torch.tensor([*sequences[i][starts[i] :], PAD]) for i in batch])
    logits = logits_at(model, ids.to(model.device), rows.to(model.device)).float()
    table = _describe(logits, targets.to(model.device)[:, None], top, sampling)
    ends = np.cumsum([len(sequences[i]) + 1 - starts[i] for i in batch])
    parts = zip(*(np.split(column, ends[:-1]) for column in table), strict=True)
    return [_padded(starts[i], len(sequences[i]), list(part)) for i, part in zip(batch, parts, strict=True)]


def _describe(
    logits: Float[Tensor, "n V"], targets: Int64[Tensor, "n 1"], top: int, sampling: Sampling | None
) -> list[np.ndarray]:
    """Columns of `Scored`, in its field order, for the given rows."""
    log_z = torch.logsumexp(logits, -1, keepdim=True)
    if not bool(torch.isfinite(log_z).all()):
        raise UserError("the model's logits are NaN or infinite: its weights or its precision are broken")
    logprobs = (logits.gather(-1, targets) - log_z).squeeze(-1)
    p = (logits - log_z).exp_()
    # Σ p (log Z - l), where p = 0 contributes nothing even for l = -inf
    entropy = log_z.squeeze(-1) - torch.linalg.vecdot(p, logits.clamp(min=torch.finfo(torch.float32).min))
    _, gaps = top_two_gap(logits, log_z)
    if sampling is None:
        policy = torch.full_like(logprobs, float("nan"))
    else:
        policy = torch.softmax(policy_logits(logits, sampling), -1).gather(-1, targets).squeeze(-1)
    best = logits.topk(top, -1) if top else torch.return_types.topk((logits[:, :0], targets[:, :0]))
    columns = (logprobs, entropy, gaps, policy, best.indices, best.values - log_z)
    return [c.cpu().numpy() for c in columns]


def _padded(start: int, length: int, part: list[np.ndarray]) -> Scored:
    """Columns of rows start..length of one sequence, with the rows before them filled in as undefined."""
    logprobs, entropy, gaps, policy, top_ids, top_logprobs = (
        np.concatenate([np.full((start, *c.shape[1:]), -1 if c.dtype.kind == "i" else np.nan, c.dtype), c])
        for c in part
    )
    logprobs[length] = policy[length] = np.nan
    return Scored(logprobs, entropy, gaps, policy, top_ids, top_logprobs)
