"""Agreement of scores with critical tokens: against brute force, with ties and without."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkpoint.scores.agreement import METRICS, Labelled, agreement, hit, metric_values, reciprocal_rank, wins

few_values = st.lists(st.integers(0, 3), min_size=1, max_size=6)


@given(few_values, st.data())
def test_ties_count_as_if_drawn_by_lot(values, data):
    critical = data.draw(st.integers(0, len(values) - 1))
    orders = itertools.permutations(range(len(values)))  # every way to break ties
    ranks = [sorted(order, key=lambda i: -values[i]).index(critical) + 1 for order in orders]
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
    trajectories = []
    for p, _ in itertools.product(range(problems), range(each)):
        length = int(rng.integers(3, 9))
        critical = int(rng.integers(length))
        mark = np.arange(length) == critical
        scores = {"good": np.round(rng.normal(size=length) + 2 * mark, 1), "perfect": mark.astype(float),
                  "wrong": -mark.astype(float), "random": np.zeros(length)}  # fmt: skip
        trajectories.append(Labelled(f"p{p}", critical, scores))
    return trajectories


def by_name(figures: dict) -> dict[str, dict]:
    return {scorer["scorer"]: scorer for scorer in figures["scorers"]}


def test_figures_are_means_and_differences_with_intervals_around_them():
    trajectories = made(0)
    figures = agreement(trajectories)
    scorers = by_name(figures)
    lengths = [len(t.scores["good"]) for t in trajectories]
    assert (figures["trajectories"], figures["problems"], figures["tokens"]) == (24, 12, sum(lengths))
    critical = np.array([t.scores["good"][t.critical] for t in trajectories])
    rest = np.concatenate([np.delete(t.scores["good"], t.critical) for t in trajectories])
    wanted = {
        "hit_rate": np.mean([hit(t.scores["good"], t.critical) for t in trajectories]),
        "mean_reciprocal_rank": np.mean([reciprocal_rank(t.scores["good"], t.critical) for t in trajectories]),
        "auc": wins(critical, rest) / critical.size / rest.size,
    }
    for metric, value in wanted.items():
        assert scorers["good"][metric] == pytest.approx(value, 1e-5)
    assert scorers["random"]["hit_rate"] == pytest.approx(np.mean([1 / n for n in lengths]), 1e-5)
    assert [scorers["perfect"][m] for m in METRICS] == [1, 1, 1]
    assert scorers["wrong"]["hit_rate"] == scorers["wrong"]["auc"] == 0
    assert scorers["wrong"]["hit_rate_ci95"][1] > 0.1  # no hit in 12 problems is no certainty
    assert [(c["a"], c["b"]) for c in figures["comparisons"]] == [("good", n) for n in ("perfect", "wrong", "random")]
    for entry in (*figures["scorers"], *figures["comparisons"]):
        for metric in METRICS:
            if "b" in entry:
                assert entry[metric] == pytest.approx(wanted[metric] - scorers[entry["b"]][metric], abs=2e-6)
            low, high = entry[f"{metric}_ci95"]
            assert low <= entry[metric] <= high


def test_a_resample_is_the_auc_of_the_repeated_problems():
    trajectories = made(2, problems=4)
    members = [[t for t in trajectories if t.problem == f"p{p}"] for p in range(4)]
    draw = np.array([2, 0, 1, 1])
    repeated = [group for group, times in zip(members, draw, strict=True) for _ in range(times)]
    whole, resampled = metric_values(members, "good", np.vstack([np.ones(4), draw]))["auc"]
    assert metric_values(repeated, "good", np.ones((1, 4)))["auc"][0] == pytest.approx(resampled)
    assert resampled != pytest.approx(whole)


def test_intervals_are_of_problems_and_of_paired_differences():
    once = made(3, problems=15, each=1)
    a, b = (by_name(agreement(ts))["good"] for ts in (once, [t for t in once for _ in range(20)]))
    for metric in METRICS:  # more trajectories of the same problems say no more
        assert np.ptp(b[f"{metric}_ci95"]) > 0.8 * np.ptp(a[f"{metric}_ci95"])
    same = [Labelled(t.problem, t.critical, {"a": t.scores["good"], "b": t.scores["good"]}) for t in once]
    assert agreement(same)["comparisons"][0]["mean_reciprocal_rank_ci95"] == [0, 0]
    assert by_name(agreement(made(5, problems=1)))["good"]["auc_ci95"] == [0, 1]


def test_trajectories_of_one_token_have_no_other_token():
    """So that there is no AUC, as a share of no pairs, nor a difference of two of them; one longer response has one."""
    ones = [Labelled(p, 0, {"s": np.zeros(1), "t": np.zeros(1)}) for p in "ab"]
    figures = agreement(ones)
    for entry in (*figures["scorers"], *figures["comparisons"]):
        assert entry["auc"] is None is entry["auc_ci95"]
    assert figures["scorers"][0]["hit_rate"] == 1
    scorers = by_name(agreement([*ones, Labelled("c", 1, {"s": np.arange(2.0), "t": np.zeros(2)})]))
    assert [scorers[name]["auc"] for name in "st"] == pytest.approx([2 / 3, 0.5], abs=1e-6)  # two tie, one wins
    assert np.isfinite([scorers[name]["auc_ci95"] for name in "st"]).all()
