"""The protocol of Lin et al. 2024 (arXiv 2411.19943, section 2), to the letter: 64 rollouts from every prefix.

The critical token of a wrong trajectory is the first y_c with 0/64 correct rollouts after it and fewer than 5% (at most
3/64) after it and after every later token. What is saved here leaves the distribution of that label as it is:

- Prefixes are scanned from the last to the first, up to one that is recoverable (4 or more of 64): what comes before it
  cannot hold the label.
- Rollouts of a prefix are counted in their order, and the 4th success ends them.
- A rollout's part that follows the trajectory is not generated: where it leaves, and with which token, is drawn from
  the known policy (`rollouts`). One that never leaves has the trajectory's own outcome.
- The last prefix of a finished trajectory has the trajectory's own outcome too.

Each prefix has rollouts of its own. Sharing them between prefixes would save more, but neighbouring prefixes would then
fail together more often than the protocol's do. Every draw is a function of (seed, trajectory id, prefix, rollout
number) alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from forkpoint.curves.rollouts import (
    CurveLabel,
    Policy,
    Rollout,
    Start,
    divergence_positions,
    hashes,
    run_searches,
)
from forkpoint.engines import Engine
from forkpoint.proportions import wilson
from forkpoint.sampling.draw import uniforms
from forkpoint.trajectories.rows import finished
from forkpoint.types import Sampling, Trajectory

ROLLOUTS, RECOVERABLE = 64, 4  # section 2 of the paper: 4/64 is the least that is 5% or more
CHUNK = 16  # rollouts that a trajectory has in the engine at a time, about; a recoverable prefix seldom needs more


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperLabel(CurveLabel):
    """A label with the counts that it rests on: `successes` of `trials` [T+1]; 0 of 0 where none were needed.

    `success` is their ratio, with Wilson's interval. Where a 4th success ended the rollouts the ratio leans upwards
    (4/n; 3/(n-1) would be unbiased, Girshick et al. 1946) and the interval is approximate. success[T] of a finished
    trajectory is known, 0 or 1, without a trial. Prefix 0 is never evaluated: no token precedes it. The status is
    "none" of a correct trajectory, for which nothing is drawn, and of one that was cut short where no prefix had 0
    successes. Before the first evaluated prefix `plain_tokens` takes the mean length seen there.
    """

    successes: Int64[np.ndarray, " T+1"]
    trials: Int64[np.ndarray, " T+1"]


def paper_labels(
    engine: Engine,
    pairs: Iterable[tuple[Trajectory, Policy]],
    sampling: Sampling,
    *,
    rollouts: int = ROLLOUTS,
    recoverable: int = RECOVERABLE,
    chunk: int = CHUNK,
    together: int = 64,
) -> Iterator[PaperLabel]:
    """The label of each trajectory with its policy under `sampling`, in the order in which they are found.

    `together` trajectories are in memory, and worked on, at once; it changes nothing but speed. `chunk` changes what is
    spent, not what is counted. Raises UserError for a trajectory longer than sampling.max_tokens.
    """
    if not 1 <= recoverable <= rollouts or chunk < 1:
        raise ValueError(f"recoverable must be 1 to {rollouts}, and chunk at least 1, but are {recoverable}, {chunk}")
    searches = (
        _PaperSearch(trajectory, policy, sampling, rollouts, recoverable, chunk) for trajectory, policy in pairs
    )
    return run_searches(engine, searches, sampling, together=together)


def critical_position(
    successes: Sequence[int] | Int64[np.ndarray, " T+1"], recoverable: int = RECOVERABLE
) -> int | None:
    """The protocol's c from the correct rollouts after each prefix of 0 to T tokens; None where no prefix has 0.

    token_ids[c] is the first token with 0 successes after it and fewer than `recoverable` from there on.
    """
    counts = np.asarray(successes)
    after = max(1, int(np.flatnonzero(counts >= recoverable)[-1]) + 1) if (counts >= recoverable).any() else 1
    zeros = np.flatnonzero(counts[after:] == 0)
    return after + int(zeros[0]) - 1 if len(zeros) else None


class _PaperSearch:
    """A trajectory under way. Prefixes from `prefix` on are to be judged, those from `cursor` on to be drawn; 0: done.

    `verdicts` and `lengths` (of the whole responses) hold each prefix's rollouts so far, in their order. `running`
    are those in the engine, by key: their prefix, their number there, and where they leave the trajectory.
    """

    def __init__(
        self, trajectory: Trajectory, policy: Policy, sampling: Sampling, rollouts: int, recoverable: int, chunk: int
    ) -> None:
        self.trajectory, self.policy, self.seed = trajectory, policy, sampling.seed
        self.rollouts, self.recoverable, self.chunk = rollouts, recoverable, chunk
        self.n, self.finished = len(trajectory.token_ids), finished(trajectory, sampling)
        self.prefix = 0 if trajectory.correct else self.n - 1 if self.finished else self.n
        self.cursor = self.prefix
        self.successes, self.trials = np.zeros((2, self.n + 1), dtype=np.int64)
        self.verdicts: dict[int, list[bool]] = defaultdict(list)
        self.lengths: dict[int, list[int]] = defaultdict(list)
        self.running: dict[str, tuple[int, int, int]] = {}
        self.drawn = self.generated = 0

    @property
    def is_over(self) -> bool:
        return self.prefix == 0

    def draw(self) -> list[Start]:
        """Draw prefix after prefix until the engine must run at least `chunk` rollouts, or all is drawn.

        Where nearly all rollouts follow the trajectory to its end, that looks some prefixes ahead.
        """
        self.running = {}
        while self.cursor and len(self.running) < self.chunk:
            begin = len(self.verdicts[self.cursor])
            numbers = range(begin, min(begin + self.chunk, self.rollouts))
            self._draw_numbers(self.cursor, numbers)
            self.cursor -= numbers.stop == self.rollouts
        return [self._start(key, position) for key, (_, _, position) in self.running.items()]

    def _draw_numbers(self, prefix: int, numbers: range) -> None:
        """Draw these rollouts of a prefix; those that never leave a finished trajectory are wrong as it is."""
        keys = [f"{self.trajectory.id}/prefix {prefix}/{number}" for number in numbers]
        u = uniforms(hashes(self.seed, [f"{key}/divergence" for key in keys]), 0)
        self.drawn += len(keys)
        self.verdicts[prefix] += [False] * len(keys)
        self.lengths[prefix] += [self.n] * len(keys)
        positions = divergence_positions(self.policy.own, prefix, u).tolist()
        self.running |= {
            key: (prefix, number, position)
            for number, key, position in zip(numbers, keys, positions, strict=True)
            if position < self.n or not self.finished
        }

    def _start(self, key: str, position: int) -> Start:
        if position == self.n:  # after the end of a trajectory that was cut short
            return Start(key, self.trajectory, position)
        u = float(uniforms(hashes(self.seed, [f"{key}/divergence"]), 1)[0])
        return Start(key, self.trajectory, position, policy=self.policy, u=u)

    def add(self, rollouts: Mapping[str, Rollout]) -> None:
        """Take in the verdicts; settle each prefix, last to first, whose category is certain.

        A recoverable prefix ends the search.
        """
        for key, (prefix, number, position) in self.running.items():
            self.verdicts[prefix][number] = rollouts[key].correct
            self.lengths[prefix][number] = position + len(rollouts[key].token_ids)
            self.generated += rollouts[key].generated
        while self.prefix:
            right = np.flatnonzero(self.verdicts[self.prefix])
            recovers = len(right) >= self.recoverable
            if not recovers and len(self.verdicts[self.prefix]) < self.rollouts:
                return
            self.successes[self.prefix] = self.recoverable if recovers else len(right)
            self.trials[self.prefix] = right[self.recoverable - 1] + 1 if recovers else self.rollouts
            self.prefix = 0 if recovers else self.prefix - 1

    def label(self) -> PaperLabel:
        correct = self.trajectory.correct
        success = np.divide(self.successes, self.trials, out=np.full(self.n + 1, np.nan), where=self.trials > 0)
        interval = np.full((self.n + 1, 2), np.nan)
        for i in np.flatnonzero(self.trials):
            interval[i] = wilson(int(self.successes[i]), int(self.trials[i]))
        if self.finished:
            success[-1] = interval[-1] = float(correct)
        c = None if correct else critical_position(self.successes, self.recoverable)
        return PaperLabel(
            trajectory=self.trajectory, policy=self.policy, success=success, success_ci=interval,
            status="none" if c is None else "critical", critical_index=c, rollouts=self.drawn,
            tokens_generated=self.generated, plain_tokens=0.0 if correct else self._plain_tokens(),
            successes=self.successes, trials=self.trials,
        )  # fmt: skip

    def _plain_tokens(self) -> float:
        """Expected tokens of all rollouts from all prefixes that have a token before them."""
        remaining, length = 0.0, 0.0
        for prefix in range(self.n - self.finished, 0, -1):
            if self.trials[prefix]:
                length = float(np.mean(self.lengths[prefix]))
            remaining += length - prefix
        return self.rollouts * remaining
