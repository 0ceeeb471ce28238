"""Preference losses as pure functions of log-probabilities; `LOSSES` has them by method.

    Δ(y) = Σ_t [log π_θ(y_t|·) − log π_ref(y_t|·)],      w: the chosen response, l: the rejected one

A loss takes the sums over B pairs' responses and the method's constants, and gives a number a pair, [B], which counts
times the pair's own weight. Shapes: n tokens of all 2B responses, those of the chosen ones first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from forkpoint.losses.methods import Objective

PerPair = Float[Tensor, " B"]
PerResponse = Float[Tensor, "2 B"]


@dataclass(frozen=True, slots=True)
class PairSums:
    """Sums over the tokens of each response: of the chosen ones, and of the rejected ones.

    `ratio` is Δ, `weighted` the same of tokens times their weights, `logprob` the policy's log-probability, `length`
    the number of tokens, and `kl` Σ_t KL(π_ref(·|y_<t) ‖ π_θ(·|y_<t)) over the whole vocabulary: 0 where not needed.
    """

    ratio: PerResponse
    weighted: PerResponse
    logprob: PerResponse
    length: PerResponse
    kl: PerResponse


def pair_sums(logprobs: Tensor, reference: Tensor, kl: Tensor, batch: Mapping[str, Tensor]) -> PairSums:
    """From what is known of each token, [n], to sums; the batch's `response` [n] says whose it is, 0 to 2B-1."""
    pairs, ratios = len(batch["pair_weights"]), logprobs - reference

    def sums(values: Tensor) -> Tensor:
        return values.new_zeros(2 * pairs).index_add(0, batch["response"], values).view(2, pairs)

    weighted = ratios * batch["token_weights"]
    return PairSums(sums(ratios), sums(weighted), sums(logprobs), sums(torch.ones_like(logprobs)), sums(kl))


def dpo(s: PairSums, o: Objective) -> PerPair:
    """−log σ(β(Δʷ − Δˡ)): Rafailov et al. 2023 (arXiv 2305.18290), eq. 7."""
    chosen, rejected = s.ratio
    return -logsigmoid(o.beta * (chosen - rejected))


def rpo(s: PairSums, o: Objective) -> PerPair:
    """DPO − α log π_θ(yʷ|x) / |yʷ|: Pang et al. 2024 (arXiv 2404.19733), eq. 1."""
    return dpo(s, o) - o.alpha * (s.logprob[0] / s.length[0])


def tdpo1(s: PairSums, o: Objective) -> PerPair:
    """−log σ(β[Δʷ − Δˡ − (KLˡ − KLʷ)]): Zeng et al. 2024 (arXiv 2404.11999), eq. 13."""
    (chosen, rejected), (chosen_kl, rejected_kl) = s.ratio, s.kl
    return -logsigmoid(o.beta * (chosen - rejected - (rejected_kl - chosen_kl)))


def tdpo2(s: PairSums, o: Objective) -> PerPair:
    """−log σ(β[Δʷ − Δˡ − α(KLˡ − sg(KLʷ))]), sg without gradient: Zeng et al. 2024 (arXiv 2404.11999), eq. 18."""
    (chosen, rejected), (chosen_kl, rejected_kl) = s.ratio, s.kl
    return -logsigmoid(o.beta * (chosen - rejected - o.alpha * (rejected_kl - chosen_kl.detach())))


def critical_dpo(s: PairSums, o: Objective) -> PerPair:
    """−log σ(γ Σ_t w_t Δʷ_t − γ Σ_t w_t Δˡ_t): Lin et al. 2024 (arXiv 2411.19943), section 4.

    There w_t is 1 for chosen tokens and 1 − s_t for rejected ones. With all weights of 1 this is DPO.
    """
    chosen, rejected = s.weighted
    return -logsigmoid(o.beta * (chosen - rejected))


LOSSES: dict[str, Callable[[PairSums, Objective], PerPair]] = {
    "dpo": dpo,
    "rpo": rpo,
    "tdpo1": tdpo1,
    "tdpo2": tdpo2,
    "critical-dpo": critical_dpo,
    "fork-dpo": dpo,  # of responses of one token; the pair's weight is how much the chosen one raises success. Ours
}
