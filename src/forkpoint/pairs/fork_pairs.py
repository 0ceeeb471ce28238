"""Pairs of single tokens at a fork: what a trajectory wrote, and what would have done better there.

At position d the rollouts of the fork estimator say of another token v how often the response ends right after it,
q_{d,v}, and the success curve says how often it does after the trajectory's own token y_d, p_d. Where q_{d,v} is
larger, beyond what chance explains, v is to be preferred to y_d after the tokens before d.

Pure choice; knows nothing of models but how a tokenizer spells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from forkpoint.pairs.pair import Pair
from forkpoint.pairs.pair_files import make_pair
from forkpoint.proportions import Interval, beta_prior, difference_interval, exact_interval
from forkpoint.types import TokenIds

REASONS = ("not_evaluated", "not_better", "within_error", "less_likely")


@dataclass(frozen=True, slots=True)
class EvaluatedToken:
    """Another token at a position, and how many of the n rollouts that took it were correct.

    `likelier`: whether the policy gives it a higher probability than the trajectory's own token there.
    """

    position: int
    token_id: int
    correct: int
    n: int
    likelier: bool


@dataclass(frozen=True, slots=True)
class Forked:
    """What critical.jsonl says of a trajectory of T tokens.

    `success` [T+1]: P(correct | the first i tokens), None where it was not estimated; `success_ci`: 95% intervals.
    """

    id: str
    problem_id: str
    prompt_ids: TokenIds
    token_ids: TokenIds
    success: tuple[float | None, ...]
    success_ci: tuple[Interval | None, ...]
    alternatives: tuple[EvaluatedToken, ...]


@dataclass(frozen=True, slots=True)
class ForkPairs:
    """Pairs, each with its problem's id, and how many alternatives make none: by reason.

    `counts`: `trajectories`, `trajectories_with_pairs`, `positions` with alternatives, `positions_with_pairs`,
    `alternatives`, `pairs`. `dropped`: the success after the trajectory's own token was `not_evaluated`; the
    alternative is `not_better` in the estimates; or it is, `within_error`; or it is better, but `less_likely`.
    """

    pairs: list[tuple[str, Pair]]
    counts: dict[str, int]
    dropped: dict[str, int]


def choose_fork_pairs(trajectories: Sequence[Forked], tokenizer: Any, *, any_alternative: bool = False) -> ForkPairs:
    """One pair for each alternative that is better and likelier than the trajectory's own token, at any position.

    prompt = the tokens before position d; chosen = v alone; rejected = y_d alone; weight = q_{d,v} - p_d, with p_d the
    success *after* y_d, success[d+1], and q_{d,v} the mean of its posterior under the Beta distribution from which all
    alternatives' shares most likely come (`beta_prior`). The share itself would be too large on average, most with few
    rollouts, because luck helps to pass the test below; a posterior mean is not changed by being picked.

    Better means that the 95% interval of q_{d,v} - p_d lies above 0. Its ends come by `difference_interval`
    (square-and-add, Newcombe's) from the curve's own interval of p_d and the exact one of Clopper & Pearson of
    q_{d,v}. Wilson's, usual in that place, is right on average over shares, but here thousands of alternatives had a
    few rollouts each and those that did well are picked: of 1 of 1 it says "above 0.21", which a share of 0.2 makes
    false in a fifth of the cases, where the exact one says "above 0.025". The two estimates count as independent: p_d
    rests on rollouts that left the trajectory after position d, q_{d,v} on some that left it at d. All alternatives
    that qualify are taken, not the best alone: each is a token that should gain on y_d, and the weight says how much.

    Likelier: where y_d was the slip, what is right is as a rule what the model writes more often. A better token that
    it writes less often is as a rule a second error that makes up for an earlier one, which only the verdict wants.
    With `any_alternative` such tokens are taken too.
    """
    pairs: list[tuple[str, Pair]] = []
    prior = beta_prior([(one.correct, one.n) for trajectory in trajectories for one in trajectory.alternatives])
    dropped = dict.fromkeys(REASONS, 0)
    tried, taken = list[tuple[str, int]](), list[tuple[str, int]]()
    for trajectory in trajectories:
        for one in trajectory.alternatives:
            tried.append((trajectory.id, one.position))
            gain, reason = _gain(trajectory, one, prior)
            if not reason and not (one.likelier or any_alternative):
                reason = "less_likely"
            if reason:
                dropped[reason] += 1
                continue
            taken.append(tried[-1])
            pairs.append((trajectory.problem_id, _pair(trajectory, one, gain, tokenizer)))
    counts = {
        "trajectories": len(trajectories),
        "trajectories_with_pairs": len({name for name, _ in taken}),
        "positions": len(set(tried)),
        "positions_with_pairs": len(set(taken)),
        "alternatives": len(tried),
        "pairs": len(pairs),
    }
    return ForkPairs(pairs, counts, dropped)


def _pair(trajectory: Forked, one: EvaluatedToken, gain: float, tokenizer: Any) -> Pair:
    d = one.position
    prompt = (*trajectory.prompt_ids, *trajectory.token_ids[:d])
    return make_pair(
        f"{trajectory.id}/{d}/{one.token_id}", prompt, (one.token_id,), (trajectory.token_ids[d],), tokenizer,
        weight=round(gain, 6),
    )  # fmt: skip


def _gain(trajectory: Forked, one: EvaluatedToken, prior: tuple[float, float]) -> tuple[float, str]:
    """The weight of an alternative, and why it makes no pair, "" where it does."""
    p, p_ci = trajectory.success[one.position + 1], trajectory.success_ci[one.position + 1]
    if p is None or p_ci is None:
        return 0.0, "not_evaluated"
    q = one.correct / one.n
    if q <= p:
        return 0.0, "not_better"
    lower, _ = difference_interval(q, exact_interval(one.correct, one.n), p, p_ci)
    gain = (one.correct + prior[0]) / (one.n + sum(prior)) - p
    return gain, "" if lower > 0 and gain > 0 else "within_error"
