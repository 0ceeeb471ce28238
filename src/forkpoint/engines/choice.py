"""The choice of the next token from one row of logits a branch, and what is noted about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt64
from torch import Tensor

from forkpoint.sampling.draw import inverse_cdf, uniforms
from forkpoint.sampling.processors import policy_logits
from forkpoint.types import Sampling, UserError


@dataclass(frozen=True, slots=True)
class Picked:
    """Per row: the chosen token, its raw log-probability, and the raw p(top1) - p(top2)."""

    tokens: np.ndarray
    logprobs: np.ndarray
    gaps: np.ndarray


def top_two_gap(
    logits: Float[Tensor, "rows V"], log_z: Float[Tensor, "rows 1"]
) -> tuple[Int64[Tensor, "rows 1"], Float[Tensor, " rows"]]:
    """The argmax (the first, if several) of each row and p(top1) - p(top2)."""
    first, best = logits.max(-1, keepdim=True)
    second = logits.scatter(-1, best, float("-inf")).amax(-1, keepdim=True)
    return best, ((first - log_z).exp() - (second - log_z).exp()).squeeze(-1)


def choose(
    logits: Float[Tensor, "rows V"],
    sampling: Sampling,
    hashes: UInt64[np.ndarray, " rows"],
    steps: Int64[np.ndarray, " rows"],
    keys: Sequence[str],
) -> Picked:
    """Greedy or sampled tokens; row i uses the uniform number of (hashes[i], steps[i]).

    Raises UserError naming the request (`keys[i]`) whose logits are NaN or hold no finite value.
    """
    logits = logits.float()
    if logits.device.type == "mps":  # has no float64, which the draw needs
        logits = logits.cpu()
    log_z = torch.logsumexp(logits, -1, keepdim=True)
    if not bool(torch.isfinite(log_z).all()):
        bad = int((~torch.isfinite(log_z)).flatten().nonzero()[0])
        raise UserError(
            f"the model's logits for request {keys[bad]!r} are NaN or infinite at generated token {int(steps[bad])}: "
            "its weights or its precision are broken"
        )
    best, gaps = top_two_gap(logits, log_z)
    if sampling.temperature == 0:
        tokens = best
    else:
        tokens = inverse_cdf(policy_logits(logits, sampling), uniforms(hashes, steps))[:, None]
    logprobs = logits.gather(-1, tokens) - log_z
    return Picked(tokens.squeeze(-1).cpu().numpy(), logprobs.squeeze(-1).cpu().numpy(), gaps.cpu().numpy())
