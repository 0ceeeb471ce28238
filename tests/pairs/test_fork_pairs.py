"""Pairs of single tokens: which alternatives make one, with which weight, and what is refused in critical.jsonl."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_pairs import written
from scipy.stats import betabinom, binom, binomtest

from forkpoint.engines.loading import Vocabulary
from forkpoint.pairs.fork_pairs import EvaluatedToken, Forked, choose_fork_pairs
from forkpoint.pairs.pair_sources import read_forks, read_weights
from forkpoint.proportions import beta_prior, difference_interval, exact_interval, wilson
from forkpoint.types import UserError

CURVE = (0.5, 0.5, 0.02, 0.0, 0.0)  # of four tokens; the third loses what is left
INTERVALS = ((0.4, 0.6), (0.4, 0.6), (0.0, 0.05), (0.0, 0.04), (0.0, 0.0))


@pytest.fixture
def model(tokenizer) -> Vocabulary:
    return Vocabulary("lab", tokenizer, (tokenizer.eos_token_id,), len(tokenizer), None)


def forked(*alternatives: EvaluatedToken, **changes) -> Forked:
    values = {"success": CURVE, "success_ci": INTERVALS} | changes
    return Forked("p/0", "p", (11, 12), (21, 22, 23, 24), alternatives=alternatives, **values)


def test_the_interval_is_newcombes():
    """His table II, 56 of 70 against 48 of 80, method 10."""
    lower, upper = difference_interval(0.8, wilson(56, 70), 0.6, wilson(48, 80))
    assert (round(lower, 4), round(upper, 4)) == (0.0524, 0.3339)


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 7), (3, 7), (7, 7), (1, 64), (40, 64), (700, 1000)])
def test_the_exact_interval_is_scipys(successes, n):
    expected = binomtest(successes, n).proportion_ci(method="exact")
    assert exact_interval(successes, n) == pytest.approx(tuple(expected), abs=1e-9)


def test_a_pair_is_two_tokens_after_the_same_ones(tokenizer):
    found = choose_fork_pairs([forked(EvaluatedToken(1, 99, 30, 40, True))], tokenizer)
    ((problem, pair),) = found.pairs
    assert problem == "p"
    assert pair.id == "p/0/1/99"
    assert (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids) == ((11, 12, 21), (99,), (22,))
    a, b = beta_prior([(30, 40)])
    shrunk = (30 + a) / (40 + a + b)
    assert pair.weight == pytest.approx(shrunk - 0.02)  # success after the response's own token, not before it
    assert pair.rejected_weights is None
    assert (pair.chosen, pair.rejected) == (tokenizer.decode([99]), tokenizer.decode([22]))


def test_every_alternative_that_is_surely_better_makes_a_pair(tokenizer):
    """At position 0 the response's own token leads to 0.5, at the last to 0 for sure."""
    tried = [(0, 90, 39, 40), (0, 91, 40, 40), (0, 92, 24, 40), (0, 93, 20, 40), (0, 94, 1, 40), (1, 90, 0, 9),
             (3, 90, 1, 8), (3, 91, 0, 8)]  # fmt: skip
    choice = choose_fork_pairs([forked(*(EvaluatedToken(*one, True) for one in tried)), forked()], tokenizer)
    assert [pair.id for _, pair in choice.pairs] == ["p/0/0/90", "p/0/0/91", "p/0/3/90"]
    assert choice.dropped == {"not_evaluated": 0, "not_better": 4, "within_error": 1, "less_likely": 0}
    assert choice.counts == {
        "trajectories": 2, "trajectories_with_pairs": 1, "positions": 3, "positions_with_pairs": 2, "alternatives": 8,
        "pairs": 3,
    }  # fmt: skip


def test_unknown_success_and_less_likely_tokens_make_no_pair(tokenizer):
    unknown = forked(EvaluatedToken(0, 90, 9, 9, True), success=(None,) * 5, success_ci=(None,) * 5)
    unlikely = forked(EvaluatedToken(1, 99, 30, 40, False), EvaluatedToken(2, 98, 0, 40, False))
    choice = choose_fork_pairs([unknown, unlikely], tokenizer)
    assert choice.pairs == []
    assert choice.dropped == {"not_evaluated": 1, "not_better": 1, "within_error": 0, "less_likely": 1}
    ((_, pair),) = choose_fork_pairs([unlikely], tokenizer, any_alternative=True).pairs
    assert pair.chosen_ids == (99,)


@given(st.integers(0, 60), st.integers(1, 60), st.floats(0, 1), st.floats(0, 0.3), st.floats(0, 0.3))
def test_a_pair_is_where_the_interval_lies_above_zero(correct, n, p, below, above):
    correct, interval = min(correct, n), (max(0.0, p - below), min(1.0, p + above))
    one = forked(EvaluatedToken(0, 90, correct, n, True), success=(p,) * 5, success_ci=(interval,) * 5)
    pairs = choose_fork_pairs([one], Spelling()).pairs
    lower = correct / n - p - math.hypot(correct / n - exact_interval(correct, n)[0], interval[1] - p)
    a, b = beta_prior([(correct, n)])
    weight = (correct + a) / (n + a + b) - p
    assert bool(pairs) == (lower > 0 and weight > 0)
    for _, pair in pairs:
        assert 0 < pair.weight <= 1
        assert pair.weight == pytest.approx(weight, abs=1e-6)


def test_luck_seldom_makes_a_pair():
    """Of alternatives that are as good as the own token, with known success, at most 1 in 40; Wilson lets 1 in 5."""
    for p, n in [(p / 100, n) for p in range(0, 100, 7) for n in (1, 2, 3, 5, 20)]:
        curve = {"success": (p,) * 5, "success_ci": ((p, p),) * 5}
        tried = [forked(EvaluatedToken(0, 90, k, n, True), **curve) for k in range(n + 1)]
        qualifies = [bool(choose_fork_pairs([one], Spelling()).pairs) for one in tried]
        assert binom.pmf(np.arange(n + 1), n, p)[qualifies].sum() <= 0.025


def worlds(rng, n):
    """Made-up successes p after the own token and q after another one: independent, of one problem, or of two kinds."""
    yield 0.03, rng.beta(1, 4, n), rng.beta(1.2, 1.8, n)
    base = rng.beta(1, 1.5, n)
    yield 0.12, rng.beta(3.6 * base + 0.1, 6.1 - 3.6 * base), rng.beta(6 * base + 0.1, 6.1 - 6 * base)
    p = rng.beta(0.5, 4, n)
    yield 0.03, p, np.where(rng.random(n) < 0.3, rng.beta(4, 1.5, n), rng.beta(8 * p + 0.1, 8.1 - 8 * p))


def test_weights_of_pairs_are_no_larger_than_what_the_tokens_gain():
    """Though only those that do well by a few rollouts make pairs: the raw differences are 0.1 to 0.2 too large."""
    rng = np.random.default_rng(0)
    for bound, p, q in worlds(rng, 3000):
        n = rng.geometric(0.25, len(q))
        correct, seen = rng.binomial(n, q), rng.binomial(64, p)
        tried = []
        for i, (c, m, k) in enumerate(zip(correct.tolist(), n.tolist(), seen.tolist(), strict=True)):
            curve = {"success": (k / 64,) * 5, "success_ci": (wilson(k, 64),) * 5}
            tried.append(dataclasses.replace(forked(EvaluatedToken(0, 90, c, m, True), **curve), id=str(i)))
        pairs = [pair for _, pair in choose_fork_pairs(tried, Spelling()).pairs]
        own = [int(pair.id.split("/")[0]) for pair in pairs]
        weights, gains = np.array([pair.weight for pair in pairs]), (q - p)[own]
        raw = (correct / n - seen / 64)[own]
        assert abs(weights.mean() - gains.mean()) < bound
        assert raw.mean() - gains.mean() > 0.09
        assert np.mean((weights - gains) ** 2) < 0.6 * np.mean((raw - gains) ** 2)


def test_the_prior_is_the_likeliest_one():
    """By scipy's likelihood; without data it is uniform."""
    rng = np.random.default_rng(1)
    n = rng.integers(1, 30, 2000)
    correct = rng.binomial(n, rng.beta(0.7, 1.9, 2000))
    a, b = beta_prior(list(zip(correct.tolist(), n.tolist(), strict=True)))
    best = betabinom.logpmf(correct, n, a, b).sum()
    for other in ((0.9 * a, b), (1.1 * a, b), (a, 0.9 * b), (a, 1.1 * b), (1.1 * a, 1.1 * b), (0.9 * a, 0.9 * b)):
        assert betabinom.logpmf(correct, n, *other).sum() < best
    assert beta_prior([]) == pytest.approx((1, 1))


class Spelling:
    """The least that a tokenizer can do."""

    eos_token_id = None

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": []}

    def decode(self, token_ids, **_) -> str:
        return " ".join(map(str, token_ids))


ROW = {
    "id": "p/0", "problem_id": "p", "prompt_ids": [11, 12], "token_ids": [21, 22, 23, 24], "success": list(CURVE),
    "success_ci": [list(pair) for pair in INTERVALS], "policy_prob": [0.5, 0.05, 0.2, 0.9],
    "alternatives": [{"position": 1, "token_id": 99, "token": "?", "policy_prob": 0.1, "success": 0.666667, "n": 3}],
}  # fmt: skip


def alternative(**changes) -> dict:
    return {"alternatives": [ROW["alternatives"][0] | changes]}


def test_a_row_of_critical_jsonl_is_read(model, tmp_path):
    expected = forked(EvaluatedToken(1, 99, 2, 3, True))
    assert read_forks(written(tmp_path / "critical.jsonl", ROW), model) == [expected]
    assert read_forks(tmp_path, model) == [expected]
    unknown = ROW | {"success": [None] * 5, "success_ci": [None] * 5} | alternative(policy_prob=0.05)
    (read,) = read_forks(written(tmp_path / "critical.jsonl", unknown), model)
    assert (read.success, read.success_ci, read.alternatives[0].likelier) == ((None,) * 5, (None,) * 5, False)


@pytest.mark.parametrize(("change", "message"), [
    ({"token_ids": [21, 22, 23, 490]}, "token_ids holds 490, but the ids of lab go from 0 to 489"),
    ({"tokens": ["a", "b", "c", "d"]}, "come from another tokenizer"),
    ({"policy_prob": [0.5] * 3}, "policy_prob must hold one number for each"),
    (alternative(policy_prob=1.5), "policy_prob must be a probability, but is 1.5"),
    ({"success": [0.5] * 4}, "success must be a list of 5 values, one more than tokens, but is 4"),
    ({"success": [0.5, 0.5, 0.5, 0.5, 2]}, "success must hold numbers from 0 to 1, but holds 2"),
    ({"success_ci": [0.5] * 5}, "success_ci must hold pairs of numbers"),
    ({"alternatives": 3}, "alternatives must be a list of objects"),
    ({"alternatives": [{"position": 1}]}, "no column 'token_id'"),
    ({"alternatives": ROW["alternatives"] * 2}, "token 99 at position 1 is there twice"),
    (alternative(position=4), "position must be from 0 to 3, but is 4"),
    (alternative(token_id=22), "token_id must be another id than the trajectory's own"),
    (alternative(n=0), "at least 1 rollout, but got 0.666667 of 0"), (alternative(success=None), "but got None of 3"),
    ({"id": "p/1", "problem_id": ""}, "column 'problem_id' is empty"), ({}, "the trajectory 'p/0' is there twice"),
])  # fmt: skip
def test_a_broken_row_is_one_sentence_with_its_place(model, tmp_path, change, message):
    path = written(tmp_path / "critical.jsonl", ROW, ROW | change)
    with pytest.raises(UserError) as refusal:
        read_forks(path, model)
    assert str(refusal.value).startswith(f"{path} line 2")
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


SCORED = {"prompt_ids": [11], "token_ids": [21, 22, 0], "scores": {"s": [0.25, 0.999999, 1.0], "logprob": [0, 0, 0]}}


def test_a_weight_is_what_the_score_lacks(model, tmp_path):
    written(tmp_path / "scores.jsonl", SCORED)
    assert read_weights(tmp_path, model) == {((11,), (21, 22, 0)): (0.75, 0.000001, 0.0)}
    for read in (read_forks, read_weights):
        with pytest.raises(UserError, match="holds no"):
            read(written(tmp_path / "rows.jsonl"), model)


@pytest.mark.parametrize(("change", "message"), [
    ({"scores": {"s": [0.5, 0.5]}}, "s of scores must hold one number for each of the 3 tokens, but holds 2"),
    ({"scores": {"s": [0.5, 0.5, 1.5]}}, "must be between 0 and 1, but holds 1.5"),
    ({"scores": [1, 1, 1]}, "scores must be an object with the column s"),
    ({"scores": {"t": []}}, "scores must be an object with the column s"),
    ({"token_ids": [21, 22, 4900]}, "the trajectories come from another tokenizer"),
])  # fmt: skip
def test_broken_scores_are_one_sentence_with_their_place(model, tmp_path, change, message):
    path = written(tmp_path / "scores.jsonl", SCORED, SCORED | change)
    with pytest.raises(UserError, match=f"line 2: .*{message}"):
        read_weights(path, model)
