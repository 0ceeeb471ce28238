"""The fork estimator: from rollouts that leave a trajectory to the success probability after each of its tokens.

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

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from forkpoint.proportions import normal_quantile

Z = normal_quantile(0.95)
PRIOR = 2.0  # rollouts that a guess from the surroundings counts for
UNSURE = 0.05  # a success probability that a few failures do not rule out


@dataclass(frozen=True, slots=True)
class Leaves:
    """Every way to leave a trajectory of T tokens under a policy.

    `position`, `token`, `prob` [A]: taking another `token` at `position`, with its policy probability; in the order of
    positions. `own` [T]: the probability of the trajectory's own token; with a position's leaves it makes 1.
    `final`: 1.0 if the trajectory itself is correct, else 0.0.
    """

    position: Int64[np.ndarray, " A"]
    token: Int64[np.ndarray, " A"]
    prob: Float64[np.ndarray, " A"]
    own: Float64[np.ndarray, " T"]
    final: float


@dataclass(frozen=True, slots=True)
class Wave:
    """Rollouts that were allocated together. [A]: the expected number through each leaf, the drawn, the correct."""

    expected: Float64[np.ndarray, " A"]
    drawn: Int64[np.ndarray, " A"]
    correct: Int64[np.ndarray, " A"]

    @property
    def size(self) -> float:
        """Rollouts, in expectation: what the wave weighs."""
        return float(self.expected.sum())


@dataclass(frozen=True, slots=True)
class Curve:
    """P(correct | the first i tokens) for i = 0..T, with a 95% interval; [T+1] each."""

    success: Float64[np.ndarray, " T1"]
    lower: Float64[np.ndarray, " T1"]
    upper: Float64[np.ndarray, " T1"]


def reach(own: Float64[np.ndarray, " T"]) -> Float64[np.ndarray, "T1 T1"]:
    """R[i, d]: the probability that a response from prefix i follows the trajectory up to position d; 0 for d < i."""
    table = np.zeros((len(own) + 1, len(own) + 1))
    for i in range(len(own) + 1):
        table[i, i] = 1.0
        table[i, i + 1 :] = np.cumprod(own[i:])
    return table


def allocate(
    leaves: Leaves, waves: Sequence[Wave], size: int, prefixes: int, asked: int | None, u: float
) -> tuple[Float64[np.ndarray, " A"], Int64[np.ndarray, " A"]]:
    """How many of `size` more rollouts go through each leaf: the expected numbers, and the drawn ones.

    Neyman allocation: the expected number is proportional to how much a rollout's outcome varies there times the root
    mean square of the leaf's share in the curve over the first `prefixes` prefixes. Leaves from position `asked` on,
    where a label depends on success being near zero, count in full on top of that, and their success is taken to be at
    least `UNSURE`: or those that failed in one wave would hardly be tried in the next, and stay in doubt. Numbers are
    rounded by systematic sampling with one uniform number `u` in [0, 1).
    """
    share = (reach(leaves.own)[:prefixes, :-1] ** 2).mean(0)
    rate = _guess(leaves, waves)
    need = share[leaves.position] * rate * (1 - rate)
    if asked is not None:
        rate = np.maximum(rate, UNSURE)
        need += (leaves.position >= asked) * rate * (1 - rate)
    need = leaves.prob * np.sqrt(need)
    if not need.sum() > 0:
        return np.zeros(len(need)), np.zeros(len(need), dtype=np.int64)
    expected = size * need / need.sum()
    steps = np.floor(np.concatenate([[0.0], np.cumsum(expected)[:-1], [size]]) + u)
    return expected, np.diff(steps).astype(np.int64)


def _guess(leaves: Leaves, waves: Sequence[Wave]) -> Float64[np.ndarray, " A"]:
    """A leaf's success, strictly between 0 and 1: its rollouts', drawn to its position's, drawn to one half."""
    drawn, correct = totals(leaves, waves)
    n_tokens = len(leaves.own)
    there = np.bincount(leaves.position, correct, n_tokens) + PRIOR / 2
    there /= np.bincount(leaves.position, drawn, n_tokens) + PRIOR
    rate: Float64[np.ndarray, " A"] = (correct + PRIOR * there[leaves.position]) / (drawn + PRIOR)
    return rate


def totals(leaves: Leaves, waves: Sequence[Wave]) -> tuple[Int64[np.ndarray, " A"], Int64[np.ndarray, " A"]]:
    """Rollouts through each leaf over all waves, and how many of them were correct."""
    none = np.zeros(len(leaves.prob), dtype=np.int64)
    return sum((w.drawn for w in waves), none), sum((w.correct for w in waves), none)


def along(
    leaves: Leaves, at_leaf: Float64[np.ndarray, " A"], per_token: float, end: float
) -> Float64[np.ndarray, " T1"]:
    """The recursion v_{t-1} = per_token + π_t v_t + Σ at_leaf, with v_T = end; [T+1]."""
    left = np.bincount(leaves.position, at_leaf, len(leaves.own))
    values = np.empty(len(leaves.own) + 1)
    values[-1] = end
    for t in range(len(leaves.own) - 1, -1, -1):
        values[t] = per_token + leaves.own[t] * values[t + 1] + left[t]
    return values


def averaged(
    leaves: Leaves, waves: Sequence[Wave], sums: Sequence[Float64[np.ndarray, " A"]]
) -> Float64[np.ndarray, " A"]:
    """An unbiased estimate of P(v) · E[x | leaf], given each wave's sum of x over its rollouts through each leaf.

    A leaf that was sure to be drawn counts by the mean of its rollouts; one that was drawn with a chance below 1 by
    that chance (Horvitz & Thompson 1952).
    """
    whole = sum(w.size for w in waves)
    found = np.zeros(len(leaves.prob))
    for wave, total in zip(waves, sums, strict=True):
        number = _counted(wave)
        mean = np.divide(total, number, out=np.zeros_like(found), where=number > 0)
        found += (wave.size / whole) * leaves.prob * mean
    return found


def _counted(wave: Wave) -> Float64[np.ndarray, " A"]:
    return np.where(wave.expected >= 1, wave.drawn, wave.expected)


def success_curve(leaves: Leaves, waves: Sequence[Wave]) -> Curve:
    """The curve after some waves, with Wilson's score interval for a stratified proportion.

    The interval at a prefix holds each value p whose distance from the estimate is at most z standard deviations, the
    deviation computed as if p were true: all leaves' success moved alike, towards 1 above the estimate and towards 0
    below. With a single leaf it is Wilson's interval, and with no success at all its width does not vanish.
    """
    reached = reach(leaves.own)
    fixed = reached[:, -1] * leaves.final
    mass = along(leaves, leaves.prob, 0.0, 0.0)
    if not waves:
        return Curve(fixed, fixed, fixed + mass)
    found = along(leaves, averaged(leaves, waves, [w.correct for w in waves]), 0.0, 0.0)
    share = np.clip(np.divide(found, mass, out=np.zeros_like(mass), where=mass > 0), 0, 1)
    above, below = _score_interval(leaves, waves, reached, share, mass)
    success = fixed + share * mass
    return Curve(success, np.maximum(success - below, fixed), success + above)


def _score_interval(
    leaves: Leaves,
    waves: Sequence[Wave],
    reached: Float64[np.ndarray, "T1 T1"],
    share: Float64[np.ndarray, " T1"],
    mass: Float64[np.ndarray, " T1"],
) -> tuple[Float64[np.ndarray, " T1"], Float64[np.ndarray, " T1"]]:
    """How far the interval goes above and below the estimate at each prefix."""
    whole = sum(w.size for w in waves)
    noise = np.zeros(len(leaves.prob))  # variance of a leaf's part in the estimate, over that of one outcome
    for wave in waves:
        number = _counted(wave)
        part = (wave.size / whole * leaves.prob) ** 2
        noise += np.divide(part, number, out=np.zeros_like(noise), where=number > 0)
    drawn, correct = totals(leaves, waves)
    seen = np.flatnonzero(drawn)
    unseen = np.bincount(leaves.position, np.where(drawn > 0, 0.0, noise), len(leaves.own))
    followed = reached[:, :-1] ** 2
    here = followed[:, leaves.position[seen]] * noise[seen]  # [T+1, E]
    others = followed @ unseen  # [T+1]
    rate = (correct[seen] + PRIOR * share[:, None]) / (drawn[seen] + PRIOR)
    steady = (here * rate * (1 - rate)).sum(1) + others * share * (1 - share)
    up = (here * (1 - rate) ** 2).sum(1) + others * (1 - share) ** 2
    down = (here * rate**2).sum(1) + others * share**2
    return _reach_of(mass * (1 - share), steady, up), _reach_of(mass * share, steady, down)


def _reach_of(
    room: Float64[np.ndarray, " T1"], steady: Float64[np.ndarray, " T1"], growing: Float64[np.ndarray, " T1"]
) -> Float64[np.ndarray, " T1"]:
    """The step s·room, s in [0, 1], at which (s·room)² = z² (1-s) (steady + growing·s)."""
    a, b, c = room**2 + Z**2 * growing, Z**2 * (steady - growing), -(Z**2) * steady
    root = (-b + np.sqrt(np.maximum(b * b - 4 * a * c, 0))) / np.maximum(2 * a, 1e-300)
    return np.where(room > 0, np.clip(root, 0, 1) * room, 0.0)
