"""The loss of language modeling over weighted tokens: CLM, SLM and SFT are this with different weights."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def weighted_nll(
    logprobs: Float[Tensor, " n"], weights: Float[Tensor, " n"], count: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """−Σ_t w_t log π_θ(x_t | x_<t) / N, with N the number of tokens whose weight is not 0.

    With weights of 1 for the top share of tokens L_SLM: Lin et al. 2024 (Rho-1, arXiv 2404.07965), eq. 3 and 4; with 1
    for every token the usual mean. N is the caller's `count`, over a whole optimizer step.
    """
    return -(weights * logprobs).sum() / count.clamp(min=1)
