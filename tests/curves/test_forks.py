"""The fork estimator's arithmetic, without a model: exact by enumeration, unbiased and covering by repetition."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from forkpoint.curves.forks import UNSURE, Curve, LeafTally, Leaves, allocate, along, label, reach, success_curve
from forkpoint.proportions import wilson

OWN = np.array([0.7, 0.4, 0.9, 0.95, 0.5, 0.8, 0.6])
WEIGHTS = np.array([0.6, 0.3, 0.1])


def make(own: np.ndarray, weights: Sequence[np.ndarray], final: float = 0.0) -> Leaves:
    """Leaves at each position that share 1 - own there by their weights."""
    position = np.repeat(np.arange(len(own)), [len(w) for w in weights])
    prob = np.concatenate([(1 - p) * w / w.sum() for p, w in zip(own, weights, strict=True)])
    return Leaves(position, np.arange(len(position)), prob, own, final)


def spread(final: float = 0.0, ways: np.ndarray = WEIGHTS) -> Leaves:
    return make(OWN, [ways] * len(OWN), final)


def split(leaves: Leaves, tally: LeafTally, size: int, u: float) -> tuple[np.ndarray, np.ndarray]:
    """The allocation where all prefixes count the same."""
    return allocate(leaves, tally, size, len(leaves.own) + 1, None, u)


@st.composite
def some_leaves(draw: st.DrawFn) -> Leaves:
    """Up to 6 tokens, of which some are certain or impossible, with up to 4 leaves each."""
    chance = st.one_of(st.sampled_from([0.0, 1.0, 1 - 1e-9]), st.floats(0, 1))
    own = np.array(draw(st.lists(chance, min_size=1, max_size=6)))
    ways = [draw(st.lists(st.integers(1, 1000), min_size=1, max_size=4)) if p < 1 else [] for p in own]
    return make(own, [np.array(w, dtype=float) for w in ways], float(draw(st.booleans())))


@st.composite
def after_waves(draw: st.DrawFn) -> tuple[Leaves, LeafTally]:
    """Leaves with the tally of up to 4 waves, in which every leaf fails, or each has its own luck."""
    leaves = draw(some_leaves().filter(lambda found: len(found.prob)))
    luck = draw(st.sampled_from(["none", "some", "all"]))
    tally = LeafTally.empty(leaves)
    for size in draw(st.lists(st.integers(1, 40), max_size=4)):
        expected, drawn = split(leaves, tally, size, draw(st.floats(0, 0.999)))
        shares = np.array([draw(st.floats(0, 1)) for _ in drawn]) if luck == "some" else float(luck == "all")
        tally = tally.add(expected, drawn, np.rint(drawn * shares).astype(np.int64), drawn * 2.0)
    return leaves, tally


@settings(deadline=None)
@given(some_leaves(), st.floats(0, 2), st.floats(0, 2))
def test_along_is_the_recursion(leaves: Leaves, per_token: float, end: float) -> None:
    at_leaf = leaves.prob * np.cos(leaves.token)
    values = [end]
    for t in reversed(range(len(leaves.own))):
        left = sum(x for d, x in zip(leaves.position, at_leaf, strict=True) if d == t)
        values.insert(0, per_token + leaves.own[t] * values[0] + left)
    assert along(leaves, at_leaf, per_token, end) == pytest.approx(values, rel=1e-9, abs=1e-12)


@settings(deadline=None)
@given(after_waves(), st.integers(1, 200), st.floats(0, 0.999))
def test_allocation_spends_exactly_what_is_asked(after: tuple[Leaves, LeafTally], size: int, u: float) -> None:
    leaves, tally = after
    expected, drawn = split(leaves, tally, size, u)
    assert (expected > 0).all()  # even after nothing but failures
    assert expected.sum() == pytest.approx(size)
    assert drawn.sum() == size
    assert (drawn >= 0).all()
    assert (np.abs(drawn - expected) < 1 + 1e-9).all()


@settings(max_examples=25, deadline=None)
@given(after_waves(), st.integers(1, 40))
def test_rounding_keeps_the_expected_numbers(after: tuple[Leaves, LeafTally], size: int) -> None:
    leaves, tally = after
    grid = (np.arange(400) + 0.5) / 400
    found = [split(leaves, tally, size, u) for u in grid]
    assert np.mean([drawn for _, drawn in found], 0) == pytest.approx(found[0][0], abs=1 / 400 + 1e-9)


@pytest.mark.parametrize(("prefixes", "asked"), [(3, None), (1, None), (3, 0), (3, 1)])
def test_allocation_has_the_least_variance(prefixes: int, asked: int | None) -> None:
    """Of all ways to divide the rollouts, where each leaf's success is the guess."""
    leaves = make(np.array([0.5, 0.6]), [np.array([2.0, 1.0]), np.array([1.0, 1.0])])
    drawn, correct = np.array([40, 4, 0, 6]), np.array([0, 2, 0, 3])
    there = np.array([3 / 46, 3 / 46, 4 / 8, 4 / 8])  # a position's leaves, and 1 of 2 more
    rate = (correct + 2 * there) / (drawn + 2)
    share = (reach(leaves.own)[:prefixes] ** 2).mean(0)[leaves.position]  # of a leaf's variance in the curve
    varies = share * rate * (1 - rate)
    if asked is not None:
        rate = np.maximum(rate, UNSURE)
        varies += (leaves.position >= asked) * rate * (1 - rate)

    def variance(numbers: np.ndarray) -> float:
        return float((leaves.prob**2 * varies / numbers).sum())

    tally = LeafTally.empty(leaves).add(drawn.astype(float), drawn, correct, np.zeros(4))
    best, _ = allocate(leaves, tally, 100, prefixes, asked, 0.0)
    rng = np.random.default_rng(0)
    for other in 100 * np.concatenate([rng.dirichlet(best / 5, 200), rng.dirichlet(best * 100, 200)]) + 1e-9:
        assert variance(other) >= variance(best) * (1 - 1e-9)


def outcomes(
    leaves: Leaves, q: np.ndarray, length: np.ndarray, sizes: Sequence[int], tally: LeafTally
) -> Iterator[tuple[float, LeafTally]]:
    """Everything that waves of these sizes can bring, each with its probability."""
    if not sizes:
        yield 1.0, tally
        return
    expected, _ = split(leaves, tally, sizes[0], 0.0)
    edges = np.unique([0.0, 1.0, *((1 - np.cumsum(expected)[:-1]) % 1)])  # the drawn numbers change there alone
    for low, high in itertools.pairwise(edges):
        if high - low < 1e-9:
            continue
        _, drawn = split(leaves, tally, sizes[0], (low + high) / 2)
        for correct in np.ndindex(*(drawn + 1)):
            chance = (high - low) * float(np.prod(stats.binom.pmf(correct, drawn, q)))
            more = tally.add(expected, drawn, np.array(correct), drawn * length)
            for p, whole in outcomes(leaves, q, length, sizes[1:], more):
                yield chance * p, whole


def test_a_tally_is_unbiased_by_enumeration() -> None:
    """Of success and of a length that depends on the leaf, though the second wave follows the first one's outcomes."""
    leaves = make(np.array([0.6, 0.3]), [np.array([1.0]), np.array([5.0, 1.0])])
    q, length = np.array([0.3, 0.8, 0.5]), np.array([2.0, 7.0, 3.0])
    total, success, lengths, pooled, divided = 0.0, np.zeros(3), np.zeros(3), np.zeros(3), set()
    for p, tally in outcomes(leaves, q, length, (2, 3), LeafTally.empty(leaves)):
        total += p
        success += p * tally.success / tally.rollouts
        lengths += p * tally.length / tally.rollouts
        pooled += p * tally.correct / np.maximum(tally.drawn, 1)
        divided.add(tuple(tally.noise))
        assert tally.rollouts == pytest.approx(tally.drawn.sum()) == pytest.approx(5)
    assert total == pytest.approx(1)
    assert success == pytest.approx(q, abs=1e-12)
    assert lengths == pytest.approx(length, abs=1e-12)
    assert np.abs(pooled - q).max() > 0.05  # so there was a bias to avoid,
    assert len(divided) > 10  # and outcomes did steer


def repeat(
    leaves: Leaves, q: np.ndarray, sizes: Sequence[int], repetitions: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The true curve [T+1], and the estimates and bounds [repetitions, T+1] of runs with adaptive allocation."""
    rng = np.random.default_rng(0)
    curves = []
    for _ in range(repetitions):
        tally = LeafTally.empty(leaves)
        for size in sizes:
            expected, drawn = split(leaves, tally, size, rng.random())
            tally = tally.add(expected, drawn, rng.binomial(drawn, q), drawn)
        curves.append(success_curve(leaves, tally))
    found = [np.array([getattr(c, name) for c in curves]) for name in ("success", "lower", "upper")]
    return along(leaves, leaves.prob * q, 0.0, leaves.final), *found


VARIED = np.random.default_rng(5).uniform(0, 1, 21)
MANY = np.random.default_rng(7).uniform(0, 1, 280)


@pytest.mark.parametrize(("q", "final", "sizes"), [
    (VARIED, 0.0, (32, 32, 32, 32)),
    (VARIED, 1.0, (128,)),
    (MANY, 0.0, (32, 32, 32, 32)),  # more ways to leave than rollouts
    (np.full(21, 0.1), 0.0, (64, 64, 64, 64)),
    (np.full(21, 0.02), 0.0, (64, 64, 64, 64)),
    (np.full(21, 0.01), 0.0, (64, 64, 64, 64)),
    (np.full(21, 0.005), 0.0, (64, 64, 64, 64)),
])  # fmt: skip
def test_unbiased_with_intervals_that_hold_the_truth(q: np.ndarray, final: float, sizes: tuple[int, ...]) -> None:
    leaves = spread(final) if len(q) == 21 else spread(final, np.ones(40))
    truth, found, lower, upper = repeat(leaves, q, sizes, 1000)
    error = np.abs(found.mean(0) - truth)
    assert (error <= 4 * found.std(0) / 1000**0.5 + 1e-12).all()
    assert error[-1] == 0
    covered = ((lower <= truth + 1e-12) & (truth <= upper + 1e-12)).mean(0)
    assert covered[-1] == 1
    assert (covered[:-1] > 0.92).all()
    assert (covered[:-1] < 0.99).all()
    assert ((truth > upper + 1e-12).mean(0) < 0.04).all()  # on which the claim that a trajectory is lost rests


def test_failure_mirrors_success() -> None:
    """Also where one rollout weighs more than all later ones through its leaf."""
    tally, mirrored = (LeafTally.empty(spread()) for _ in range(2))
    for number, right in ((1, 1), (100, 0)):
        drawn, correct = np.full(21, 9), np.arange(21) % 2
        drawn[12], correct[12] = number, right
        tally = tally.add(drawn.astype(float), drawn, correct, np.zeros(21))
        mirrored = mirrored.add(drawn.astype(float), drawn, drawn - correct, np.zeros(21))
    curve, mirror = success_curve(spread(0.0), tally), success_curve(spread(1.0), mirrored)
    assert mirror.success == pytest.approx(1 - curve.success)
    assert mirror.lower == pytest.approx(1 - curve.upper)
    assert mirror.upper == pytest.approx(1 - curve.lower)


def test_without_success_the_interval_keeps_its_width() -> None:
    leaves = spread()
    tally, nothing = LeafTally.empty(leaves), np.zeros(21, dtype=np.int64)
    mass, before = 1 - reach(leaves.own)[:-1, -1], np.ones(7)
    for i in range(4):
        tally = tally.add(*split(leaves, tally, 64, 0.5), nothing, np.zeros(21))
        curve = success_curve(leaves, tally)
        assert (curve.success == 0).all()
        assert (curve.lower == 0).all()
        least = mass * wilson(0, 64 * (i + 1))[1]  # as if all rollouts had left from this prefix
        assert (curve.upper[:-1] >= least - 1e-12).all()
        assert (curve.upper[:-1] < before).all()
        assert curve.upper[-1] == 0
        before = curve.upper[:-1]


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=4), st.floats(0, 1), st.floats(0.01, 1), st.booleans())
def test_a_single_way_to_leave_has_wilsons_interval(sizes: list[int], share: float, prob: float, final: bool) -> None:
    leaves = Leaves(np.array([0]), np.array([7]), np.array([prob]), np.array([1 - prob]), float(final))
    tally = LeafTally.empty(leaves)
    for n in sizes:
        tally = tally.add(np.array([float(n)]), np.array([n]), np.array([round(n * share)]), np.array([0.0]))
    right, n = int(tally.correct[0]), sum(sizes)
    curve = success_curve(leaves, tally)
    found = np.stack([curve.success, curve.lower, curve.upper], 1)
    expected = np.array([right / n, *wilson(right, n)])
    assert found[0] == pytest.approx((1 - prob) * final + prob * expected, abs=1e-9)
    assert found[1].tolist() == [final] * 3


@settings(deadline=None)
@given(after_waves())
def test_bounds_are_in_order_and_possible(after: tuple[Leaves, LeafTally]) -> None:
    leaves, tally = after
    curve, stays = success_curve(leaves, tally), reach(leaves.own)[:, -1]
    least, most = stays * leaves.final, stays * leaves.final + 1 - stays
    for low, high in itertools.pairwise((least, curve.lower, curve.success, curve.upper, most)):
        assert (low <= high + 1e-9).all()
    if not tally.rollouts:  # then nothing else is known
        assert np.stack([curve.lower, curve.upper]) == pytest.approx(np.stack([least, most]))


def curve_of(rows: str) -> Curve:
    """ "lower success upper" after 0, 1, ... tokens, in percent."""
    lower, success, upper = np.array([row.split() for row in rows.split(",")], dtype=float).T / 100
    return Curve(success, lower, upper)


@pytest.mark.parametrize(("rows", "status", "index"), [
    ("50 60 70, 20 30 40, 0 1 4, 0 0 0", "critical", 1),
    ("50 60 70, 2 8 20, 0 1 4.9, 0 0 3, 0 0 0", "critical", 1),  # bounds before it are apart from those after it
    ("50 60 70, 1.6 3 9, 0 1.5 4, 0 0 0", "critical", 1),  # surely above 1/64
    ("50 60 70, 1.5 3 9, 0 1.5 4, 0 0 0", "undecided", 1),  # not surely
    ("50 60 70, 20 30 40, 0 1.7 4, 0 0 3, 0 0 0", "undecided", 2),  # 1.7% is more than 1/64
    ("50 60 70, 20 30 40, 1.6 2 4, 0 0 3, 0 0 0", "critical", 2),  # and surely so
    ("50 60 70, 20 30 40, 0 1 4, 0 2 6, 0 1 4, 0 0 0", "undecided", 3),  # a later upper bound of 5% or more
    ("50 60 70, 20 30 40, 0 1 4, 2 3 6, 0 1 4, 0 0 0", "critical", 3),
    ("50 60 70, 20 30 40, 0 1 5, 0 0 0", "undecided", 2),  # below 5%, not at it
    ("50 60 70, 20 30 40, 0 1.5625 4, 0 0 0", "critical", 1),  # 1/64 itself is near zero
    ("50 60 70, 60 70 80, 50 60 70, 0 0 0", "critical", 2),  # the last token
    ("20 30 40, 0 0 4, 0 0 0", "critical", 0),  # the first token
    ("0 1 4, 0 0 3, 0 0 0", "none", None),  # lost before its first token
    ("0 2 4, 0 0 3, 0 0 0", "undecided", 0),
    ("50 60 70, 20 30 40, 10 20 30", "none", None),  # cut short with success left
    ("50 60 70, 20 30 40, 1 2 30", "undecided", None),  # perhaps
    ("50 60 70, 20 30 40, 1 2 4", "undecided", None),
    ("50 60 70, 20 30 40, 0 0 6", "undecided", None),
    ("50 60 70, 20 30 40, 0 0 4", "critical", 1),  # cut short and surely lost
])  # fmt: skip
def test_the_label_from_the_curve(rows: str, status: str, index: int | None) -> None:
    assert label(curve_of(rows), False) == (status, index)
    assert label(curve_of(rows), True) == ("none", None)
