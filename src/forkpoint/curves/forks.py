"""The fork estimator: from rollouts that leave a trajectory to the success after each token, and the critical token.

A response sampled from any prefix follows the trajectory until it takes another token, so with π_t the policy's
probability of the trajectory's own token y_t, and P(v) that of another token v there,

    p_{t-1} = π_t p_t + Σ_v P(v) q_{t,v},      p_T = 1 if the trajectory is correct else 0,

where q_{t,v} = P(correct | y_<t, v). That is exact, every rollout through (t, v) informs every prefix before t, and
only the q are unknown. Rollouts are drawn in waves. Each wave is by itself an unbiased estimate of the whole curve,
however its rollouts were allocated, and the curve is the mean of the waves, weighted by their sizes fixed beforehand:
so what earlier outcomes say may steer later waves without bias.

Pure arithmetic on arrays; knows nothing of models. Shapes: T tokens, A ways to leave ("leaves"), E of them drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from forkpoint.proportions import normal_quantile

Z = normal_quantile(0.95)
PRIOR = 2.0  # rollouts that a guess from the surroundings counts for
UNSURE = 0.05  # a success probability that a few failures do not rule out
NEAR_ZERO = 1 / 64  # arXiv 2411.19943, section 2: no success in 64 rollouts
HOPELESS = 0.05  # the same: success of every later prefix
Status = Literal["critical", "none", "undecided"]
Counts = Int64[np.ndarray, " A"]
ByLeaf = Float64[np.ndarray, " A"]
ByPrefix = Float64[np.ndarray, " T1"]  # T + 1 prefixes


@dataclass(frozen=True, slots=True)
class Leaves:
    """Every way to leave a trajectory of T tokens under a policy.

    `position`, `token`, `prob` [A]: taking another `token` at `position`, with its policy probability; in the order of
    positions. `own` [T]: the probability of the trajectory's own token; with a position's leaves it makes 1.
    `final`: 1.0 if the trajectory itself is correct, else 0.0.
    """

    position: Counts
    token: Counts
    prob: ByLeaf
    own: Float64[np.ndarray, " T"]
    final: float


@dataclass(frozen=True, slots=True)
class LeafTally:
    """What the waves so far say of each leaf, [A]; `rollouts` is their number, in expectation.

    `drawn` and `correct` count. A leaf that was sure to be drawn counts in its wave by the mean of its rollouts, one
    that was not by the inverse of its chance (Horvitz & Thompson 1952): so `success / rollouts` and `length / rollouts`
    are unbiased estimates, however the waves were allocated. Their variance over that of a single rollout is
    `noise / rollouts²`; `right` and `wrong` are the squared weights in it of the rollouts that were.
    """

    rollouts: float
    drawn: Counts
    correct: Counts
    success: ByLeaf
    length: ByLeaf
    noise: ByLeaf
    right: ByLeaf
    wrong: ByLeaf

    @staticmethod
    def empty(leaves: Leaves) -> LeafTally:
        """Before the first wave."""
        none, zero = np.zeros(len(leaves.prob), dtype=np.int64), np.zeros(len(leaves.prob))
        return LeafTally(0.0, none, none, zero, zero, zero, zero, zero)

    def add(self, expected: ByLeaf, drawn: Counts, correct: Counts, length: ByLeaf) -> LeafTally:
        """With one more wave: expected and drawn numbers, correct ones, and the sum of their lengths."""
        size = float(expected.sum())
        number = np.where(expected >= 1, drawn, expected)
        weight = np.divide(size, number, out=np.zeros_like(expected), where=number > 0)
        return LeafTally(
            self.rollouts + size,
            self.drawn + drawn,
            self.correct + correct,
            self.success + weight * correct,
            self.length + weight * length,
            self.noise + size * weight,
            self.right + weight**2 * correct,
            self.wrong + weight**2 * (drawn - correct),
        )


class Curve(NamedTuple):
    """P(correct | the first i tokens) for i = 0..T, with a 95% interval; [T+1] each."""

    success: ByPrefix
    lower: ByPrefix
    upper: ByPrefix


def reach(own: Float64[np.ndarray, " T"]) -> Float64[np.ndarray, "T1 T1"]:
    """R[i, d]: the probability that a response from prefix i follows the trajectory up to position d; 0 for d < i."""
    table = np.eye(len(own) + 1)
    for i in range(len(own)):
        table[i, i + 1 :] = np.cumprod(own[i:])
    return table


def allocate(
    leaves: Leaves, tally: LeafTally, size: int, prefixes: int, asked: int | None, u: float
) -> tuple[ByLeaf, Counts]:
    """How many of `size` more rollouts go through each leaf: the expected numbers, and the drawn ones.

    Neyman allocation: the expected number is proportional to how much a rollout's outcome varies there times the root
    mean square of the leaf's share in the curve over the first `prefixes` prefixes. Leaves from position `asked` on,
    where a label depends on success being near zero, count in full on top of that, with a success of at least `UNSURE`:
    or those that failed in one wave would stay in doubt. Numbers are rounded by systematic sampling with `u` in [0, 1).
    """
    share = (reach(leaves.own)[:prefixes, :-1] ** 2).mean(0)
    # a leaf's success, strictly between 0 and 1: its rollouts', drawn to its position's, drawn to one half
    there = np.bincount(leaves.position, tally.correct, len(leaves.own)) + PRIOR / 2
    there /= np.bincount(leaves.position, tally.drawn, len(leaves.own)) + PRIOR
    rate = (tally.correct + PRIOR * there[leaves.position]) / (tally.drawn + PRIOR)
    need = share[leaves.position] * rate * (1 - rate)
    if asked is not None:
        rate = np.maximum(rate, UNSURE)
        need += (leaves.position >= asked) * rate * (1 - rate)
    need = leaves.prob * np.sqrt(need)
    expected = size * need / need.sum()
    steps = np.floor(np.concatenate([[0.0], np.cumsum(expected)[:-1], [size]]) + u)
    return expected, np.diff(steps).astype(np.int64)


def along(leaves: Leaves, at_leaf: ByLeaf, per_token: float, end: float) -> ByPrefix:
    """The recursion v_{t-1} = per_token + π_t v_t + Σ at_leaf, with v_T = end; [T+1]."""
    left = np.bincount(leaves.position, at_leaf, len(leaves.own))
    values = np.empty(len(leaves.own) + 1)
    values[-1] = end
    for t in range(len(leaves.own) - 1, -1, -1):
        values[t] = per_token + leaves.own[t] * values[t + 1] + left[t]
    return values


def success_curve(leaves: Leaves, tally: LeafTally) -> Curve:
    """The curve after some waves, or none, with Wilson's score interval for a stratified proportion.

    The interval at a prefix holds each value p whose distance from the estimate is at most z standard deviations, the
    deviation computed as if p were true: all leaves' success moved alike, towards 1 above the estimate and towards 0
    below. With a single leaf it is Wilson's interval.
    """
    reached = reach(leaves.own)
    fixed = reached[:, -1] * leaves.final
    mass = along(leaves, leaves.prob, 0.0, 0.0)
    if not tally.rollouts:
        return Curve(fixed, fixed, fixed + mass)
    estimate = along(leaves, leaves.prob * tally.success / tally.rollouts, 0.0, 0.0)
    share = np.clip(np.divide(estimate, mass, out=np.zeros_like(mass), where=mass > 0), 0, 1)
    above, below = _score_interval(leaves, tally, reached, share, mass)
    success = fixed + share * mass
    return Curve(success, np.maximum(success - below, fixed), success + above)


def _score_interval(
    leaves: Leaves, tally: LeafTally, reached: Float64[np.ndarray, "T1 T1"], share: ByPrefix, mass: ByPrefix
) -> tuple[ByPrefix, ByPrefix]:
    """How far the interval goes above and below the estimate at each prefix.

    The variance around the estimate is what the leaves' rates imply or what the rollouts' own weights show, whichever
    is larger: a success that counts much makes the estimate high and wide alike.
    """
    noise = (leaves.prob / tally.rollouts) ** 2 * tally.noise
    seen = np.flatnonzero(tally.drawn)
    followed = reached[:, :-1] ** 2
    to_seen = followed[:, leaves.position[seen]]  # [T+1, E]
    here = to_seen * noise[seen]
    unseen = followed @ np.bincount(leaves.position, np.where(tally.drawn > 0, 0.0, noise), len(leaves.own))  # [T+1]
    rate = (tally.correct[seen] + PRIOR * share[:, None]) / (tally.drawn[seen] + PRIOR)
    steady = (here * rate * (1 - rate)).sum(1) + unseen * share * (1 - share)
    weighted = to_seen * (leaves.prob[seen] / tally.rollouts) ** 2
    weighted *= tally.right[seen] * (1 - rate) ** 2 + tally.wrong[seen] * rate**2
    steady = np.maximum(steady, weighted.sum(1))
    up = (here * (1 - rate) ** 2).sum(1) + unseen * (1 - share) ** 2
    down = (here * rate**2).sum(1) + unseen * share**2
    return _step(mass * (1 - share), steady, up), _step(mass * share, steady, down)


def _step(room: ByPrefix, steady: ByPrefix, growing: ByPrefix) -> ByPrefix:
    """The step s·room, s in [0, 1], at which (s·room)² = z² (1-s) (steady + growing·s)."""
    a, b, c = room**2 + Z**2 * growing, Z**2 * (steady - growing), -(Z**2) * steady
    root = (-b + np.sqrt(np.maximum(b * b - 4 * a * c, 0))) / np.maximum(2 * a, 1e-300)
    return np.where(room > 0, np.clip(root, 0, 1) * room, 0.0)


def label(curve: Curve, correct: bool) -> tuple[Status, int | None]:
    """The status and the critical token's index c; of an undecided trajectory, the candidate's.

    c is the first token after which success is at most 1/64 with an upper bound below 5%, as is every later one. It is
    critical if success before it is surely above 1/64, by its lower bound; else undecided. None: the trajectory is
    correct, or was cut short with success still left, or was lost before its first token.
    """
    if correct:
        return "none", None
    hopeful = np.flatnonzero(curve.upper >= HOPELESS)
    lost = int(hopeful[-1]) + 1 if len(hopeful) else 0
    near_zero = np.flatnonzero(curve.success[lost:] <= NEAR_ZERO)
    if not len(near_zero):
        return ("none" if curve.lower[-1] > NEAR_ZERO else "undecided"), None
    first = lost + int(near_zero[0])
    if first == 0:
        return "none", None
    return ("critical" if curve.lower[first - 1] > NEAR_ZERO else "undecided"), first - 1
