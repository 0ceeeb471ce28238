"""The samplers that transformers lacks, as logits processors for `model.generate(logits_processor=[...])`.

`generate` runs the processors it is given before its own temperature and truncations, so they see unscaled
logits; ask for it with `do_sample=True`. Input ids are not looked at and may be None.
"""

from __future__ import annotations

from torch import Tensor
from transformers import LogitsProcessor

from forkpoint.sampling import gaps
from forkpoint.sampling.cliff import min_k as drop_after_cliff
from forkpoint.sampling.limits import check


class TopNSigma(LogitsProcessor):  # type: ignore[misc]
    """Top-nσ (arXiv 2411.07641): keep the logits within `top_n_sigma` standard deviations of the largest.

    Useful values are 0.3 to 1.5; 0 or less is off. Before a temperature, as in `generate`, the kept set does
    not depend on it at all; after one, it differs by rounding at the edge of the set (and where soft bans,
    1e4 under the maximum, are scaled over that limit). Run it before other truncations: after them σ is
    another number. See `forkpoint.sampling.gaps.top_n_sigma` for the definition and errors.
    """

    def __init__(self, top_n_sigma: float = 1.0) -> None:
        check("top_n_sigma", top_n_sigma)
        self.top_n_sigma = top_n_sigma

    def __call__(self, input_ids: Tensor | None, scores: Tensor) -> Tensor:
        return gaps.top_n_sigma(scores, self.top_n_sigma)


class MinP(LogitsProcessor):  # type: ignore[misc]
    """Min-p (arXiv 2407.01082): keep tokens at least `min_p` times as probable as the most probable.

    As `transformers.MinPLogitsWarper`, without its softmax over the vocabulary; that one sits after
    temperature, this one where it is put.
    """

    def __init__(self, min_p: float) -> None:
        check("min_p", min_p)
        self.min_p = min_p

    def __call__(self, input_ids: Tensor | None, scores: Tensor) -> Tensor:
        return gaps.min_p(scores, self.min_p)


class PLess(LogitsProcessor):  # type: ignore[misc]
    """p-less (arXiv 2509.23234): keep tokens with p >= Σ p². The paper applies it after temperature."""

    def __call__(self, input_ids: Tensor | None, scores: Tensor) -> Tensor:
        return gaps.p_less(scores)


class MinK(LogitsProcessor):  # type: ignore[misc]
    """Min-k (arXiv 2604.11012): cut at the steepest early drop of the sorted logits, before temperature.

    `min_k` is the paper's fallback constant tau; 0 is off. See `forkpoint.sampling.cliff.min_k`.
    """

    def __init__(self, min_k: float = 3.0) -> None:
        check("min_k", min_k)
        self.min_k = min_k

    def __call__(self, input_ids: Tensor | None, scores: Tensor) -> Tensor:
        return drop_after_cliff(scores, self.min_k)
