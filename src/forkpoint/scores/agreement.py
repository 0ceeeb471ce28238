"""How well a score per token finds the critical tokens that rollouts found; pure arithmetic on arrays.

Equal scores count as if their order were drawn by lot, in expectation: a constant score is the random baseline.
Intervals are 95% and treat problems, not tokens or trajectories, as independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from forkpoint.proportions import Interval, clustered_interval

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Labelled:
    """One trajectory's scores by scorer, each [T] and higher where a token is more likely critical; `critical` is the
    index of the token that rollouts found, `problem` the cluster that the trajectory belongs to.
    """

    problem: str
    critical: int
    scores: Mapping[str, np.ndarray]


def hit(scores: Float[np.ndarray, " T"], critical: int) -> float:
    """Chance that the token with the highest score is the critical one."""
    highest = scores == scores.max()
    return float(highest[critical] / highest.sum())


def reciprocal_rank(scores: Float[np.ndarray, " T"], critical: int) -> float:
    """Expected 1 / rank of the critical token, rank 1 being the highest score."""
    above = int((scores > scores[critical]).sum())
    tied = int((scores == scores[critical]).sum())
    return float(np.mean(1.0 / np.arange(above + 1, above + tied + 1)))


def wins(critical: Float[np.ndarray, " m"], rest: Float[np.ndarray, " n"]) -> float:
    """Pairs of a critical and another token in which the critical one scores higher; a tie is half a win."""
    ordered = np.sort(rest)
    return float(sum(np.searchsorted(ordered, critical, side).sum() for side in ("left", "right"))) / 2


MEANS = {"hit_rate": hit, "mean_reciprocal_rank": reciprocal_rank}  # over problems, of means over their trajectories
METRICS = (*MEANS, "auc")


def agreement(trajectories: Sequence[Labelled], seed: int = 0) -> dict[str, Any]:
    """Hit rate, mean reciprocal rank and AUC of every scorer, and how the first one differs from each other.

    The first two are means over problems of the means over their trajectories; the AUC is over all tokens together
    (None where there is none but critical ones). Intervals: `clustered_interval` for the hit rate, so that 0 hits is no
    certainty, else percentiles of a bootstrap over problems; with one problem they are all that is possible.
    """
    problems = sorted({t.problem for t in trajectories})
    members = [[t for t in trajectories if t.problem == p] for p in problems]
    n, names = len(problems), list(trajectories[0].scores)
    draws = np.vstack([np.ones(n), np.random.default_rng(seed).multinomial(n, [1 / n] * n, RESAMPLES)])
    values = {name: metric_values(members, name, draws) for name in names}
    scorers = []
    for name in names:
        figures = _figures(values[name], None if n > 1 else (0.0, 1.0))
        hits = clustered_interval([[hit(t.scores[name], t.critical) for t in group] for group in members])
        figures["hit_rate_ci95"] = [round(end, 6) for end in hits]
        ordered = (*METRICS, *(f"{metric}_ci95" for metric in METRICS))
        scorers.append({"scorer": name} | {key: figures[key] for key in ordered})
    comparisons = []
    for name in names[1:]:
        differences = {metric: values[names[0]][metric] - values[name][metric] for metric in METRICS}
        comparisons.append({"a": names[0], "b": name} | _figures(differences, None if n > 1 else (-1.0, 1.0)))
    return {
        "trajectories": len(trajectories),
        "problems": n,
        "tokens": sum(len(t.scores[names[0]]) for t in trajectories),
        "scorers": scorers,
        "comparisons": comparisons,
    }


def metric_values(
    members: list[list[Labelled]], name: str, draws: Float[np.ndarray, "r problems"]
) -> dict[str, Float[np.ndarray, " r"]]:
    """A scorer's metrics where problem i, whose trajectories are members[i], is there as often as a row says."""
    values = {}
    for metric, of_one in MEANS.items():
        means = np.array([np.mean([of_one(t.scores[name], t.critical) for t in group]) for group in members])
        values[metric] = draws @ means / len(means)
    critical = [np.array([t.scores[name][t.critical] for t in group]) for group in members]
    rest = [np.concatenate([np.delete(t.scores[name], t.critical) for t in group]) for group in members]
    won = np.array([[wins(c, r) for r in rest] for c in critical])
    pairs = np.outer([len(c) for c in critical], [len(r) for r in rest])
    with np.errstate(invalid="ignore"):  # no other token at all, in trajectories of one token: no AUC
        values["auc"] = ((draws @ won) * draws).sum(1) / ((draws @ pairs) * draws).sum(1)  # Σ w_i w_j wins_ij
    return values


def _figures(values: Mapping[str, np.ndarray], interval: Interval | None) -> dict[str, Any]:
    """Each metric's first value and its interval, by default percentiles of the others, to six digits."""
    figures: dict[str, Any] = {}
    for metric, (value, *resampled) in values.items():
        figures |= {metric: None, f"{metric}_ci95": None}
        if not math.isnan(value):
            ends = interval or np.nanquantile(resampled, [0.025, 0.975])  # a resample of undefined values has none
            figures |= {metric: round(float(value), 6), f"{metric}_ci95": [round(float(end), 6) for end in ends]}
    return figures
