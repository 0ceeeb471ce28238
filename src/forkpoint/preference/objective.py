"""Which preference loss, with its constants, and what it needs: from names to the pure functions of `losses`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from forkpoint.preference import losses
from forkpoint.types import UserError

Method = Literal["dpo", "rpo", "tdpo1", "tdpo2", "critical-dpo", "fork-dpo"]
METHODS: tuple[Method, ...] = get_args(Method)
PAPERS = {
    "dpo": "Direct Preference Optimization (arXiv 2305.18290)",
    "rpo": "Iterative Reasoning Preference Optimization (arXiv 2404.19733)",
    "tdpo1": "Token-level Direct Preference Optimization (arXiv 2404.11999)",
    "tdpo2": "Token-level Direct Preference Optimization (arXiv 2404.11999)",
    "critical-dpo": "Critical Tokens Matter (arXiv 2411.19943), where it is called cDPO",
    "fork-dpo": "preference at the token where a rollout forks (ours)",
}
BETA: dict[str, float] = {"critical-dpo": 1.0}  # the paper's γ; 0.1 for the others
ALPHA: dict[str, float] = {"rpo": 1.0, "tdpo2": 0.5}  # the papers'


@dataclass(frozen=True, slots=True)
class Objective:
    """A method with its constants: β (γ in critical DPO) and α (of RPO and TDPO2, None for the others)."""

    method: Method
    beta: float
    alpha: float | None = None

    @property
    def needs_kl(self) -> bool:
        """Whether the loss has the KL divergence from the reference in it, which takes a reference model at hand."""
        return self.method in ("tdpo1", "tdpo2")


def objective(method: str, beta: float | None = None, alpha: float | None = None) -> Objective:
    """The method with the constants of its paper where none are given. UserError for what does not fit."""
    found = next((m for m in METHODS if m == method), None)
    if found is None:
        raise UserError(f"the method must be one of {', '.join(METHODS)}, but is {method!r}")
    if alpha is not None and found not in ALPHA:
        raise UserError(f"{found} has no alpha; {' and '.join(ALPHA)} have one")
    if beta is not None and not 0 < beta < float("inf"):
        raise UserError(f"beta must be above 0, but is {beta}")
    if alpha is not None and not 0 <= alpha < float("inf"):
        raise UserError(f"alpha must be 0 or more, but is {alpha}")
    return Objective(found, beta or BETA.get(found, 0.1), ALPHA.get(found) if alpha is None else alpha)


@dataclass(frozen=True, slots=True)
class PairFacts:
    """Of each of B pairs, for the chosen (w) and the rejected (l) response: sums over tokens, [B].

    `chosen`, `rejected`: Δ. `rejected_weighted`: Δˡ with each token times its weight. `chosen_logprob`,
    `rejected_logprob`: of the policy. `chosen_length`: tokens. `chosen_kl`, `rejected_kl`: zeros where not needed.
    """

    chosen: Tensor
    rejected: Tensor
    rejected_weighted: Tensor
    chosen_logprob: Tensor
    rejected_logprob: Tensor
    chosen_length: Tensor
    chosen_kl: Tensor
    rejected_kl: Tensor


def pair_facts(logprobs: Tensor, reference: Tensor, kl: Tensor, batch: Mapping[str, Tensor]) -> PairFacts:
    """From what is known of each wanted token, [n] each, to sums by pair."""
    pairs = len(batch["pair_weights"])
    ratios = logprobs - reference

    def both(values: Tensor) -> tuple[Tensor, Tensor]:
        sums = losses.per_response(values, batch["response"], 2 * pairs)
        return sums[:pairs], sums[pairs:]

    chosen, rejected = both(ratios)
    chosen_logprob, rejected_logprob = both(logprobs)
    chosen_kl, rejected_kl = both(kl)
    return PairFacts(
        chosen, rejected, both(ratios * batch["token_weights"])[1], chosen_logprob, rejected_logprob,
        both(torch.ones_like(logprobs))[0], chosen_kl, rejected_kl,
    )  # fmt: skip


def pair_losses(objective: Objective, facts: PairFacts, weights: Tensor) -> Tensor:
    """The loss of each pair, [B]; `weights` [B] count in fork DPO only."""
    o, f = objective, facts
    alpha = 0.0 if o.alpha is None else o.alpha
    if o.method == "dpo":
        return losses.dpo(f.chosen, f.rejected, o.beta)
    if o.method == "rpo":
        return losses.rpo(f.chosen, f.rejected, f.chosen_logprob / f.chosen_length, o.beta, alpha)
    if o.method == "tdpo1":
        return losses.tdpo1(f.chosen, f.rejected, f.chosen_kl, f.rejected_kl, o.beta)
    if o.method == "tdpo2":
        return losses.tdpo2(f.chosen, f.rejected, f.chosen_kl, f.rejected_kl, o.beta, alpha)
    if o.method == "critical-dpo":
        return losses.critical_dpo(f.chosen, f.rejected_weighted, o.beta)
    return losses.fork_dpo(f.chosen, f.rejected, weights, o.beta)
