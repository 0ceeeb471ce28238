"""How well a score per token finds the critical tokens that rollouts found; pure arithmetic on arrays.

Ties are shared: equal scores count as if their order were drawn by lot, in expectation. A constant score is therefore
the random baseline, exactly. Intervals are 95% and treat problems, not tokens or trajectories, as independent.
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
METRICS = ("hit_rate", "mean_reciprocal_rank", "auc")


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


def wins(critical: Float[np.ndarray, " m"], others: Float[np.ndarray, " n"]) -> float:
    """Pairs of a critical and another token in which the critical one scores higher; a tie is half a win."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, critical, "left").sum()
    return float(below + np.searchsorted(ordered, critical, "right").sum()) / 2


def agreement(trajectories: Sequence[Labelled], seed: int = 0) -> dict[str, Any]:
    """Hit rate, mean reciprocal rank and AUC of every scorer, and how the first one differs from each other.

    Hit rate and mean reciprocal rank are means over problems of the means over their trajectories; the AUC is over all
    tokens of all trajectories together, critical or not (chance 0.5; None, with its intervals and differences, where
    there is no other token, as in responses of one token). Intervals: `clustered_interval` for the hit rate,
    so that 0 hits is no certainty, percentiles of a bootstrap over problems for the rest and for the differences.
    With one problem they are all that is possible.
    """
    problems = sorted({t.problem for t in trajectories})
    members = [[t for t in trajectories if t.problem == p] for p in problems]
    draws = np.random.default_rng(seed).multinomial(len(problems), [1 / len(problems)] * len(problems), RESAMPLES)
    names = list(trajectories[0].scores)
    found = {name: _metrics(members, name, draws.astype(np.float64)) for name in names}
    certain = len(problems) > 1
    scorers = [
        {"scorer": name}
        | {metric: _rounded(found[name][metric][0]) for metric in METRICS}
        | {f"{metric}_ci95": _ends(_interval(members, name, metric, found[name], certain)) for metric in METRICS}
        for name in names
    ]
    comparisons = [
        {"a": names[0], "b": name} | _differences(found[names[0]], found[name], certain) for name in names[1:]
    ]
    return {
        "trajectories": len(trajectories),
        "problems": len(problems),
        "tokens": sum(len(t.scores[names[0]]) for t in trajectories),
        "scorers": scorers,
        "comparisons": comparisons,
    }


Found = dict[str, tuple[float, np.ndarray]]  # by metric: the value, and its value in every resample


def _metrics(members: list[list[Labelled]], name: str, draws: Float[np.ndarray, "resamples problems"]) -> Found:
    found: Found = {}
    for metric, of_one in (("hit_rate", hit), ("mean_reciprocal_rank", reciprocal_rank)):
        means = np.array([np.mean([of_one(t.scores[name], t.critical) for t in group]) for group in members])
        found[metric] = float(means.mean()), draws @ means / len(means)
    found["auc"] = _auc(members, name, draws)
    return found


def _auc(members: list[list[Labelled]], name: str, draws: np.ndarray) -> tuple[float, np.ndarray]:
    """The AUC over all tokens, and that of each resample: problem i drawn w_i times gives Σ w_i w_j wins_ij."""
    critical = [np.array([t.scores[name][t.critical] for t in group]) for group in members]
    others = [np.concatenate([np.delete(t.scores[name], t.critical) for t in group]) for group in members]
    won = np.array([[wins(c, o) for o in others] for c in critical])
    pairs = np.outer([len(c) for c in critical], [len(o) for o in others])
    with np.errstate(invalid="ignore"):  # no other token at all, in trajectories of one token: no AUC
        whole = won.sum() / pairs.sum()
        resampled = ((draws @ won) * draws).sum(1) / ((draws @ pairs) * draws).sum(1)
    return float(whole), resampled


def _interval(members: list[list[Labelled]], name: str, metric: str, found: Found, certain: bool) -> Interval | None:
    if math.isnan(found[metric][0]):
        return None
    if metric == "hit_rate":
        return clustered_interval([[hit(t.scores[name], t.critical) for t in group] for group in members])
    return _percentiles(found[metric][1]) if certain else (0.0, 1.0)


def _differences(a: Found, b: Found, certain: bool) -> dict[str, Any]:
    """Each metric of a minus that of b, on the same resamples of problems."""
    parts: dict[str, Any] = {}
    for metric in METRICS:
        difference = a[metric][0] - b[metric][0]
        parts[metric] = _rounded(difference)
        if math.isnan(difference):
            interval = None
        else:
            interval = _percentiles(a[metric][1] - b[metric][1]) if certain else (-1.0, 1.0)
        parts[f"{metric}_ci95"] = _ends(interval)
    return parts


def _percentiles(values: np.ndarray) -> Interval:
    low, high = np.nanquantile(values, [0.025, 0.975])  # a resample of undefined values has none
    return float(low), float(high)


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def _ends(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [round(end, 6) for end in interval]
