"""From a `Sampling` to the policy it describes: the one order in which samplers apply.

Order, whatever order the fields were given in; a sampler at its default is left out:
    on unscaled float32 logits     top_n_sigma, min_k, min_p_first
    then                           temperature
    on scaled logits               p_less, top_h, top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff
Top-nσ is first because σ is a statistic of the whole row, min-k next because it wants the shape of what is left. p-less
is defined on the whole scaled distribution. The others stand in the order of `model.generate` and are transformers' own
warpers, but for min_p (its top-H, arXiv 2509.02510, looks at the 100 most probable tokens). A later sampler sees -inf
where an earlier one cut; the most probable token survives all but typical_p. `temperature=0` is greedy: the argmax, and
no truncation applies.

The processors here are those that transformers lacks, for `model.generate(logits_processor=[...], do_sample=True)`,
which runs them before its own temperature and truncations, so that they see unscaled logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import transformers
from jaxtyping import Float, Float32
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from forkpoint.sampling import truncations
from forkpoint.sampling.limits import check, validate
from forkpoint.types import Sampling


class TopNSigma(LogitsProcessor):  # type: ignore[misc]
    """Top-nσ (arXiv 2411.07641): keep the logits within `top_n_sigma` standard deviations of the largest.

    Useful values are 0.3 to 1.5; 0 or less is off. Run it before other truncations: after them σ is another number.
    """

    def __init__(self, top_n_sigma: float = 1.0) -> None:
        check("top_n_sigma", top_n_sigma)
        self.top_n_sigma = top_n_sigma

    def __call__(self, input_ids: Tensor | None, scores: Tensor) -> Tensor:
        return truncations.top_n_sigma(scores, self.top_n_sigma)


class MinP(LogitsProcessor):  # type: ignore[misc]
    """Min-p (arXiv 2407.01082) wherever it is put, without the softmax of `transformers.MinPLogitsWarper`."""

    def __init__(self, min_p: float) -> None:
        check("min_p", min_p)
        self.min_p = min_p

    def __call__(self, input_ids: Tensor | None, scores: Tensor) -> Tensor:
        return truncations.min_p(scores, self.min_p)


class PLess(LogitsProcessor):  # type: ignore[misc]
    """p-less (arXiv 2509.23234): keep tokens with p >= Σ p². The paper applies it after temperature."""

    def __call__(self, input_ids: Tensor | None, scores: Tensor) -> Tensor:
        return truncations.p_less(scores)


class MinK(LogitsProcessor):  # type: ignore[misc]
    """Min-k (arXiv 2604.11012): cut at the steepest early drop; `min_k` is the paper's tau, 0 is off."""

    def __init__(self, min_k: float = 3.0) -> None:
        check("min_k", min_k)
        self.min_k = min_k

    def __call__(self, input_ids: Tensor | None, scores: Tensor) -> Tensor:
        return truncations.min_k(scores, self.min_k)


def build_processors(sampling: Sampling) -> LogitsProcessorList:
    """The policy as logits processors in the documented order, temperature included; empty when greedy.

    In `model.generate` turn its own truncations off, which would apply on top: pass top_k=0 (its default is 50) and no
    temperature or top_p. UserError for values out of range.
    """
    validate(sampling)
    s = sampling
    if s.temperature == 0:
        return LogitsProcessorList()
    steps: list[tuple[bool, Callable[[], LogitsProcessor]]] = [
        (s.top_n_sigma > 0, lambda: TopNSigma(s.top_n_sigma)),
        (s.min_k > 0, lambda: MinK(s.min_k)),
        (s.min_p_first > 0, lambda: MinP(s.min_p_first)),
        (s.temperature != 1, lambda: transformers.TemperatureLogitsWarper(float(s.temperature))),
        (s.p_less, PLess),
        (s.top_h > 0, lambda: transformers.TopHLogitsWarper(s.top_h)),
        (s.top_k > 0, lambda: transformers.TopKLogitsWarper(s.top_k)),
        (s.top_p < 1, lambda: transformers.TopPLogitsWarper(s.top_p)),
        (s.min_p > 0, lambda: MinP(s.min_p)),
        (s.typical_p < 1, lambda: transformers.TypicalLogitsWarper(s.typical_p)),
        (s.epsilon_cutoff > 0, lambda: transformers.EpsilonLogitsWarper(s.epsilon_cutoff)),
        (s.eta_cutoff > 0, lambda: transformers.EtaLogitsWarper(s.eta_cutoff)),
    ]
    return LogitsProcessorList([make() for wanted, make in steps if wanted])


def policy_logits(logits: Float[Tensor, "rows V"], sampling: Sampling) -> Float32[Tensor, "rows V"]:
    """Logits whose softmax is the distribution that tokens are drawn from, and scored under; the input is not changed.

    Greedy gives 0 at the argmax (the first, if several) and -inf elsewhere. LogitsError, naming the row, for NaN, +inf,
    or no finite logit; UserError for a sampling out of range.
    """
    processors = build_processors(sampling)
    scores = logits.float()
    for rows in truncations.row_blocks(scores):
        truncations.row_maximum(scores[rows], rows.start)
    if sampling.temperature == 0:
        return torch.full_like(scores, -math.inf).scatter_(-1, scores.argmax(-1, keepdim=True), 0.0)
    for processor in processors:
        scores = processor(None, scores)
    return scores
