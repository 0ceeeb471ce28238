"""The paper's protocol with its savings: the same labels as without them, by exact probabilities and by brute force."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from toy_engine import NEXT, PROMPT, ToyEngine, success_after, trajectory

from forkpoint.curves import rollout_policy as policy_module
from forkpoint.curves.divergence import Fork, divergence_positions, other_tokens
from forkpoint.curves.paper_protocol import PaperLabel, critical_position, paper_labels
from forkpoint.curves.rollout_policy import policies
from forkpoint.engines import Engine
from forkpoint.lab.problem_generator import load_problems
from forkpoint.proportions import wilson
from forkpoint.sampling.draw import key_hash, uniforms
from forkpoint.tasks import grade_response
from forkpoint.trajectories.rows import sample_trajectories
from forkpoint.types import Request, Sampling, Trajectory, UserError

SMALL = {"rollouts": 8, "recoverable": 2}
FIVE = Sampling(max_tokens=5)
WRONG = (2, 1, 3, 3, 0)


def labels(engine: Engine, trajectories: Sequence[Trajectory], sampling: Sampling, **options: int) -> list[PaperLabel]:
    along = zip(trajectories, policies(engine, trajectories, sampling), strict=True)
    found = {label.trajectory.id: label for label in paper_labels(engine, along, sampling, **options)}
    return [found[t.id] for t in trajectories]


def copies(one: Trajectory, n: int) -> list[Trajectory]:
    return [replace(one, id=f"{one.id}/{i}") for i in range(n)]


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
    monkeypatch.setattr(policy_module, "ALTERNATIVES", named)
    one = trajectory(WRONG)
    found = Counter(label.critical_index for label in labels(ToyEngine(), copies(one, 1200), FIVE, **SMALL))
    expected = exact_labels(one, 8, 2, 5)
    assert set(found) <= set(expected)
    kept = sorted(c for c in expected if expected[c] > 0.01)
    assert len(kept) >= 4
    assert stats.chisquare([found[c] for c in kept], [1200 * expected[c] for c in kept], sum_check=False).pvalue > 0.01


def test_successes_follow_the_true_probabilities() -> None:
    """Counts at the last prefixes, which every copy evaluates, are binomial up to the success that ends them."""
    one = trajectory((2, 1, 3, 3, 2))
    found = labels(ToyEngine(), copies(one, 600), FIVE, rollouts=8, recoverable=8)
    for i in (1, 2, 3, 4):
        assert all(label.trials[i] == 8 for label in found)
        p = success_after(one.token_ids[:i], 5)
        right = sum(int(label.successes[i]) for label in found)
        assert stats.binomtest(right, 8 * 600, p).pvalue > 0.01


def test_batches_change_nothing() -> None:
    many = [trajectory(ids, f"t{i}") for i, ids in enumerate([WRONG, (3, 3, 2), (1, 2, 4, 3, 3), (2, 0), WRONG] * 3)]
    base = labels(ToyEngine(), many, FIVE)
    for options in ({"together": 1}, {"together": 4}, {"chunk": 1}, {"chunk": 64}):
        for a, b in zip(base, labels(ToyEngine(), many, FIVE, **options), strict=True):
            assert a.trials.tolist() == b.trials.tolist()
            assert a.successes.tolist() == b.successes.tolist()
            assert a.critical_index == b.critical_index
            if "together" in options:
                assert (a.rollouts, a.tokens_generated, a.plain_tokens) == (
                    b.rollouts, b.tokens_generated, b.plain_tokens,
                )  # fmt: skip
    assert (
        base[0].successes.tolist() != base[4].successes.tolist() or base[0].trials.tolist() != base[4].trials.tolist()
    )
    other = labels(ToyEngine(), many, replace(FIVE, seed=1))
    assert any(a.trials.tolist() != b.trials.tolist() for a, b in zip(base, other, strict=True))


def test_what_a_label_holds() -> None:
    engine = ToyEngine()
    (label,) = labels(engine, [trajectory((2, 1, 3, 3, 3, 0), "b")], replace(FIVE, max_tokens=6))
    assert label.status == "critical"
    n = 6
    assert label.success.shape == label.trials.shape == (n + 1,)
    assert label.success[n] == 0
    assert label.success_ci[n].tolist() == [0, 0]
    evaluated = np.flatnonzero(label.trials)
    assert evaluated.tolist() == [3, 4, 5]
    assert label.successes[evaluated[0]] == 4  # the recoverable prefix, at whose 4th success it stopped
    assert (label.successes[evaluated[1:]] < 4).all()
    assert (label.trials[evaluated[1:]] == 64).all()
    for i in evaluated:
        assert label.success[i] == label.successes[i] / label.trials[i]
        assert label.success_ci[i].tolist() == pytest.approx(wilson(int(label.successes[i]), int(label.trials[i])))
    assert np.isnan(label.success[: evaluated[0]]).all()
    assert np.isnan(label.success_ci[: evaluated[0]]).all()
    assert label.tokens_generated == engine.written > 0
    assert label.rollouts >= label.trials.sum()


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
    assert going_on.trials[3] > 0
    assert going_on.successes[3] == 4
    assert (going_on.status, going_on.critical_index) == ("none", None)
    (finished,) = labels(ToyEngine(), [cut], replace(FIVE, max_tokens=3))
    assert finished.trials[3] == 0
    assert finished.status == "critical"


def test_a_trajectory_longer_than_a_rollout_is_refused() -> None:
    with pytest.raises(UserError, match="toy/0 has 5 tokens, more than the 4"):
        labels(ToyEngine(), [trajectory(WRONG)], replace(FIVE, max_tokens=4))


@pytest.mark.parametrize("named", [512, 2])
def test_where_and_how_a_rollout_leaves(named: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_module, "ALTERNATIVES", named)
    monkeypatch.setattr("forkpoint.curves.divergence._WIDEN", 2)  # so that 5 tokens take two steps
    engine, one = ToyEngine(), trajectory((2, 4, 3, 2, 0))
    (policy,) = policies(engine, [one], FIVE)
    u = uniforms(np.array([key_hash(0, "u")] * 4000, dtype=np.uint64), np.arange(4000))
    path = [PROMPT[-1], *one.token_ids]
    own = [NEXT[a, b] for a, b in itertools.pairwise(path)]
    positions = divergence_positions(policy.own, 1, u)
    expected = [math.prod(own[1:d]) * (1 - own[d] if d < 5 else 1) for d in range(1, 6)]
    assert stats.chisquare(np.bincount(positions, minlength=6)[1:], 4000 * np.array(expected)).pvalue > 0.01
    for d in (0, 1, 3):
        tokens = other_tokens(engine, [Fork(one, policy, d, float(v)) for v in u[:2000]], FIVE)
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
    assert other_tokens(ToyEngine(), [Fork(one, policy, 2, 0.5)], FIVE) == [None]


def brute_force(engine: Engine, many: list[Trajectory], sampling: Sampling) -> tuple[list[int], int]:
    """The labels of the protocol as it reads, 8 rollouts from every prefix and 2 for recoverable; and the tokens."""
    requests, right, written = [], Counter[tuple[str, str]](), 0
    for t in many:
        for i in range(1, len(t.token_ids)):
            prefix = (*t.prompt_ids, *t.token_ids[:i])
            requests += [Request(f"{t.id}|{i}|{r}", prefix, i) for r in range(8)]
    for done in engine.generate(requests, sampling):
        name, i, _ = done.key.split("|")
        right[name, i] += grade_response(done.text, many[0].problem).correct
        written += len(done.token_ids)
    found = []
    for t in many:
        n = len(t.token_ids)
        counts = [right[t.id, str(i)] for i in range(1, n)] + [0]  # after token 0, 1, ...
        found.append(next(c for c in range(n) if counts[c] == 0 and all(k < 2 for k in counts[c:])))
    return found, written


def test_labels_are_those_of_brute_force_on_the_lab(lab: Engine) -> None:
    sampling = Sampling(temperature=1.3, max_tokens=100)
    sampled = sample_trajectories(lab, load_problems(limit=12), sampling, n=4, prompt="plain")
    short = [t for t in sampled if not t.correct and 5 <= len(t.token_ids) <= 9][:2]
    assert len(short) == 2
    for one in short:
        many = copies(one, 60)
        found = labels(lab, many, sampling, **SMALL)
        plain, written = brute_force(lab, many, sampling)
        ours, theirs = Counter(label.critical_index for label in found), Counter(plain)
        table = [[counts[c] for c in sorted(ours | theirs)] for counts in (ours, theirs)]
        assert len(table[0]) > 1
        assert (
            stats.chi2_contingency(
                table, correction=False, method=stats.PermutationMethod(n_resamples=500, rng=0)
            ).pvalue
            > 0.01
        )
        assert sum(label.tokens_generated for label in found) < written
        assert sum(label.plain_tokens for label in found) == pytest.approx(written, rel=0.2)
