"""The protocol of Lin et al. 2024 (arXiv 2411.19943, section 2), to the letter: 64 rollouts from every prefix.

The critical token of a wrong trajectory is the first y_c with 0/64 correct rollouts after it and fewer than 5% (at most
3/64) after it and after every later token. What is saved here leaves the distribution of that label as it is:

- Prefixes are scanned from the last to the first, up to one that is recoverable (4 or more of 64): what comes before it
  cannot hold the label.
- Rollouts of a prefix are counted in their order, and the 4th success ends them.
- A rollout's part that follows the trajectory is not generated: where it leaves, and with which token, is drawn from
  the known policy (`divergence`). One that never leaves has the trajectory's own outcome.
- The last prefix of a finished trajectory has the trajectory's own outcome too.

Each prefix has rollouts of its own. Sharing them between prefixes would save more, but neighbouring prefixes would then
fail together more often than the protocol's do. Every draw is a function of (seed, trajectory id, prefix, rollout
number) alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

from forkpoint.curves.divergence import Fork, divergence_positions, other_tokens
from forkpoint.curves.rollout_policy import Policy
from forkpoint.curves.rollouts import Start, roll_out
from forkpoint.engines import Engine
from forkpoint.proportions import wilson
from forkpoint.sampling.draw import key_hash, uniforms
from forkpoint.trajectories.rows import finished
from forkpoint.types import Sampling, Trajectory

ROLLOUTS, RECOVERABLE = 64, 4  # section 2 of the paper: 4/64 is the least that is 5% or more
CHUNK = 16  # rollouts that a trajectory has in the engine at a time, about; a recoverable prefix seldom needs more


@dataclass(frozen=True, slots=True)
class PaperLabel:
    """The label of a trajectory of T tokens, and what it rests on. Index i is the prefix of i tokens.

    `successes` of `trials` [T+1] counted rollouts were correct; 0 of 0 where none were needed. `success` [T+1] is their
    ratio, and `success_ci` [T+1, 2] Wilson's 95% interval; NaN where not evaluated. Where a 4th success ended the
    rollouts the ratio leans upwards (4/n; 3/(n-1) would be unbiased, Girshick et al. 1946) and the interval is
    approximate. success[T] of a finished trajectory is known, 0 or 1, without a trial. Prefix 0 is never evaluated: no
    token precedes it.

    `status` is "critical" with `critical_index` c, where token_ids[c] is the critical token, else "none": either the
    trajectory is correct (nothing is drawn then: the protocol is about wrong ones), or it ends before its answer did
    and no prefix had 0 successes. `rollouts` counts all that were drawn, `tokens_generated` what the engine wrote for
    them, and `plain_tokens` estimates what it would have written for 64 rollouts from every prefix, from the mean
    length seen at each prefix (before the first one evaluated: that one's).
    """

    trajectory: Trajectory
    policy: Policy
    success: Float64[np.ndarray, " T+1"]
    success_ci: Float64[np.ndarray, "T+1 2"]
    successes: Int64[np.ndarray, " T+1"]
    trials: Int64[np.ndarray, " T+1"]
    status: Literal["critical", "none"]
    critical_index: int | None
    rollouts: int
    tokens_generated: int
    plain_tokens: float


def paper_labels(
    engine: Engine,
    along: Iterable[tuple[Trajectory, Policy]],
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
    if not 1 <= recoverable <= rollouts or chunk < 1 or together < 1:
        raise ValueError(f"needs 1 <= recoverable <= rollouts, but got {recoverable} and {rollouts}")
    source, live = iter(along), list[_Scan]()
    while True:
        live += [_scan(pair, sampling, rollouts, recoverable) for pair in islice(source, together - len(live))]
        if not live:
            return
        _wave(engine, [scan for scan in live if scan.prefix], sampling, chunk)
        yield from (_label(scan) for scan in live if not scan.prefix)
        live = [scan for scan in live if scan.prefix]


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


@dataclass(slots=True)
class _Scan:
    """A trajectory under way. Prefixes from `prefix` on are to be judged, those from `cursor` on to be drawn; 0: done.

    `verdicts` and `lengths` (of the whole responses) hold each prefix's rollouts so far, in their order.
    """

    trajectory: Trajectory
    policy: Policy
    finished: bool
    rollouts: int
    recoverable: int
    prefix: int
    cursor: int
    successes: np.ndarray
    trials: np.ndarray
    verdicts: dict[int, list[bool]] = field(default_factory=lambda: defaultdict(list))
    lengths: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    drawn: int = 0
    generated: int = 0

    def settle(self) -> None:
        """Note the category of each prefix, last to first, while it is certain; a recoverable one ends the scan."""
        while self.prefix:
            right = np.flatnonzero(self.verdicts[self.prefix])
            recovers = len(right) >= self.recoverable
            if not recovers and len(self.verdicts[self.prefix]) < self.rollouts:
                return
            self.successes[self.prefix] = self.recoverable if recovers else len(right)
            self.trials[self.prefix] = right[self.recoverable - 1] + 1 if recovers else self.rollouts
            self.prefix = 0 if recovers else self.prefix - 1


@dataclass(frozen=True, slots=True)
class _PrefixRollout:
    """A rollout that the engine must run: which of the prefix's, and where it leaves the trajectory."""

    scan: _Scan
    prefix: int
    number: int
    key: str
    fork: Fork

    @property
    def leaves(self) -> bool:
        """False for one that goes on after the end of a trajectory that was cut short."""
        return self.fork.position < len(self.fork.trajectory.token_ids)


def _scan(pair: tuple[Trajectory, Policy], sampling: Sampling, rollouts: int, recoverable: int) -> _Scan:
    trajectory, policy = pair
    n, over = len(trajectory.token_ids), finished(trajectory, sampling)
    last = 0 if trajectory.correct else n - 1 if over else n
    successes, trials = np.zeros((2, n + 1), dtype=np.int64)
    return _Scan(trajectory, policy, over, rollouts, recoverable, last, last, successes, trials)


def _wave(engine: Engine, scans: Sequence[_Scan], sampling: Sampling, chunk: int) -> None:
    """One call of the engine for the next rollouts of all scans."""
    drawn = [rollout for scan in scans for rollout in _draw(scan, sampling.seed, chunk)]
    leaving = [d for d in drawn if d.leaves]
    tokens = other_tokens(engine, [d.fork for d in leaving], sampling)
    # no other token: π is below 1 by rounding alone, and the rollout goes on with the trajectory's own
    forced = {
        d.key: (d.fork.trajectory.token_ids[d.fork.position] if token is None else token,)
        for d, token in zip(leaving, tokens, strict=True)
    }
    starts = [Start(d.key, d.fork.trajectory, d.fork.position, forced.get(d.key, ())) for d in drawn]
    done = {rollout.key: rollout for rollout in roll_out(engine, starts, sampling)}
    for d in drawn:
        rollout = done[d.key]
        d.scan.verdicts[d.prefix][d.number] = rollout.correct
        d.scan.lengths[d.prefix][d.number] = d.fork.position + len(rollout.token_ids)
        d.scan.generated += rollout.generated
    for scan in scans:
        scan.settle()


def _draw(scan: _Scan, seed: int, chunk: int) -> list[_PrefixRollout]:
    """Draw rollouts, prefix after prefix, until the engine must run at least `chunk` of them, or all is drawn.

    Where nearly all rollouts follow the trajectory to its end, that looks some prefixes ahead.
    """
    drawn: list[_PrefixRollout] = []
    while scan.cursor and len(drawn) < chunk:
        begin = len(scan.verdicts[scan.cursor])
        numbers = range(begin, min(begin + chunk, scan.rollouts))
        drawn += _draw_numbers(scan, scan.cursor, numbers, seed)
        scan.cursor -= numbers.stop == scan.rollouts
    return drawn


def _draw_numbers(scan: _Scan, prefix: int, numbers: range, seed: int) -> list[_PrefixRollout]:
    """Draw these rollouts of a prefix; those that never leave a finished trajectory are wrong as it is."""
    keys = [f"{scan.trajectory.id}/prefix {prefix}/{number}" for number in numbers]
    hashes = np.array([key_hash(seed, f"{key}/divergence") for key in keys], dtype=np.uint64)
    positions = divergence_positions(scan.policy.own, prefix, uniforms(hashes, 0))
    n = len(scan.trajectory.token_ids)
    scan.drawn += len(keys)
    scan.verdicts[prefix] += [False] * len(keys)
    scan.lengths[prefix] += [n] * len(keys)
    return [
        _PrefixRollout(scan, prefix, number, key, Fork(scan.trajectory, scan.policy, int(position), float(u)))
        for number, key, position, u in zip(numbers, keys, positions, uniforms(hashes, 1), strict=True)
        if position < n or not scan.finished
    ]


def _label(scan: _Scan) -> PaperLabel:
    n, correct = len(scan.trajectory.token_ids), scan.trajectory.correct
    success = np.divide(scan.successes, scan.trials, out=np.full(n + 1, np.nan), where=scan.trials > 0)
    interval = np.full((n + 1, 2), np.nan)
    for i in np.flatnonzero(scan.trials):
        interval[i] = wilson(int(scan.successes[i]), int(scan.trials[i]))
    if scan.finished:
        success[n] = interval[n] = float(correct)
    c = None if correct else critical_position(scan.successes, scan.recoverable)
    status: Literal["critical", "none"] = "none" if c is None else "critical"
    return PaperLabel(
        scan.trajectory, scan.policy, success, interval, scan.successes, scan.trials, status, c, scan.drawn,
        scan.generated, 0.0 if correct else _plain_tokens(scan),
    )  # fmt: skip


def _plain_tokens(scan: _Scan) -> float:
    """Expected tokens of all rollouts from all prefixes that have a token before them, each generated to its end."""
    remaining, length = 0.0, 0.0
    for prefix in range(len(scan.trajectory.token_ids) - scan.finished, 0, -1):
        if scan.trials[prefix]:
            length = float(np.mean(scan.lengths[prefix]))
        remaining += length - prefix
    return scan.rollouts * remaining
