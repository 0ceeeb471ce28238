"""Statistics against scipy, brute force and simulation."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from forkpoint.curves.replacement import replacement_table
from forkpoint.decoding.strategies import parse_strategy
from forkpoint.evaluation.results import StrategyTally
from forkpoint.evaluation.statistics import (
    holm,
    maj_at_k,
    mcnemar_exact,
    minimum_detectable_difference,
    paired_difference,
)
from forkpoint.proportions import clustered_interval, pass_at_k, wilson
from forkpoint.training.heldout_eval import figures

trials = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(trials, st.sampled_from([0.8, 0.95, 0.99]))
@example((0, 1), 0.95)
@example((1, 1), 0.95)
def test_wilson_is_scipys(counts: tuple[int, int], level: float) -> None:
    successes, n = counts
    expected = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    low, high = wilson(successes, n, level)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= low <= successes / n <= high <= 1


@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_one_answer_a_problem_makes_the_clustered_interval_wilsons(right: list[bool]) -> None:
    assert clustered_interval([[float(r)] for r in right]) == pytest.approx(wilson(sum(right), len(right)))


def test_clustered_interval_lies_between_no_and_full_dependence() -> None:
    copies = [[1.0] * 8] * 30 + [[0.0] * 8] * 20
    assert clustered_interval(copies) == pytest.approx(wilson(30, 50))
    halves = [[1.0, 0.0] * 4] * 50
    assert clustered_interval(halves) == pytest.approx(wilson(200, 400))
    assert clustered_interval([[1.0] * 8] * 50) == pytest.approx(wilson(50, 50))
    assert clustered_interval([[0.25] * 4]) == pytest.approx(wilson(0.25, 1))


def test_clustered_interval_covers() -> None:
    """Problems differ (Beta 1, 2), four answers each: the plain interval is too narrow, ours covers 95%."""
    rng = np.random.default_rng(0)
    ours = plain = 0
    for _ in range(1000):
        scores = rng.binomial(1, rng.beta(0.5, 1.0, size=(60, 1)), size=(60, 4)).astype(float)
        low, high = clustered_interval(scores.tolist())
        ours += low <= 1 / 3 <= high
        low, high = wilson(scores.sum(), 240)
        plain += low <= 1 / 3 <= high
    assert 0.93 <= ours / 1000 <= 0.97
    assert plain / 1000 < 0.9


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_hypergeometric_chance(ncx: tuple[int, int, int]) -> None:
    n, c, k = ncx
    assert pass_at_k(n, c, k) == pytest.approx(1 - math.comb(n - c, k) / math.comb(n, k), abs=1e-12)
    assert pass_at_k(100_000, 1, 50_000) == pytest.approx(0.5)


def naive_maj(answers: list[str | None], right: set[str], k: int) -> float:
    """Every subset, one by one."""
    total = 0.0
    subsets = list(itertools.combinations(answers, k))
    for subset in subsets:
        counts = Counter(a for a in subset if a is not None)
        top = [a for a in counts if counts[a] == max(counts.values())]
        total += sum(a in right for a in top) / len(top) if top else 0.0
    return total / len(subsets)


@given(
    st.lists(st.sampled_from(["a", "b", "c", "d", None]), min_size=1, max_size=9),
    st.sets(st.sampled_from(["a", "b", "z"])),
    st.data(),
)
@settings(deadline=None)
def test_maj_at_k_is_the_mean_over_all_subsets(answers: list[str | None], right: set[str], data) -> None:
    k = data.draw(st.integers(1, len(answers)))
    verdicts = [answer in right for answer in answers]
    assert maj_at_k(answers, verdicts, k) == pytest.approx(naive_maj(answers, right, k), abs=1e-12)


def test_maj_at_k_of_one_is_the_share_right_and_of_many_is_fast_enough() -> None:
    answers = [f"wrong {i % 40}" for i in range(150)] + ["right"] * 50
    verdicts = [answer == "right" for answer in answers]
    assert maj_at_k(answers, verdicts, 1) == pytest.approx(0.25)
    assert maj_at_k(answers, verdicts, 64) > 0.99


@given(st.integers(0, 400), st.integers(0, 400))
@example(5000, 0)
@settings(deadline=None)
def test_mcnemar_is_the_exact_binomial_test(b: int, c: int) -> None:
    expected = stats.binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert mcnemar_exact(b, c) == pytest.approx(expected, rel=1e-9)


def likeliest_spread(b: int, c: int, n: int, d: float) -> float:
    """n times the variance of the difference under p12 - p21 = d, p21 found by maximising the likelihood."""
    low, high = max(0.0, -d), (1 - d) / 2

    def loss(q: float) -> float:
        parts = [(b, q + d), (c, q), (n - b - c, 1 - 2 * q - d)]
        return -sum(count * math.log(max(p, 1e-300)) for count, p in parts if count)

    q = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-13}).x
    return n * (2 * q + d - d * d)


@pytest.mark.parametrize(("b", "c", "n"), [(12, 2, 50), (2, 12, 50), (7, 7, 30), (40, 25, 300), (3, 1, 10)])
def test_paired_interval_inverts_the_score_test(b: int, c: int, n: int) -> None:
    a_scores = np.array([0.0] * b + [1.0] * c + [1.0] * (n - b - c))
    b_scores = np.array([1.0] * b + [0.0] * c + [1.0] * (n - b - c))
    result = paired_difference(a_scores, b_scores)
    assert result.test == "mcnemar-exact"
    assert result.difference == pytest.approx((b - c) / n)
    assert result.p_value == mcnemar_exact(b, c)
    for end in result.ci95:
        z = (b - c - n * end) / math.sqrt(likeliest_spread(b, c, n, end))
        assert abs(z) == pytest.approx(stats.norm.ppf(0.975), rel=1e-4)


def test_paired_interval_without_splits_and_with_nothing_else() -> None:
    same = paired_difference([1.0, 0.0, 1.0, 1.0], [1, 0, 1, 1])
    z2 = stats.norm.ppf(0.975) ** 2
    assert same.p_value == 1.0
    assert same.ci95 == pytest.approx((-z2 / (4 + z2), z2 / (4 + z2)))
    all_gained = paired_difference([0] * 20, [1] * 20)
    assert all_gained.difference == 1.0
    assert all_gained.ci95[1] == 1.0
    assert 0.6 < all_gained.ci95[0] < 1.0
    assert paired_difference([1], [0]).difference == -1.0


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
@settings(deadline=None)
def test_paired_difference_turns_round_with_its_arguments(pairs: list[tuple[bool, bool]]) -> None:
    a, b = (np.array(side, dtype=float) for side in zip(*pairs, strict=True))
    there, back = paired_difference(a, b), paired_difference(b, a)
    assert there.difference == pytest.approx(-back.difference)
    assert there.ci95 == pytest.approx((-back.ci95[1], -back.ci95[0]), abs=1e-9)
    assert there.p_value == back.p_value
    assert -1 <= there.ci95[0] <= there.difference <= there.ci95[1] <= 1


def test_bootstrap_of_means_agrees_with_the_t_test() -> None:
    rng = np.random.default_rng(2)
    a = rng.binomial(8, 0.5, size=400) / 8
    b = np.clip(a + rng.choice([-0.125, 0.0, 0.125, 0.25], size=400), 0, 1)
    result = paired_difference(a, b)
    expected = stats.ttest_rel(b, a)
    interval = expected.confidence_interval()
    assert result.test == "paired-bootstrap"
    assert result.difference == pytest.approx(float((b - a).mean()))
    assert result.ci95 == pytest.approx((interval.low, interval.high), abs=0.003)
    other = rng.binomial(8, 0.53, size=400) / 8
    weak, reference = paired_difference(a, other), stats.ttest_rel(a, other).pvalue
    assert 0.01 < reference < 0.5
    assert weak.p_value == pytest.approx(reference, abs=0.02)


def test_bootstrap_is_repeatable_and_seeded() -> None:
    a, b = [0.25, 0.5, 0.75, 1.0, 0.0, 0.5], [0.5, 0.5, 1.0, 1.0, 0.25, 0.25]
    assert paired_difference(a, b, seed=3) == paired_difference(a, b, seed=3)
    assert paired_difference(a, b, seed=3) != paired_difference(a, b, seed=4)
    assert paired_difference(a, a).p_value == 1.0
    assert paired_difference(a, a).ci95 == (0.0, 0.0)
    alone = paired_difference([0.5], [0.75])  # one problem says nothing of others
    assert (alone.difference, alone.ci95, alone.p_value) == (0.25, (-1.0, 1.0), 1.0)


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_rejects_as_the_stepwise_procedure_does(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    for alpha in (0.01, 0.05, 0.2):
        rejected: set[int] = set()
        for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
            if p_values[i] * (len(p_values) - rank) > alpha:
                break
            rejected.add(i)
        assert rejected == {i for i, q in enumerate(adjusted) if q <= alpha}


@pytest.mark.parametrize(("n", "disagreement"), [(100, 0.2), (300, 0.3), (1319, 0.2)])
def test_the_difference_just_detectable_is_connors(n: int, disagreement: float) -> None:
    d = minimum_detectable_difference(n, disagreement)
    z, z_power = stats.norm.ppf([0.975, 0.8])
    assert (z * disagreement**0.5 + z_power * (disagreement - d * d) ** 0.5) ** 2 / d**2 == pytest.approx(n, rel=1e-6)


def test_pass_at_k_has_one_interval_wherever_it_stands():
    """n answers are n / k tries: half as many for each problem where k is 2."""
    own = [2, 2, 1, 2]  # right ones of 4 answers to each of four problems
    scores = [[pass_at_k(4, c, 2)] for c in own]
    expected = clustered_interval(scores, answers=8)
    assert expected != clustered_interval(scores, answers=16)
    tally = StrategyTally(parse_strategy("pass@k:k=2,n=4"), [s for (s,) in scores])
    tally.counts["responses"] = 16
    assert tally.figures()["ci95"] == list(expected)
    rows = [{"n": 4, "without": 0, "with": c, "problem_id": str(i)} for i, c in enumerate(own)]
    assert replacement_table(rows)[1]["with_ci95"] == [round(end, 6) for end in expected]
    response = {"answer": "1", "mean_logprob": -1.0, "finish_reason": "stop"}
    paths = [[response | {"correct": i < c} for i in range(4)] for c in own]
    rest = {"greedy": response | {"correct": True}, "distinct_answers": 1, "distinct_responses": 1}
    shown = [{"paths": p, **rest} for p in paths]
    with mock.patch("forkpoint.training.heldout_eval.K", (2,)):
        assert figures(shown)["pass@2_ci95"] == [round(end, 6) for end in expected]


@pytest.mark.parametrize(("function", "arguments"), [
    *((wilson, bad) for bad in ((0, 0), (3, 2), (-1, 5), (1, 2, 1.0), (math.nan, 2))),
    *((clustered_interval, (bad,)) for bad in ([], [[]], [[1.0], []], [[2.0]], [[math.nan]])),
    *((pass_at_k, bad) for bad in ((5, 6, 1), (5, 2, 6), (5, 2, 0), (0, 0, 1))),
    *((maj_at_k, (["a"], *bad)) for bad in (([True], 2), ([], 1), ([True], 0))),
    (maj_at_k, (["a", "a"], [True, False], 1)),
    (mcnemar_exact, (-1, 3)),
    *((paired_difference, bad) for bad in (([], []), ([1], [1, 0]), ([2, 0], [1, 0]), ([math.nan, 0], [1, 0]))),
    *((holm, ([bad],)) for bad in (1.5, -0.1, math.nan)),
    *((minimum_detectable_difference, bad) for bad in ((0,), (10, 0.0), (10, 1.5))),
])  # fmt: skip
def test_nonsense_is_refused(function, arguments) -> None:
    with pytest.raises(ValueError):
        function(*arguments)
