"""The figures of a model on held-out problems, against counting by hand."""

from __future__ import annotations

from itertools import combinations
from statistics import mean, stdev
from typing import Any

import pytest

from forkpoint.lab.problem_generator import load_problems
from forkpoint.proportions import clustered_interval, wilson
from forkpoint.training.heldout_eval import figures, respond
from forkpoint.types import Sampling


def row(greedy: bool, right: list[bool], answers: int = 2, responses: int = 3) -> dict[str, Any]:
    paths = [{"correct": r, "answer": None if not r and i == 0 else "7", "mean_logprob": -0.1 * (i + 1),
              "finish_reason": "stop" if r else "length"}
             for i, r in enumerate(right)]  # fmt: skip
    return {"greedy": {"correct": greedy}, "paths": paths, "distinct_answers": answers, "distinct_responses": responses}


ROWS = [row(True, [True, False, False, True, False]), row(False, [False] * 5, 4, 5), row(True, [True] * 5, 1, 1)]


def test_the_figures_are_means_over_problems():
    found = figures(ROWS)
    assert found["greedy_accuracy"] == pytest.approx(2 / 3, abs=1e-6)
    assert found["greedy_accuracy_ci95"] == pytest.approx(wilson(2, 3), abs=1e-6)
    assert found["sampled_accuracy"] == found["pass@1"] == pytest.approx((0.4 + 0 + 1) / 3, abs=1e-6)
    right = [[float(path["correct"]) for path in r["paths"]] for r in ROWS]
    assert found["sampled_accuracy_ci95"] == pytest.approx(clustered_interval(right), abs=1e-6)
    some = [mean(any(own) for own in combinations(row, 4)) for row in right]
    assert found["pass@4"] == pytest.approx(mean(some), abs=1e-6)
    assert "pass@16" not in found
    assert found["distinct_answers"] == pytest.approx(7 / 3, abs=1e-6)
    assert found["distinct_responses"] == 3
    low, high = found["distinct_responses_ci95"]
    assert 1 < low < 3 < high < 5
    assert (found["samples"], found["no_answer"], found["cut_off"]) == (15, 1, 8)


def test_the_log_probability_is_that_of_right_samples():
    means = [(-0.1 - 0.4) / 2, -0.3]
    found = figures(ROWS)
    assert found["correct_logprob"] == pytest.approx(mean(means))
    half = 1.959964 * stdev(means) / 2**0.5
    assert found["correct_logprob_ci95"] == pytest.approx([mean(means) - half, mean(means) + half], abs=1e-5)


def test_nothing_right_and_one_problem():
    found = figures([row(False, [False, False], 1, 2)])
    assert found["correct_logprob"] is found["correct_logprob_ci95"] is None
    assert found["sampled_accuracy"] == 0
    assert found["sampled_accuracy_ci95"][1] > 0.5
    assert figures([row(True, [True], 1, 1)])["correct_logprob_ci95"] is None


def test_responses_are_counted_by_what_they_say(lab):
    """Distinct answers by meaning, distinct responses by tokens; the greedy one draws nothing."""
    problems = load_problems(limit=3)
    rows = respond(lab, problems, Sampling(max_tokens=100, seed=1), n=6, prompt="cot")
    again = respond(lab, problems, Sampling(max_tokens=100, seed=2), n=6, prompt="cot")
    assert [r["greedy"] for r in rows] == [r["greedy"] for r in again]
    assert [r["paths"] for r in rows] != [r["paths"] for r in again]
    for r, problem in zip(rows, problems, strict=True):
        assert r["problem_id"] == problem.id
        answers = {float(path["answer"]) for path in r["paths"] if path["answer"] is not None}
        assert r["distinct_answers"] == len(answers)
        assert r["distinct_responses"] == len({tuple(path["token_ids"]) for path in r["paths"]})
        for path in (r["greedy"], *r["paths"]):
            assert path["correct"] == (path["answer"] is not None and float(path["answer"]) == float(problem.answer))
            ids = (*r["prompt_ids"], *path["token_ids"])
            (scored,) = lab.score([ids], starts=[len(r["prompt_ids"])])
            assert path["mean_logprob"] == pytest.approx(scored.logprobs[len(r["prompt_ids"]) : -1].mean(), abs=1e-4)
    assert any(r["distinct_responses"] > 1 for r in rows)
