"""The fork estimator on an engine: waves of rollouts until a trajectory's label is settled or its budget is spent.

The arithmetic is `forks`', the verdict `labels`'. Every draw is a function of (seed, trajectory id, wave, leaf,
rollout) alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import numpy as np
from jaxtyping import Float64

from forkpoint.curves.divergence import Fork, other_tokens
from forkpoint.curves.forks import Curve, LeafTally, Leaves, allocate, along, success_curve
from forkpoint.curves.labels import Status, label
from forkpoint.curves.paper_protocol import ROLLOUTS
from forkpoint.curves.rollout_policy import Policy
from forkpoint.curves.rollouts import Rollout, Start, roll_out
from forkpoint.engines import Engine
from forkpoint.sampling.draw import key_hash, uniforms
from forkpoint.trajectories.rows import finished
from forkpoint.types import Sampling, Trajectory

Until = Literal["decided", "budget"]
BUDGET, WAVE = 1024, 64  # rollouts of a trajectory in all, and at a time
UNNAMED = -1  # the token of a leaf that stands for all tokens that the policy does not name


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another token at a position: its policy probability, and how many of n rollouts that took it were correct."""

    position: int
    token_id: int
    prob: float
    correct: int
    n: int


@dataclass(frozen=True, slots=True)
class ForkLabel:
    """What the rollouts say of a trajectory of T tokens. Index i is the prefix of i tokens.

    `success` [T+1] estimates P(correct | prefix), without bias if the whole budget was spent, and `success_ci`
    [T+1, 2] is its 95% interval. `status` is "critical" with `critical_index` c, where token_ids[c] is the critical
    token, "none", or "undecided" with the candidate's index. `alternatives` are those that rollouts took, by position
    and falling probability. `rollouts` were run; `tokens_generated` is what the engine wrote for them, and
    `plain_tokens` estimates what 64 rollouts from every prefix that has a token before it, each generated to its end,
    would have taken.
    """

    trajectory: Trajectory
    policy: Policy
    success: Float64[np.ndarray, " T+1"]
    success_ci: Float64[np.ndarray, "T+1 2"]
    status: Status
    critical_index: int | None
    alternatives: tuple[Alternative, ...]
    rollouts: int
    tokens_generated: int
    plain_tokens: float


def fork_labels(
    engine: Engine,
    pairs: Iterable[tuple[Trajectory, Policy]],
    sampling: Sampling,
    *,
    budget: int = BUDGET,
    wave: int = WAVE,
    until: Until = "decided",
    together: int = 16,
) -> Iterator[ForkLabel]:
    """The label of each trajectory with its policy under `sampling`, in the order in which they are found.

    A trajectory gets waves of `wave` rollouts up to `budget`; with `until="decided"` no more once its label is settled.
    `together` trajectories are in memory, and worked on, at once; it changes nothing but speed. Raises UserError for a
    trajectory longer than sampling.max_tokens.
    """
    if wave < 1 or budget < 1 or together < 1:
        raise ValueError(f"needs at least 1 rollout and trajectory at a time, got {wave}, {budget} and {together}")
    source, live = iter(pairs), list[_ForkSearch]()
    while True:
        live += [_ForkSearch(*pair, sampling) for pair in islice(source, together - len(live))]
        if not live:
            return
        _advance(engine, live, sampling, wave, budget)
        done = [work.over(budget, until) for work in live]
        yield from (work.result() for work, over in zip(live, done, strict=True) if over)
        live = [work for work, over in zip(live, done, strict=True) if not over]


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


def _uniform(seed: int, name: str) -> float:
    return float(uniforms(np.array([key_hash(seed, name)], dtype=np.uint64), 0)[0])


class _ForkSearch:
    """A trajectory under way."""

    def __init__(self, trajectory: Trajectory, policy: Policy, sampling: Sampling) -> None:
        self.trajectory, self.policy = trajectory, policy
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

    def over(self, budget: int, until: Until) -> bool:
        """Whether it gets no further wave."""
        settled = until == "decided" and self.status != "undecided"
        return settled or not len(self.leaves.prob) or self.rollouts >= budget

    @property
    def rollouts(self) -> int:
        """Rollouts so far."""
        return int(self.tally.drawn.sum())

    def next_wave(self, size: int, seed: int) -> tuple[Float64[np.ndarray, " A"], list[_ForkRollout]]:
        """The expected number of rollouts through each leaf, and those that are drawn."""
        name = f"{self.trajectory.id}/wave {self.waves}"
        n = len(self.trajectory.token_ids)
        asked = n if self.status == "undecided" and self.index is None else self.index
        expected, numbers = allocate(self.leaves, self.tally, size, n + 1, asked, _uniform(seed, name))
        leaves = np.repeat(np.arange(len(numbers)), numbers).tolist()
        return expected, [self._drawn(leaf, f"{name}/{i}", seed) for i, leaf in enumerate(leaves)]

    def _drawn(self, leaf: int, key: str, seed: int) -> _ForkRollout:
        position, token = int(self.leaves.position[leaf]), int(self.leaves.token[leaf])
        if token != UNNAMED:
            return _ForkRollout(leaf, Start(key, self.trajectory, position, (token,)), None)
        start = Start(key, self.trajectory, position)
        if position == len(self.trajectory.token_ids):
            return _ForkRollout(leaf, start, None)
        other, outside = 1 - self.policy.own[position], self.policy.outside[position]
        u = 1 - (1 - _uniform(seed, f"{key}/token")) * outside / other  # beyond the named tokens
        return _ForkRollout(leaf, start, Fork(self.trajectory, self.policy, position, float(u)))

    def add(self, expected: Float64[np.ndarray, " A"], done: Iterable[tuple[int, Rollout]]) -> None:
        """Take in a wave's rollouts, each with its leaf."""
        drawn, correct = np.zeros((2, len(expected)), dtype=np.int64)
        length = np.zeros(len(expected))
        for leaf, rollout in done:
            drawn[leaf] += 1
            correct[leaf] += rollout.correct
            length[leaf] += len(rollout.token_ids) - 1
            self.generated += rollout.generated
        self.tally = self.tally.add(expected, drawn, correct, length)
        self.waves += 1
        self.judge()

    def result(self) -> ForkLabel:
        curve = self.curve
        return ForkLabel(
            self.trajectory, self.policy, curve.success, np.stack([curve.lower, curve.upper], 1), self.status,
            self.index, self._alternatives(), self.rollouts, self.generated, self._plain_tokens(),
        )  # fmt: skip

    def _alternatives(self) -> tuple[Alternative, ...]:
        leaves, drawn, correct = self.leaves, self.tally.drawn, self.tally.correct
        seen = [i for i in np.flatnonzero(drawn) if leaves.token[i] != UNNAMED]
        return tuple(
            Alternative(
                int(leaves.position[i]), int(leaves.token[i]), float(leaves.prob[i]), int(correct[i]), int(drawn[i])
            )
            for i in sorted(seen, key=lambda i: (leaves.position[i], -leaves.prob[i]))
        )

    def _plain_tokens(self) -> float:
        mean = self.tally.length / max(self.tally.rollouts, 1.0)
        remaining = along(self.leaves, self.leaves.prob * mean, 1.0, 0.0)
        return ROLLOUTS * float(remaining[1 : len(self.leaves.own)].sum())


@dataclass(frozen=True, slots=True)
class _ForkRollout:
    """A rollout to run: through which leaf, and with which token; `fork` draws it where the leaf has no name."""

    leaf: int
    start: Start
    fork: Fork | None


def _advance(engine: Engine, live: Sequence[_ForkSearch], sampling: Sampling, wave: int, budget: int) -> None:
    """One call of the engine for the next wave of all trajectories."""
    waves = [work.next_wave(min(wave, budget - work.rollouts), sampling.seed) for work in live]
    starts = _named(engine, [d for _, drawn in waves for d in drawn], sampling)
    done = {rollout.key: rollout for rollout in roll_out(engine, starts, sampling)}
    for work, (expected, drawn) in zip(live, waves, strict=True):
        work.add(expected, [(d.leaf, done[d.start.key]) for d in drawn])


def _named(engine: Engine, drawn: Sequence[_ForkRollout], sampling: Sampling) -> list[Start]:
    """The starts, each with its token."""
    tokens = iter(other_tokens(engine, [d.fork for d in drawn if d.fork], sampling))
    starts = []
    for d in drawn:
        if d.fork:
            token = next(tokens)
            assert token is not None, "the policy has tokens beyond those it names"
            starts.append(replace(d.start, forced=(token,)))
        else:
            starts.append(d.start)
    return starts
