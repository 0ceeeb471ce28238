"""The fork estimator on an engine: waves of rollouts until a trajectory's label is settled or its budget is spent.

The arithmetic stands in `forks`. Every draw is a function of (seed, trajectory id, wave, leaf, rollout) alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import numpy as np

from forkpoint.curves.forks import Curve, LeafTally, Leaves, allocate, along, label, success_curve
from forkpoint.curves.paper_protocol import ROLLOUTS
from forkpoint.curves.rollouts import Alternative, CurveLabel, Policy, Rollout, Start, hashes, run_searches
from forkpoint.engines import Engine
from forkpoint.sampling.draw import uniforms
from forkpoint.trajectories.rows import finished
from forkpoint.types import Sampling, Trajectory

Until = Literal["decided", "budget"]
BUDGET, WAVE = 1024, 64  # rollouts of a trajectory in all, and at a time
UNNAMED = -1  # the token of a leaf that stands for all tokens that the policy does not name


def fork_labels(
    engine: Engine,
    pairs: Iterable[tuple[Trajectory, Policy]],
    sampling: Sampling,
    *,
    budget: int = BUDGET,
    wave: int = WAVE,
    until: Until = "decided",
    together: int = 16,
) -> Iterator[CurveLabel]:
    """The label of each trajectory with its policy under `sampling`, in the order in which they are found.

    A trajectory gets waves of `wave` rollouts up to `budget`; with `until="decided"` no more once its label is settled,
    and `success` is without bias only if the whole budget was spent. `together` trajectories are in memory, and worked
    on, at once; it changes nothing but speed. Raises UserError for a trajectory longer than sampling.max_tokens.
    """
    if wave < 1 or budget < 1:
        raise ValueError(f"wave and budget must be at least 1, but are {wave} and {budget}")
    searches = (_ForkSearch(*pair, sampling, budget, wave, until) for pair in pairs)
    return run_searches(engine, searches, sampling, together=together)


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


class _ForkSearch:
    """A trajectory under way. `expected` and `leaf_of` are of its last wave: numbers by leaf, the leaf of each key."""

    def __init__(
        self, trajectory: Trajectory, policy: Policy, sampling: Sampling, budget: int, wave: int, until: Until
    ) -> None:
        self.trajectory, self.policy, self.seed = trajectory, policy, sampling.seed
        self.budget, self.wave, self.until = budget, wave, until
        self.leaves = fork_leaves(trajectory, policy, finished(trajectory, sampling))
        self.tally = LeafTally.empty(self.leaves)
        self.waves = self.generated = 0
        self.judge()

    def judge(self) -> None:
        """Read the curve and the label off the waves so far."""
        n = len(self.trajectory.token_ids)
        whole = success_curve(self.leaves, self.tally)
        self.curve = Curve(whole.success[: n + 1], whole.lower[: n + 1], whole.upper[: n + 1])
        self.status, self.index = label(self.curve, self.trajectory.correct)

    @property
    def is_over(self) -> bool:
        settled = self.until == "decided" and self.status != "undecided"
        return settled or not len(self.leaves.prob) or self.rollouts >= self.budget

    @property
    def rollouts(self) -> int:
        """Rollouts so far."""
        return int(self.tally.drawn.sum())

    def draw(self) -> list[Start]:
        name = f"{self.trajectory.id}/wave {self.waves}"
        n = len(self.trajectory.token_ids)
        asked = n if self.status == "undecided" and self.index is None else self.index
        size = min(self.wave, self.budget - self.rollouts)
        self.expected, numbers = allocate(self.leaves, self.tally, size, n + 1, asked, self.uniform(name))
        leaves = np.repeat(np.arange(len(numbers)), numbers).tolist()
        self.leaf_of = {f"{name}/{i}": leaf for i, leaf in enumerate(leaves)}
        return [self._start(leaf, key) for key, leaf in self.leaf_of.items()]

    def uniform(self, name: str) -> float:
        return float(uniforms(hashes(self.seed, [name]), 0)[0])

    def _start(self, leaf: int, key: str) -> Start:
        position, token = int(self.leaves.position[leaf]), int(self.leaves.token[leaf])
        if token != UNNAMED:
            return Start(key, self.trajectory, position, (token,))
        if position == len(self.trajectory.token_ids):
            return Start(key, self.trajectory, position)
        other, outside = 1 - self.policy.own[position], self.policy.outside[position]
        u = 1 - (1 - self.uniform(f"{key}/token")) * outside / other  # beyond the named tokens
        return Start(key, self.trajectory, position, policy=self.policy, u=float(u))

    def add(self, rollouts: Mapping[str, Rollout]) -> None:
        drawn, correct = np.zeros((2, len(self.expected)), dtype=np.int64)
        length = np.zeros(len(self.expected))
        for key, leaf in self.leaf_of.items():
            drawn[leaf] += 1
            correct[leaf] += rollouts[key].correct
            length[leaf] += len(rollouts[key].token_ids) - 1
            self.generated += rollouts[key].generated
        self.tally = self.tally.add(self.expected, drawn, correct, length)
        self.waves += 1
        self.judge()

    def label(self) -> CurveLabel:
        mean = self.tally.length / max(self.tally.rollouts, 1.0)
        remaining = along(self.leaves, self.leaves.prob * mean, 1.0, 0.0)
        return CurveLabel(
            trajectory=self.trajectory, policy=self.policy, success=self.curve.success,
            success_ci=np.stack([self.curve.lower, self.curve.upper], 1), status=self.status,
            critical_index=self.index, rollouts=self.rollouts, tokens_generated=self.generated,
            plain_tokens=ROLLOUTS * float(remaining[1 : len(self.leaves.own)].sum()), alternatives=self._alternatives(),
        )  # fmt: skip

    def _alternatives(self) -> tuple[Alternative, ...]:
        leaves, tally = self.leaves, self.tally
        tried = [i for i in np.flatnonzero(tally.drawn) if leaves.token[i] != UNNAMED]
        return tuple(
            Alternative(
                int(leaves.position[i]), int(leaves.token[i]), float(leaves.prob[i]), int(tally.correct[i]),
                int(tally.drawn[i]),
            )
            for i in sorted(tried, key=lambda i: (leaves.position[i], -leaves.prob[i]))
        )  # fmt: skip
