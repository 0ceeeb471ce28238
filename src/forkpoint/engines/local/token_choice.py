"""The choice of the next token from one row of logits a branch, and what is noted about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt64
from torch import Tensor

from forkpoint.sampling.draw import inverse_cdf, uniforms
from forkpoint.sampling.processors import policy_logits
from forkpoint.sampling.truncations import row_blocks
from forkpoint.types import Sampling, UserError

LEAST = torch.finfo(torch.float32).min


@dataclass(frozen=True, slots=True)
class Picked:
    """Per row: the chosen token, its raw log-probability, and the raw p(top1) - p(top2)."""

    tokens: np.ndarray
    logprobs: np.ndarray
    gaps: np.ndarray


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


def choose(
    logits: Float[Tensor, "rows V"],
    sampling: Sampling,
    hashes: UInt64[np.ndarray, " rows"],
    steps: Int64[np.ndarray, " rows"],
    key_of: Callable[[int], str],
) -> Picked:
    """Greedy or sampled tokens; row i uses the uniform number of (hashes[i], steps[i]).

    Raises UserError naming the request (`key_of(i)`) whose logits are NaN or hold no finite value.
    """
    logits = logits.float()
    if logits.device.type == "mps":  # has no float64, which the draw needs
        logits = logits.cpu()
    facts = row_facts(logits, with_entropy=False)
    broken = ~torch.isfinite(facts.log_z)
    if bool(broken.any()):
        row = int(broken.flatten().nonzero()[0])
        raise UserError(
            f"the model's logits for request {key_of(row)!r} are NaN or infinite at generated token {int(steps[row])}: "
            "its weights or its precision are broken"
        )
    tokens = facts.best
    if sampling.temperature > 0:
        tokens = inverse_cdf(policy_logits(logits, sampling), uniforms(hashes, steps))[:, None]
    logprobs = logits.gather(-1, tokens) - facts.log_z
    return Picked(tokens.squeeze(-1).cpu().numpy(), logprobs.squeeze(-1).cpu().numpy(), facts.gaps.cpu().numpy())
