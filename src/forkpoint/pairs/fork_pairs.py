"""Pairs of single tokens at a fork: what a trajectory wrote, and what would have done better there.

At position d the rollouts of the fork estimator say of another token v how often the response ends right after it,
q_{d,v}, and the success curve says how often it does after the trajectory's own token y_d, p_d. Pure choice.
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

    `dropped`: the success after the trajectory's own token was `not_evaluated`; the alternative is `not_better` in the
    estimates; or it is, `within_error`; or it is better, but `less_likely`.
    """

    pairs: list[tuple[str, Pair]]
    counts: dict[str, int]
    dropped: dict[str, int]


def choose_fork_pairs(trajectories: Sequence[Forked], tokenizer: Any, *, any_alternative: bool = False) -> ForkPairs:
    """One pair for each alternative that is better and likelier than the trajectory's own token, at any position.

    prompt = the tokens before position d; chosen = v alone; rejected = y_d alone; weight = q_{d,v} - p_d, with p_d the
    success *after* y_d, success[d+1], and q_{d,v} the mean of its posterior under `beta_prior`: being picked for luck
    changes the share, and not a posterior mean.

    Better: the 95% interval of q_{d,v} - p_d (`difference_interval`, Newcombe's) lies above 0. It takes the exact
    interval of q_{d,v} (Clopper & Pearson): Wilson's says of 1 of 1 "above 0.21", and of thousands of alternatives with
    a few rollouts each the lucky ones are picked.

    Likelier: a better token that the model writes less often is as a rule a second error that makes up for an earlier
    one. With `any_alternative` such tokens are taken too.
    """
    tried = [(trajectory, one) for trajectory in trajectories for one in trajectory.alternatives]
    prior = beta_prior([(one.correct, one.n) for _, one in tried])
    pairs: list[tuple[str, Pair]] = []
    dropped = dict.fromkeys(REASONS, 0)
    forks: list[tuple[str, int]] = []
    for trajectory, one in tried:
        gain, reason = _gain(trajectory, one, prior)
        if not reason and not (one.likelier or any_alternative):
            reason = "less_likely"
        if reason:
            dropped[reason] += 1
            continue
        d = one.position
        ids = trajectory.prompt_ids + trajectory.token_ids[:d], (one.token_id,), (trajectory.token_ids[d],)
        pair = make_pair(f"{trajectory.id}/{d}/{one.token_id}", *ids, tokenizer, weight=round(gain, 6))
        pairs.append((trajectory.problem_id, pair))
        forks.append((trajectory.id, d))
    counts = {
        "trajectories": len(trajectories),
        "trajectories_with_pairs": len({name for name, _ in forks}),
        "positions": len({(trajectory.id, one.position) for trajectory, one in tried}),
        "positions_with_pairs": len(set(forks)),
        "alternatives": len(tried),
        "pairs": len(pairs),
    }
    return ForkPairs(pairs, counts, dropped)


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
