"""The protocol of Lin et al. 2024 (arXiv 2411.19943, section 2), to the letter: 64 rollouts from every prefix.

The critical token of a wrong trajectory is the first y_c with 0/64 correct rollouts after it and fewer than 5% (at most
3/64) after it and after every later token. What is saved here leaves the distribution of that label as it is:

- Prefixes are scanned from the last to the first, up to one that is recoverable (4 or more of 64): what comes before it
  cannot hold the label.
- Rollouts of a prefix are counted in their order, and the 4th success ends them.
- A rollout's part that follows the trajectory is not generated: where it leaves, and with which token, is drawn from
  the known policy (`rollouts`). One that never leaves has the trajectory's own outcome.
- The last prefix of a finished trajectory has the trajectory's own outcome too.

Each prefix has rollouts of its own: were they shared, neighbouring prefixes would fail together more often than the
protocol's do. Every draw is a function of (seed, trajectory id, prefix, rollout number) alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Int64

from forkpoint.curves.rollouts import CurveLabel, Policy, Search, Start, divergence_positions, run_searches, uniforms_of
from forkpoint.engines import Engine
from forkpoint.proportions import wilson
from forkpoint.trajectories.rows import finished
from forkpoint.types import Sampling, Trajectory

ROLLOUTS, RECOVERABLE = 64, 4  # section 2 of the paper: 4/64 is the least that is 5% or more
CHUNK = 16  # rollouts that a trajectory has in the engine at a time, about; a recoverable prefix seldom needs more
TOGETHER = 64  # trajectories in memory, and worked on, at once; it changes nothing but speed


def paper_labels(
    engine: Engine, pairs: Iterable[tuple[Trajectory, Policy]], sampling: Sampling
) -> Iterator[CurveLabel]:
    """The label of each trajectory with its policy under `sampling`, in the order in which they are found.

    `success` is the share of correct rollouts, with Wilson's interval. Where a 4th success ended them it leans upwards
    (4/n; 3/(n-1) would be unbiased, Girshick et al. 1946). Prefix 0 is never evaluated: no token precedes it. "none" is
    the status of a correct trajectory, for which nothing is drawn, and of one that was cut short where no prefix had 0
    successes. Before the first evaluated prefix `plain_tokens` takes the mean length seen there. UserError for a
    trajectory longer than sampling.max_tokens.
    """
    return run_searches(engine, (_search(*pair, sampling) for pair in pairs), sampling, together=TOGETHER)


def critical_position(successes: Sequence[int] | Int64[np.ndarray, " T+1"]) -> int | None:
    """The protocol's c from the correct rollouts after each prefix of 0 to T tokens; None where no prefix has 0.

    token_ids[c] is the first token with 0 successes after it and fewer than 4 from there on.
    """
    counts = np.asarray(successes)
    after = max([1, *(np.flatnonzero(counts >= RECOVERABLE) + 1)])
    zeros = np.flatnonzero(counts[after:] == 0)
    return int(after + zeros[0] - 1) if len(zeros) else None


def _search(trajectory: Trajectory, policy: Policy, sampling: Sampling) -> Search[CurveLabel]:
    """Prefix after prefix, from the last to the first, until one is recoverable.

    Prefixes from `prefix` on are to be judged, those from `cursor` on to be drawn. `verdicts` and `lengths` (of the
    whole responses) hold each prefix's rollouts so far, in their order.
    """
    n, over = len(trajectory.token_ids), finished(trajectory, sampling)
    successes, trials = np.zeros((2, n + 1), dtype=np.int64)
    verdicts, lengths = defaultdict[int, list[bool]](list), defaultdict[int, list[int]](list)
    prefix = cursor = 0 if trajectory.correct else n - over
    generated = 0
    while prefix:
        running: list[tuple[int, int, Start]] = []
        while cursor and len(running) < CHUNK:  # some prefixes ahead, where nearly all rollouts follow to the end
            begin = len(verdicts[cursor])
            numbers = range(begin, min(begin + CHUNK, ROLLOUTS))
            leaving = _leaving(trajectory, policy, sampling.seed, cursor, numbers)
            running += [(cursor, *one) for one in leaving if one[1].position < n or not over]
            verdicts[cursor] += [False] * len(numbers)  # those that never leave are wrong as the trajectory is
            lengths[cursor] += [n] * len(numbers)
            cursor -= numbers.stop == ROLLOUTS
        rollouts = yield [start for _, _, start in running]
        for at, number, start in running:
            rollout = rollouts[start.key]
            verdicts[at][number], lengths[at][number] = rollout.correct, start.position + len(rollout.token_ids)
            generated += rollout.generated
        while prefix and (counts := _counts(verdicts[prefix])):
            successes[prefix], trials[prefix] = counts
            prefix = 0 if counts[0] == RECOVERABLE else prefix - 1
    success, interval = np.full(n + 1, np.nan), np.full((n + 1, 2), np.nan)
    for i in np.flatnonzero(trials):
        success[i], interval[i] = successes[i] / trials[i], wilson(int(successes[i]), int(trials[i]))
    if over:
        success[-1] = interval[-1] = float(trajectory.correct)
    c = None if trajectory.correct else critical_position(successes)
    plain = 0.0 if trajectory.correct else _plain_tokens(lengths, trials, n - over)
    return CurveLabel(
        trajectory=trajectory, policy=policy, success=success, success_ci=interval,
        status="none" if c is None else "critical", critical_index=c, rollouts=sum(map(len, verdicts.values())),
        tokens_generated=generated, plain_tokens=plain,
    )  # fmt: skip


def _leaving(
    trajectory: Trajectory, policy: Policy, seed: int, prefix: int, numbers: range
) -> Iterator[tuple[int, Start]]:
    """These rollouts of a prefix, each from where it leaves the trajectory; those that never do from its end."""
    keys = [f"{trajectory.id}/prefix {prefix}/{number}" for number in numbers]
    where, which = (uniforms_of(seed, [f"{key}/divergence" for key in keys], step) for step in (0, 1))
    positions = divergence_positions(policy.own, prefix, where).tolist()
    for number, key, position, u in zip(numbers, keys, positions, which.tolist(), strict=True):
        another = position < len(trajectory.token_ids)
        yield number, Start(key, trajectory, position, policy=policy if another else None, u=u)


def _counts(verdicts: Sequence[bool]) -> tuple[int, int] | None:
    """Successes and trials of a prefix, the 4th success ending them; None where that is not certain yet."""
    right = np.flatnonzero(verdicts)
    if len(right) >= RECOVERABLE:
        return RECOVERABLE, int(right[RECOVERABLE - 1]) + 1
    return (len(right), ROLLOUTS) if len(verdicts) == ROLLOUTS else None


def _plain_tokens(lengths: Mapping[int, Sequence[int]], trials: Int64[np.ndarray, " T+1"], last: int) -> float:
    """Expected tokens of all rollouts from all prefixes that have a token before them."""
    remaining, length = 0.0, 0.0
    for prefix in range(last, 0, -1):
        if trials[prefix]:
            length = float(np.mean(lengths[prefix]))
        remaining += length - prefix
    return ROLLOUTS * remaining
