"""The paper's protocol with its savings: the same labels as without them, by exact probabilities and by brute force."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats
from toy_engine import NEXT, PROMPT, ToyEngine, success_after, trajectory
from toy_labels import FIVE, WRONG, copies, labels_of

from forkpoint.curves import paper_protocol, rollouts
from forkpoint.curves.paper_protocol import critical_position, paper_labels
from forkpoint.curves.rollouts import CurveLabel, Start, divergence_positions, other_tokens, policies, uniforms_of
from forkpoint.proportions import wilson
from forkpoint.types import Sampling, Trajectory


def labels(*of: Any) -> list[CurveLabel]:
    return labels_of(paper_labels, *of)


@pytest.mark.parametrize(("successes", "c"), [
    ([64, 30, 4, 3, 0, 1, 0], 3),  # the first 0 after the last recoverable prefix, not the first below 4
    ([9, 0, 4, 0, 0], 2),  # a 0 before a recoverable prefix does not count
    ([0, 0, 0], 0),  # without any recoverable prefix: the first token
    ([0, 3, 1, 0], 2),  # the empty prefix has no token before it
    ([5, 3, 0, 3, 2], 1),  # 3 of 64 is below 5%
    ([5, 3, 1, 2], None),
    ([5, 0, 4], None),
])  # fmt: skip
def test_the_label_from_the_successes(successes: list[int], c: int | None) -> None:
    assert critical_position(successes) == c


def exact_labels(one: Trajectory, rollouts: int, recoverable: int, max_tokens: int) -> Counter[int]:
    """The label's distribution under the plain protocol: independent binomials at all prefixes, by enumeration."""
    n = len(one.token_ids)
    chances = []
    for i in range(1, n):
        p = success_after(one.token_ids[:i], max_tokens)
        zero, few = (float(stats.binom.cdf(k, rollouts, p)) for k in (0, recoverable - 1))
        chances.append((zero, few - zero, 1 - few))
    found: Counter[int] = Counter()
    for categories in itertools.product(range(3), repeat=n - 1):
        counts = [0, *((0, 1, recoverable)[k] for k in categories), 0]
        after = max([i for i, k in enumerate(counts) if k >= recoverable], default=0)
        c = min(i for i in range(max(after + 1, 1), n + 1) if counts[i] == 0) - 1
        found[c] += math.prod(chances[i][k] for i, k in enumerate(categories))
    return found


@pytest.mark.parametrize("named", [512, 1])
def test_labels_have_the_plain_protocols_distribution(named: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where most alternatives have no name and must be asked of the engine."""
    monkeypatch.setattr(rollouts, "ALTERNATIVES", named)
    monkeypatch.setattr(paper_protocol, "ROLLOUTS", 8)
    monkeypatch.setattr(paper_protocol, "RECOVERABLE", 2)
    one = trajectory(WRONG)
    found = Counter(label.critical_index for label in labels(ToyEngine(), copies(one, 1200), FIVE))
    expected = exact_labels(one, 8, 2, 5)
    assert set(found) <= set(expected)
    kept = sorted(c for c in expected if expected[c] > 0.01)
    assert len(kept) >= 4
    assert stats.chisquare([found[c] for c in kept], [1200 * expected[c] for c in kept], sum_check=False).pvalue > 0.01


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk's size changes what is spent, no count."""

    def facts(sampling: Sampling = FIVE, **constants: int) -> tuple[list[Any], list[Any]]:
        for name, value in constants.items():
            monkeypatch.setattr(paper_protocol, name, value)
        found = labels(ToyEngine(), many, sampling)
        counts = [(str(one.success), str(one.success_ci), one.critical_index) for one in found]
        return counts, [(one.rollouts, one.tokens_generated, one.plain_tokens) for one in found]

    many = [trajectory(ids, f"t{i}") for i, ids in enumerate([WRONG, (3, 3, 2), (1, 2, 4, 3, 3), (2, 0), WRONG] * 3)]
    base = facts()
    assert facts(TOGETHER=1) == facts(TOGETHER=4) == base
    assert facts(CHUNK=1)[0] == facts(CHUNK=64)[0] == base[0]
    assert base[0][0] != base[0][4]  # another id draws other numbers
    assert facts(replace(FIVE, seed=1))[0] != base[0]


def test_what_a_label_holds() -> None:
    engine = ToyEngine()
    (label,) = labels(engine, [trajectory((2, 1, 3, 3, 3, 0), "b")], replace(FIVE, max_tokens=6))
    assert label.status == "critical"
    n = 6
    assert label.success.shape == (n + 1,)
    assert label.success[n] == 0
    assert label.success_ci[n].tolist() == [0, 0]
    assert np.isnan(label.success[:3]).all()
    assert np.isnan(label.success_ci[:3]).all()
    for i, right in zip((3, 4, 5), (4, *(round(64 * x) for x in label.success[4:6])), strict=True):
        trials = round(right / label.success[i]) if i == 3 else 64  # the recoverable prefix stopped at its 4th success
        assert label.success[i] == right / trials
        assert label.success_ci[i].tolist() == pytest.approx(wilson(right, trials))
        assert (right < 4) == (i > 3)
    assert label.tokens_generated == engine.written > 0
    assert label.rollouts >= 4 / label.success[3] + 2 * 64


def test_correct_trajectories_cost_nothing() -> None:
    engine = ToyEngine()
    (label,) = labels(engine, [trajectory((2, 3, 1, 0))], FIVE)
    assert (label.status, label.critical_index, label.rollouts, engine.written) == ("none", None, 0, 0)
    assert label.success[-1] == 1
    assert np.isnan(label.success[:-1]).all()


def test_one_that_was_cut_short_goes_on_after_its_end() -> None:
    """Its last prefix is evaluated like the others; the same tokens are finished where no more may follow."""
    cut = trajectory((4, 3, 4))
    (going_on,) = labels(ToyEngine(), [cut], FIVE)
    assert going_on.success[3] >= 4 / 64
    assert (going_on.status, going_on.critical_index) == ("none", None)
    (finished,) = labels(ToyEngine(), [cut], replace(FIVE, max_tokens=3))
    assert finished.success[3] == 0
    assert finished.status == "critical"


@pytest.mark.parametrize("named", [512, 2])
def test_where_and_how_a_rollout_leaves(named: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "ALTERNATIVES", named)
    monkeypatch.setattr(rollouts, "WIDEN", 2)  # so that 5 tokens take two steps
    engine, one = ToyEngine(), trajectory((2, 4, 3, 2, 0))
    (policy,) = policies(engine, [one], FIVE)
    u = uniforms_of(0, map(str, range(4000)))
    path = [PROMPT[-1], *one.token_ids]
    own = [NEXT[a, b] for a, b in itertools.pairwise(path)]
    positions = divergence_positions(policy.own, 1, u)
    expected = [math.prod(own[1:d]) * (1 - own[d] if d < 5 else 1) for d in range(1, 6)]
    assert stats.chisquare(np.bincount(positions, minlength=6)[1:], 4000 * np.array(expected)).pvalue > 0.01
    for d in (0, 1, 3):
        tokens = other_tokens(engine, [Start("", one, d, policy=policy, u=float(v)) for v in u[:2000]], FIVE)
        rest = np.where(np.arange(5) == one.token_ids[d], 0, NEXT[path[d]])
        counts = Counter(tokens)
        assert set(counts) == set(np.flatnonzero(rest).tolist())
        kept = np.flatnonzero(rest)
        expected = 2000 * rest[kept] / rest.sum()
        assert stats.chisquare([counts[int(v)] for v in kept], expected).pvalue > 0.01


def test_a_token_without_alternative_has_none() -> None:
    one = trajectory((2, 0, 0))
    (policy,) = policies(ToyEngine(), [one], FIVE)
    assert divergence_positions(policy.own, 2, np.array([0.0, 0.999999])).tolist() == [3, 3]
    assert other_tokens(ToyEngine(), [Start("", one, 2, policy=policy, u=0.5)], FIVE) == [None]
