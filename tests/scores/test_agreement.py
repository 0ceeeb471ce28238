"""Agreement of scores with critical tokens: against brute force, with ties and without."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkpoint.scores.agreement import Labelled, _auc, agreement, hit, reciprocal_rank, wins

few_values = st.lists(st.integers(0, 3), min_size=1, max_size=6)


@given(few_values, st.data())
def test_ties_count_as_if_drawn_by_lot(values, data):
    critical = data.draw(st.integers(0, len(values) - 1))
    ranks = []
    for order in itertools.permutations(range(len(values))):  # every way to break ties
        ranked = sorted(order, key=lambda i: -values[i])
        ranks.append(ranked.index(critical) + 1)
    scores = np.array(values, dtype=float)
    assert hit(scores, critical) == pytest.approx(np.mean([rank == 1 for rank in ranks]))
    assert reciprocal_rank(scores, critical) == pytest.approx(np.mean([1 / rank for rank in ranks]))


@given(few_values, few_values)
def test_wins_are_counted_pair_by_pair(a, b):
    pairs = [(x > y) + 0.5 * (x == y) for x in a for y in b]
    assert wins(np.array(a, dtype=float), np.array(b, dtype=float)) == sum(pairs)


def made(seed: int, problems: int = 12, each: int = 2) -> list[Labelled]:
    """Trajectories in which `good` tends to mark the critical token, `perfect` always and `wrong` never does."""
    rng = np.random.default_rng(seed)
    found = []
    for p, _ in itertools.product(range(problems), range(each)):
        length = int(rng.integers(3, 9))
        critical = int(rng.integers(length))
        mark = np.arange(length) == critical
        scores = {
            "good": np.round(rng.normal(size=length) + 2 * mark, 1),
            "perfect": mark.astype(float),
            "wrong": -mark.astype(float),
            "random": np.zeros(length),
        }
        found.append(Labelled(f"p{p}", critical, scores))
    return found


def test_the_figures_are_those_of_the_trajectories():
    trajectories = made(0)
    figures = agreement(trajectories)
    by_name = {s["scorer"]: s for s in figures["scorers"]}
    assert figures["trajectories"] == 24
    assert figures["problems"] == 12
    assert figures["tokens"] == sum(len(t.scores["good"]) for t in trajectories)
    good = by_name["good"]
    assert good["hit_rate"] == pytest.approx(np.mean([hit(t.scores["good"], t.critical) for t in trajectories]), 1e-5)
    rank = np.mean([reciprocal_rank(t.scores["good"], t.critical) for t in trajectories])
    assert good["mean_reciprocal_rank"] == pytest.approx(rank, 1e-5)
    critical = np.array([t.scores["good"][t.critical] for t in trajectories])
    others = np.concatenate([np.delete(t.scores["good"], t.critical) for t in trajectories])
    assert good["auc"] == pytest.approx(np.mean(np.subtract.outer(critical, others) > 0)
                                        + np.mean(np.subtract.outer(critical, others) == 0) / 2, 1e-5)  # fmt: skip
    for scorer in by_name.values():
        for metric in ("hit_rate", "mean_reciprocal_rank", "auc"):
            low, high = scorer[f"{metric}_ci95"]
            assert low <= scorer[metric] <= high


def test_the_ends_of_the_scale():
    by_name = {s["scorer"]: s for s in agreement(made(1))["scorers"]}
    assert [by_name["perfect"][m] for m in ("hit_rate", "mean_reciprocal_rank", "auc")] == [1, 1, 1]
    assert by_name["wrong"]["hit_rate"] == by_name["wrong"]["auc"] == 0
    assert by_name["wrong"]["hit_rate_ci95"][1] > 0.1  # no hit in 12 problems is no certainty
    lengths = {}
    for t in made(1):
        lengths.setdefault(t.problem, []).append(len(t.scores["random"]))
    chance = np.mean([np.mean([1 / n for n in group]) for group in lengths.values()])
    assert by_name["random"]["hit_rate"] == pytest.approx(chance, 1e-5)
    assert by_name["random"]["auc"] == 0.5


def test_a_resample_is_the_auc_of_the_repeated_problems():
    trajectories = made(2, problems=4)
    members = [[t for t in trajectories if t.problem == f"p{p}"] for p in range(4)]
    draw = np.array([2, 0, 1, 1])
    repeated = [group for group, times in zip(members, draw, strict=True) for _ in range(times)]
    whole, (resampled,) = _auc(members, "good", draw[None].astype(float))
    assert _auc(repeated, "good", np.ones((1, 4)))[0] == pytest.approx(resampled)
    assert resampled != pytest.approx(whole)


def test_intervals_are_of_problems_not_of_trajectories():
    once = made(3, problems=15, each=1)
    often = [t for t in once for _ in range(20)]
    a, b = (next(s for s in agreement(ts)["scorers"] if s["scorer"] == "good") for ts in (once, often))
    for metric in ("hit_rate", "mean_reciprocal_rank", "auc"):
        assert np.ptp(b[f"{metric}_ci95"]) > 0.8 * np.ptp(a[f"{metric}_ci95"])


def test_differences_are_paired():
    figures = agreement(made(4))
    assert [c["b"] for c in figures["comparisons"]] == ["perfect", "wrong", "random"]
    by_name = {s["scorer"]: s for s in figures["scorers"]}
    for c in figures["comparisons"]:
        assert c["a"] == "good"
        assert c["auc"] == pytest.approx(by_name["good"]["auc"] - by_name[c["b"]]["auc"], abs=2e-6)
        low, high = c["auc_ci95"]
        assert low <= c["auc"] <= high
    same = [Labelled(t.problem, t.critical, {"a": t.scores["good"], "b": t.scores["good"]}) for t in made(4)]
    assert agreement(same)["comparisons"][0]["mean_reciprocal_rank_ci95"] == [0, 0]


def test_one_problem_says_little():
    (good, *_) = agreement(made(5, problems=1))["scorers"]
    assert good["auc_ci95"] == [0, 1]


def test_trajectories_of_one_token_have_no_other_token():
    """So that there is no AUC, as a share of no pairs, nor a difference of two of them; one longer response has one."""
    ones = [Labelled(p, 0, {"s": np.zeros(1), "t": np.zeros(1)}) for p in "ab"]
    found = agreement(ones)
    for entry in (*found["scorers"], *found["comparisons"]):
        assert entry["auc"] is None is entry["auc_ci95"]
    assert found["scorers"][0]["hit_rate"] == 1
    for entry in agreement([*ones, Labelled("c", 1, {"s": np.arange(2.0), "t": np.zeros(2)})])["scorers"]:
        assert entry["auc"] == pytest.approx({"s": 2 / 3, "t": 0.5}[entry["scorer"]], abs=1e-6)  # two tie, one wins
        assert all(map(math.isfinite, entry["auc_ci95"]))
