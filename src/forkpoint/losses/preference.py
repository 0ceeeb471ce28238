"""Preference losses as pure functions of log-probabilities; each gives a loss for each of B pairs.

    Δ(y) = Σ_t [log π_θ(y_t|·) − log π_ref(y_t|·)],      w: the chosen response, l: the rejected one

Imports only torch. Sums over tokens are the caller's, by `per_response`.
"""

from __future__ import annotations

from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import logsigmoid

PerPair = Float[Tensor, " B"]


def per_response(values: Float[Tensor, " n"], response: Int64[Tensor, " n"], responses: int) -> Float[Tensor, " R"]:
    """The sum of each response's values; `response` says whose a value is, 0 to responses-1."""
    return values.new_zeros(responses).index_add(0, response, values)


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


def critical_dpo(chosen: PerPair, rejected_weighted: PerPair, gamma: float) -> PerPair:
    """−log σ(γΔʷ − γ Σ_t (1 − s_t) Δˡ_t): Lin et al. 2024 (arXiv 2411.19943), section 4.

    `rejected_weighted` is the sum over the rejected response's tokens of its weights 1 − s_t times Δˡ_t; with all s_t
    of 0 this is DPO.
    """
    return dpo(chosen, rejected_weighted, gamma)


def fork_dpo(better: PerPair, worse: PerPair, weight: PerPair, beta: float) -> PerPair:
    """−w log σ(β[(log π_θ(v) − log π_ref(v)) − (log π_θ(y_d) − log π_ref(y_d))]) at one position. Ours.

    `better` and `worse` are the two log-ratios, and w by how much v raises the probability of success there.
    """
    return weight * dpo(better, worse, beta)
