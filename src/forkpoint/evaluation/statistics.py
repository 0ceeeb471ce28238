"""How sure a comparison of right and wrong answers is: paired tests, corrections, majority votes.

Plain numbers and numpy arrays in, plain numbers out. Bad arguments are a ValueError of one sentence.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

from forkpoint.proportions import Interval, normal_quantile, root

_BOOTSTRAP_BLOCK = 2**22  # resampled problems held in memory at a time
_MOST_VOTES = 1000  # C(1000, 500) still fits a float64


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Accuracy of b minus accuracy of a on the same problems, how sure it is, and by which test."""

    difference: float
    ci95: Interval
    p_value: float
    test: str


def maj_at_k(answers: Sequence[Hashable | None], correct: Sequence[bool], k: int) -> float:
    """Chance that the majority answer of k of n sampled answers is right: the mean over all subsets, exact.

    The most frequent answer of a subset wins, ties are shared evenly, None (no answer found) has no vote, and a subset
    without votes is wrong. `correct[i]` is the verdict on answers[i]; equal answers share one verdict. Counting: where
    the right answer gets j votes, every other answer gets at most j; those with just j share the win.
    """
    n = len(answers)
    if len(correct) != n or not 1 <= k <= n <= _MOST_VOTES:
        raise ValueError(f"maj@k needs one verdict per answer and 1 <= k <= n <= {_MOST_VOTES}, but n = {n}, k = {k}")
    counts = Counter(answer for answer in answers if answer is not None)
    right = {answer for answer, verdict in zip(answers, correct, strict=True) if verdict and answer is not None}
    if any(not verdict and answer in right for answer, verdict in zip(answers, correct, strict=True)):
        raise ValueError("equal answers to one problem must have equal verdicts")
    silent = n - counts.total()
    wins = 0.0
    for answer in right:
        others = [count for other, count in counts.items() if other != answer]
        for votes in range(1, min(counts[answer], k) + 1):
            wins += math.comb(counts[answer], votes) * _shared_wins(votes, others, silent, k - votes)
    return min(1.0, wins / math.comb(n, k))


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided p-value that two paired answers are right equally often, given the b and c problems they split on.

    McNemar 1947, exact: under the null the b + c splits fall either way with chance 1/2. No splits give 1.
    """
    if b < 0 or c < 0:
        raise ValueError(f"counts must not be negative, but are {b} and {c}")
    n = b + c
    tail = sum(math.comb(n, i) for i in range(min(b, c) + 1))
    return min(1.0, 2 * tail / (1 << n))


def paired_difference(
    a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, *, resamples: int = 10_000, seed: int = 0
) -> PairedDifference:
    """b against a on the same problems, in the same order: a[i] and b[i] are scores of problem i, 0 to 1.

    Where all scores are 0 or 1 (one answer a problem): exact McNemar test ("mcnemar-exact"), and the interval that
    inverts its score test (Tango 1998, Statistics in Medicine 17), which is defined for every table. The test is exact
    and the interval is not, so at the edge of significance they may disagree. Else (means over several answers): paired
    bootstrap over problems ("paired-bootstrap"), percentile interval, and as p-value the share of resamples, centred on
    no difference, at least as far out as the one seen. The same scores and seed give the same numbers.
    """
    before, after = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if before.shape != after.shape or before.ndim != 1 or len(before) == 0:
        raise ValueError(f"a paired comparison needs as many scores of b as of a, but got {len(b)} and {len(a)}")
    both = np.concatenate([before, after])
    if not ((both >= 0) & (both <= 1)).all():
        raise ValueError("scores must be between 0 and 1")
    if np.isin(both, (0.0, 1.0)).all():
        gained, lost = int((after > before).sum()), int((after < before).sum())
        interval = _tango(gained, lost, len(before))
        difference = (gained - lost) / len(before)
        return PairedDifference(difference, interval, mcnemar_exact(gained, lost), "mcnemar-exact")
    return _paired_bootstrap(after - before, resamples, seed)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979), in order: bounds the chance of any false positive."""
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError("p-values must be between 0 and 1")
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def minimum_detectable_difference(
    n: int, disagreement: float = 0.2, *, power: float = 0.8, level: float = 0.95
) -> float:
    """The smallest difference in accuracy that a paired comparison on n problems finds with this power.

    Assumes McNemar's test and that the two answers split (one right, one wrong) on a share `disagreement` of the
    problems; pass the share seen, where there is one. Connor 1987 (Biometrics 43), solved for d:
        sqrt(n) d = z_level sqrt(disagreement) + z_power sqrt(disagreement - d²)
    As no difference exceeds its disagreement, a d that would is found with disagreement = d. At most 1.
    """
    if n <= 0 or not 0 < disagreement <= 1 or not 0 < power < 1:
        raise ValueError(f"needs n > 0, disagreement in (0, 1], power in (0, 1), but got {n}, {disagreement}, {power}")
    z, z_power = normal_quantile(level), NormalDist().inv_cdf(power)

    def excess(d: float) -> float:  # positive once d is detectable
        share = max(disagreement, d)
        return math.sqrt(n) * d - z * math.sqrt(share) - z_power * math.sqrt(max(0.0, share - d * d))

    return 1.0 if excess(1.0) < 0 else root(excess, 0.0, 1.0)


def _tango(b: int, c: int, n: int) -> Interval:
    """95% interval for (b - c) / n: the differences d whose score statistic is within ±z.

    The statistic is (b - c - n d) / sqrt(n (2q + d (1 - d))), q the likeliest share of c given d: the root of a
    quadratic (Tango 1998, section 2). It falls as d grows.
    """
    z = normal_quantile(0.95)

    def statistic(d: float) -> float:
        linear = (2 * n - b + c) * d - b - c
        q = (math.sqrt(max(0.0, linear * linear + 8 * n * c * d * (1 - d))) - linear) / (4 * n)
        spread = n * (2 * q + d * (1 - d))
        distance = b - c - n * d
        return distance / math.sqrt(spread) if spread > 0 else math.copysign(math.inf, distance)

    difference = (b - c) / n
    low = -1.0 if difference == -1 else root(lambda d: z - statistic(d), -1.0, difference)
    high = 1.0 if difference == 1 else root(lambda d: -z - statistic(d), difference, 1.0)
    return low, high


def _paired_bootstrap(differences: Float[np.ndarray, " problems"], resamples: int, seed: int) -> PairedDifference:
    n, rng = len(differences), np.random.default_rng(seed)
    seen = float(differences.mean())
    if n < 2:  # one problem says nothing of others
        return PairedDifference(seen, (-1.0, 1.0), 1.0, "paired-bootstrap")
    step = max(1, _BOOTSTRAP_BLOCK // n)
    sizes = [min(step, resamples - start) for start in range(0, resamples, step)]
    means = np.concatenate([differences[rng.integers(n, size=(size, n))].mean(1) for size in sizes])
    low, high = np.quantile(means, [0.025, 0.975])
    as_far = int((np.abs(means - seen) >= abs(seen) * (1 - 1e-12)).sum())  # equal up to rounding is as far
    return PairedDifference(seen, (float(low), float(high)), (1 + as_far) / (1 + resamples), "paired-bootstrap")


def _shared_wins(votes: int, others: Sequence[int], silent: int, rest: int) -> float:
    """Ways to draw `rest` more so that none of the counts `others` gets over `votes`, ties worth their share.

    ways[t, m] counts the draws so far with t answers tied at `votes` and m answers drawn.
    """
    ways = np.zeros((rest // votes + 1, rest + 1))
    ways[0, 0] = 1.0
    for count in others:
        drawn = ways.copy()
        for i in range(1, min(count, votes - 1, rest) + 1):
            drawn[:, i:] += math.comb(count, i) * ways[:, :-i]
        if votes <= min(count, rest):
            drawn[1:, votes:] += math.comb(count, votes) * ways[:-1, :-votes]
        ways = drawn
    filled = [math.comb(silent, rest - m) for m in range(rest + 1)]
    return float((ways @ np.array(filled, dtype=np.float64) / np.arange(1, len(ways) + 1)).sum())
