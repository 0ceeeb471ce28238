"""The fork estimator on an engine: waves of rollouts until a trajectory's label is settled or its budget is spent.

The arithmetic stands in `forks`. Every draw is a function of (seed, trajectory id, wave, leaf, rollout) alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Literal

import numpy as np

from forkpoint.curves.forks import Curve, LeafTally, Leaves, allocate, along, label, success_curve
from forkpoint.curves.paper_protocol import ROLLOUTS
from forkpoint.curves.rollouts import Alternative, CurveLabel, Policy, Search, Start, run_searches, uniforms_of
from forkpoint.engines import Engine
from forkpoint.trajectories.rows import finished
from forkpoint.types import Sampling, Trajectory

Until = Literal["decided", "budget"]
BUDGET, WAVE = 1024, 64  # rollouts of a trajectory in all, and at a time
TOGETHER = 16  # trajectories in memory, and worked on, at once; it changes nothing but speed
UNNAMED = -1  # the token of a leaf that stands for all tokens that the policy does not name


def fork_labels(
    engine: Engine,
    pairs: Iterable[tuple[Trajectory, Policy]],
    sampling: Sampling,
    *,
    budget: int = BUDGET,
    wave: int = WAVE,
    until: Until = "decided",
) -> Iterator[CurveLabel]:
    """The label of each trajectory with its policy under `sampling`, in the order in which they are found.

    A trajectory gets waves of `wave` rollouts up to `budget`; with `until="decided"` no more once its label is settled,
    and `success` is without bias only if the whole budget was spent. Raises UserError for a trajectory longer than
    sampling.max_tokens.
    """
    searches = (_search(*pair, sampling, budget, wave, until) for pair in pairs)
    return run_searches(engine, searches, sampling, together=TOGETHER)


def fork_leaves(trajectory: Trajectory, policy: Policy, over: bool) -> Leaves:
    """The ways to leave a trajectory: the policy's other tokens, and `UNNAMED` where it has more than it names.

    From a trajectory that is not over, all responses leave at its end, by no token in particular.
    """
    n = len(trajectory.token_ids)
    probs = np.concatenate([policy.probs, policy.outside[:, None]], 1)
    ids = np.concatenate([policy.ids, np.full((n, 1), UNNAMED)], 1)
    position, column = np.nonzero(probs)
    token, prob, own = ids[position, column], probs[position, column], policy.own
    if not over:
        position, token = np.append(position, n), np.append(token, UNNAMED)
        prob, own = np.append(prob, 1.0), np.append(own, 0.0)
    return Leaves(position, token, prob, own, float(trajectory.correct))


def _search(
    trajectory: Trajectory, policy: Policy, sampling: Sampling, budget: int, wave: int, until: Until
) -> Search[CurveLabel]:
    """Wave after wave until the label is settled."""
    n, seed = len(trajectory.token_ids), sampling.seed
    leaves = fork_leaves(trajectory, policy, finished(trajectory, sampling))
    tally, generated = LeafTally.empty(leaves), 0
    for number in count():
        curve = Curve(*(column[: n + 1] for column in success_curve(leaves, tally)))
        status, index = label(curve, trajectory.correct)
        spent = int(tally.drawn.sum())
        decided = until == "decided" and status != "undecided" and spent  # a correct one gets a wave, too
        if not len(leaves.prob) or spent >= budget or decided:
            break
        name = f"{trajectory.id}/wave {number}"
        asked = n if status == "undecided" and index is None else index
        (u,) = uniforms_of(seed, [name])
        expected, drawn = allocate(leaves, tally, min(wave, budget - spent), n + 1, asked, u)
        leaf = np.repeat(np.arange(len(drawn)), drawn).tolist()
        keys = [f"{name}/{i}" for i in range(len(leaf))]
        rollouts = yield [_start(trajectory, policy, leaves, i, key, seed) for i, key in zip(leaf, keys, strict=True)]
        found = [rollouts[key] for key in keys]
        correct = np.bincount(leaf, [one.correct for one in found], len(drawn)).astype(np.int64)
        length = np.bincount(leaf, [len(one.token_ids) - 1 for one in found], len(drawn))
        tally = tally.add(expected, drawn, correct, length)
        generated += sum(one.generated for one in found)
    mean = tally.length / max(tally.rollouts, 1.0)
    remaining = along(leaves, leaves.prob * mean, 1.0, 0.0)
    return CurveLabel(
        trajectory=trajectory, policy=policy, success=curve.success, success_ci=np.stack([curve.lower, curve.upper], 1),
        status=status, critical_index=index, rollouts=spent, tokens_generated=generated,
        plain_tokens=ROLLOUTS * float(remaining[1 : len(leaves.own)].sum()), alternatives=_alternatives(leaves, tally),
    )  # fmt: skip


def _start(trajectory: Trajectory, policy: Policy, leaves: Leaves, leaf: int, key: str, seed: int) -> Start:
    """Where a rollout through a leaf begins."""
    position, token = int(leaves.position[leaf]), int(leaves.token[leaf])
    if token != UNNAMED:
        return Start(key, trajectory, position, (token,))
    if position == len(trajectory.token_ids):
        return Start(key, trajectory, position)
    other, outside = 1 - policy.own[position], policy.outside[position]
    (u,) = 1 - (1 - uniforms_of(seed, [f"{key}/token"])) * outside / other  # beyond the named tokens
    return Start(key, trajectory, position, policy=policy, u=float(u))


def _alternatives(leaves: Leaves, tally: LeafTally) -> tuple[Alternative, ...]:
    tried = np.flatnonzero((tally.drawn > 0) & (leaves.token != UNNAMED))
    order = tried[np.lexsort((-leaves.prob[tried], leaves.position[tried]))]
    columns = (leaves.position, leaves.token, leaves.prob, tally.correct, tally.drawn)
    return tuple(Alternative(*row) for row in zip(*(column[order].tolist() for column in columns), strict=True))
