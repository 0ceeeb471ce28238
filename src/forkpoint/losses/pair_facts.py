"""From log-probabilities of tokens to the loss of each pair: sums by response, and the method's pure function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from forkpoint.losses import preference as losses
from forkpoint.losses.methods import Objective


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
    """The loss of each pair, [B], times its weight."""
    o, f = objective, facts
    if o.method == "fork-dpo":
        return losses.fork_dpo(f.chosen, f.rejected, weights, o.beta)
    return weights * _unweighted(o, f)


def _unweighted(o: Objective, f: PairFacts) -> Tensor:
    """The loss of each pair by a method of whole responses, [B]."""
    alpha = 0.0 if o.alpha is None else o.alpha
    if o.method == "dpo":
        return losses.dpo(f.chosen, f.rejected, o.beta)
    if o.method == "rpo":
        return losses.rpo(f.chosen, f.rejected, f.chosen_logprob / f.chosen_length, o.beta, alpha)
    if o.method == "tdpo1":
        return losses.tdpo1(f.chosen, f.rejected, f.chosen_kl, f.rejected_kl, o.beta)
    if o.method == "tdpo2":
        return losses.tdpo2(f.chosen, f.rejected, f.chosen_kl, f.rejected_kl, o.beta, alpha)
    return losses.critical_dpo(f.chosen, f.rejected_weighted, o.beta)
