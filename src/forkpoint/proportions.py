"""Shares of right answers: their intervals, and pass@k.

Plain numbers in, plain numbers out; every room may import this. Bad arguments are a ValueError of one sentence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np

Interval = tuple[float, float]


def wilson(successes: float, n: float, level: float = 0.95) -> Interval:
    """Score interval (Wilson 1927) for a share of `successes` in `n` independent trials, 0 and n included."""
    if n <= 0:
        raise ValueError(f"an interval needs at least one trial, but n is {n}")
    if not 0 <= successes <= n:
        raise ValueError(f"successes must be between 0 and n = {n}, but are {successes}")
    z2 = normal_quantile(level) ** 2
    share = successes / n
    center = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2) / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return (0.0 if successes == 0 else center - half, 1.0 if successes == n else center + half)


def exact_interval(successes: int, n: int, level: float = 0.95) -> Interval:
    """Interval (Clopper & Pearson 1934) for a share of `successes` in `n` independent trials.

    The true share is below it, and above it, with a probability of at most (1 - level) / 2 each, however small n is;
    Wilson's holds that on average only, and misses by far more at 1 of 1.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"an interval needs 0 to n successes in at least one trial, but got {successes} in {n}")

    def least_share(successes: int) -> float:
        """The share under which as many successes, or more, have just the chance (1 - level) / 2."""
        counts = np.arange(successes, n + 1)
        ways = np.array([math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in counts.tolist()])

        def excess(share: float) -> float:
            logs = ways + counts * math.log(share) + (n - counts) * math.log1p(-share)
            return float(np.exp(logs).sum()) - (1 - level) / 2

        return root(excess, 0.0, 1.0) if successes else 0.0

    return least_share(successes), 1.0 - least_share(n - successes)


def root(function: Callable[[float], float], below: float, above: float) -> float:
    """Where `function`, below 0 just after `below` and not just before `above`, changes its sign, by bisection."""
    for _ in range(60):  # from [-1, 1] down to the resolution of float64
        middle = (below + above) / 2
        if function(middle) < 0:
            below = middle
        else:
            above = middle
    return (below + above) / 2


def beta_prior(trials: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """The parameters of the Beta distribution from which shares come, most likely for (successes, n) of each of them.

    The fixed point of Minka 2000 ("Estimating a Dirichlet distribution", eq. 65). Three made-up shares, of 0, 1 and 2
    in 2, as a uniform distribution gives them, make it 1 and 1 where there are no data.
    """
    counts = np.array([*trials, (0, 2), (1, 2), (2, 2)])
    steps = np.arange(counts[:, 1].max())
    right, all_ = (np.array([(column > i).sum() for i in steps.tolist()]) for column in counts.T)
    wrong = np.array([(counts[:, 1] - counts[:, 0] > i).sum() for i in steps.tolist()])
    a = b = 1.0
    for _ in range(300):
        whole, before = (all_ / (a + b + steps)).sum(), a + b
        a, b = a * (right / (a + steps)).sum() / whole, b * (wrong / (b + steps)).sum() / whole
        if abs(a + b - before) < 1e-6 * before:
            break
    return float(a), float(b)


def difference_interval(first: float, first_ci: Interval, second: float, second_ci: Interval) -> Interval:
    """Interval for first - second, of two independent estimates with intervals of the same level.

    Square-and-add: the distances from an estimate to the ends of its interval stand for its standard error on either
    side. With Wilson's intervals that is method 10 of Newcombe 1998 (Statistics in Medicine 17:873); that it holds
    for any two intervals is shown by Zou & Donner 2008 (Statistics in Medicine 27:1693).
    """
    difference = first - second
    below = math.hypot(first - first_ci[0], second_ci[1] - second)
    above = math.hypot(first_ci[1] - first, second - second_ci[0])
    return difference - below, difference + above


def clustered_interval(
    scores: Sequence[Sequence[float]], level: float = 0.95, *, answers: float | None = None
) -> Interval:
    """Interval for an accuracy when problems were answered several times; scores[i], 0 to 1, are problem i's.

    Wilson's interval, with the effective number of answers in place of their number, since answers to one problem are
    not independent: p (1 - p) over the variance of the mean between problems (Korn & Graubard 1998, Survey Methodology
    24), at least the number of problems and at most that of answers. p is the mean of the problems' means. One answer
    each gives `wilson` exactly. Where scores are themselves means over answers, `answers` is the number of those.
    """
    if not scores or not all(len(row) for row in scores):
        raise ValueError("a clustered interval needs at least one problem and one score for each")
    means = np.array([np.mean(row) for row in scores], dtype=np.float64)
    if not ((means >= 0) & (means <= 1)).all():
        raise ValueError("scores must be between 0 and 1")
    problems, answers = len(scores), answers or sum(len(row) for row in scores)
    p = float(means.mean())
    variance = float(means.var(ddof=1)) / problems if problems > 1 else math.inf
    effective = p * (1 - p) / variance if variance > 0 else (answers if 0 < p < 1 else problems)
    effective = min(max(effective, problems), answers)
    return wilson(p * effective, effective, level)


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that at least one of k answers is right, of n sampled answers with c right, unbiased.

    Chen et al. 2021 (arXiv 2107.03374), eq. 1: 1 - C(n-c, k) / C(n, k), as a product, which does not overflow.
    """
    if not (1 <= k <= n and 0 <= c <= n):
        raise ValueError(f"pass@k needs 1 <= k <= n and 0 <= c <= n, but n = {n}, c = {c}, k = {k}")
    if c > n - k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))


def pass_at_k_interval(scores: Sequence[Sequence[float]], answers: int, k: int) -> Interval:
    """95% interval for a mean pass@k, of `scores[i]` of problem i, from so many `answers` in all: k make one try."""
    return clustered_interval(scores, answers=answers / k)


def normal_quantile(level: float) -> float:
    """The normal quantile that leaves 1 - level outside on both sides together."""
    if not 0 < level < 1:
        raise ValueError(f"a confidence level must be between 0 and 1, but is {level}")
    return NormalDist().inv_cdf((1 + level) / 2)
