"""Preference losses as pure functions of log-probabilities; each gives a loss for each of B pairs.

    Δ(y) = Σ_t [log π_θ(y_t|·) − log π_ref(y_t|·)],      w: the chosen response, l: the rejected one

`LOSSES` has them by method. Shapes: B pairs, n tokens of all 2B responses, those of the chosen ones first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import logsigmoid

from forkpoint.losses.methods import Objective

PerPair = Float[Tensor, " B"]


def dpo(chosen: PerPair, rejected: PerPair, beta: float) -> PerPair:
    """−log σ(β(Δʷ − Δˡ)): Rafailov et al. 2023 (arXiv 2305.18290), eq. 7. Takes Δʷ and Δˡ."""
    return -logsigmoid(beta * (chosen - rejected))


def rpo(chosen: PerPair, rejected: PerPair, chosen_mean: PerPair, beta: float, alpha: float) -> PerPair:
    """DPO − α log π_θ(yʷ|x) / |yʷ|: Pang et al. 2024 (arXiv 2404.19733), eq. 1.

    `chosen_mean` is log π_θ(yʷ|x) / |yʷ|, the mean over the tokens of the chosen response.
    """
    return dpo(chosen, rejected, beta) - alpha * chosen_mean


def tdpo1(chosen: PerPair, rejected: PerPair, chosen_kl: PerPair, rejected_kl: PerPair, beta: float) -> PerPair:
    """−log σ(β[Δʷ − Δˡ − (KLˡ − KLʷ)]): Zeng et al. 2024 (arXiv 2404.11999), eq. 13.

    KL(y) = Σ_t KL(π_ref(·|y_<t) ‖ π_θ(·|y_<t)), over the whole vocabulary.
    """
    return -logsigmoid(beta * (chosen - rejected - (rejected_kl - chosen_kl)))


def tdpo2(
    chosen: PerPair, rejected: PerPair, chosen_kl: PerPair, rejected_kl: PerPair, beta: float, alpha: float
) -> PerPair:
    """−log σ(β[Δʷ − Δˡ − α(KLˡ − sg(KLʷ))]), sg without gradient: Zeng et al. 2024 (arXiv 2404.11999), eq. 18."""
    return -logsigmoid(beta * (chosen - rejected - alpha * (rejected_kl - chosen_kl.detach())))


def critical_dpo(chosen_weighted: PerPair, rejected_weighted: PerPair, gamma: float) -> PerPair:
    """−log σ(γ Σ_t w_t Δʷ_t − γ Σ_t w_t Δˡ_t): Lin et al. 2024 (arXiv 2411.19943), section 4.

    There w_t is 1 for chosen tokens and 1 − s_t for rejected ones. With all weights of 1 this is DPO.
    """
    return dpo(chosen_weighted, rejected_weighted, gamma)


def fork_dpo(better: PerPair, worse: PerPair, weight: PerPair, beta: float) -> PerPair:
    """−w log σ(β[(log π_θ(v) − log π_ref(v)) − (log π_θ(y_d) − log π_ref(y_d))]) at one position. Ours.

    `better` and `worse` are the two log-ratios, and w by how much v raises the probability of success there.
    """
    return weight * dpo(better, worse, beta)


@dataclass(frozen=True, slots=True)
class PairSums:
    """Sums over the tokens of each of B pairs' responses, [B].

    `chosen`, `rejected`: Δ; with `_weighted` each token times its weight. `chosen_logprob`, `rejected_logprob`: of the
    policy. `chosen_length`: tokens. `chosen_kl`, `rejected_kl`: zeros where not needed. `weight`: the pair's own.
    """

    chosen: Tensor
    rejected: Tensor
    chosen_weighted: Tensor
    rejected_weighted: Tensor
    chosen_logprob: Tensor
    rejected_logprob: Tensor
    chosen_length: Tensor
    chosen_kl: Tensor
    rejected_kl: Tensor
    weight: Tensor


LOSSES: dict[str, Callable[[PairSums, Objective], PerPair]] = {
    "dpo": lambda s, o: s.weight * dpo(s.chosen, s.rejected, o.beta),
    "rpo": lambda s, o: s.weight * rpo(s.chosen, s.rejected, s.chosen_logprob / s.chosen_length, o.beta, o.alpha),
    "tdpo1": lambda s, o: s.weight * tdpo1(s.chosen, s.rejected, s.chosen_kl, s.rejected_kl, o.beta),
    "tdpo2": lambda s, o: s.weight * tdpo2(s.chosen, s.rejected, s.chosen_kl, s.rejected_kl, o.beta, o.alpha),
    "critical-dpo": lambda s, o: s.weight * critical_dpo(s.chosen_weighted, s.rejected_weighted, o.beta),
    "fork-dpo": lambda s, o: fork_dpo(s.chosen, s.rejected, s.weight, o.beta),
}
"""The loss of each pair by method."""


def pair_sums(logprobs: Tensor, reference: Tensor, kl: Tensor, batch: Mapping[str, Tensor]) -> PairSums:
    """From what is known of each token [n] to sums by pair; `batch` has `response`, `token_weights`, `pair_weights`."""
    pairs = len(batch["pair_weights"])
    ratios = logprobs - reference

    def both(values: Tensor) -> tuple[Tensor, Tensor]:
        sums = per_response(values, batch["response"], 2 * pairs)
        return sums[:pairs], sums[pairs:]

    weighted, length = ratios * batch["token_weights"], both(torch.ones_like(logprobs))[0]
    return PairSums(
        *both(ratios), *both(weighted), *both(logprobs), length, *both(kl), weight=batch["pair_weights"],
    )  # fmt: skip


def per_response(values: Float[Tensor, " n"], response: Int64[Tensor, " n"], responses: int) -> Float[Tensor, " R"]:
    """The sum of each response's values; `response` says whose a value is, 0 to responses-1."""
    return values.new_zeros(responses).index_add(0, response, values)
