"""The causes of the lab's errors in what verbs write: rows, results, summaries."""

from __future__ import annotations

from collections import Counter

import pytest

from forkpoint.curves.critical_tokens import CriticalConfig, find_critical
from forkpoint.evaluation.evaluate import evaluate
from forkpoint.files import read_json
from forkpoint.lab.mistakes import cause_of_error
from forkpoint.lab.problem_generator import load_problems
from forkpoint.tasks.data_sets import read_rows
from forkpoint.training.contrast_run import Reference, compare
from forkpoint.types import Sampling


def test_evaluations_count_the_wrong_responses_by_cause(lab, tmp_path):
    problems = load_problems(limit=12)
    strategies = ["greedy", "sample:n=3", "self-consistency:n=3"]
    results = evaluate(lab, problems, strategies, task="lab", prompt="cot", max_tokens=120, out=tmp_path)
    counted = {spec: Counter() for spec in strategies}
    for _, row in read_rows(tmp_path / "samples.jsonl"):
        several = row["strategy"] == "sample:n=3"
        for i, path in enumerate(row["paths"]):
            wrong = not path["correct"] if several else i == row["chosen"] and not row["correct"]
            assert ("cause" in path) == wrong
            if wrong:
                assert path["cause"] == cause_of_error(row["problem_id"], path["text"])
                counted[row["strategy"]][path["cause"]] += 1
    assert all(entry.get("causes", {}) == counted[entry["strategy"]] for entry in results["strategies"])
    assert counted["sample:n=3"].total() > 5


def test_tasks_without_known_causes_have_none(lab, tmp_path):
    problems = [p.__class__(p.id, p.question, p.answer, p.kind) for p in load_problems(limit=6)]
    results = evaluate(lab, problems, ["greedy"], prompt="plain", max_tokens=40, out=tmp_path)
    assert results["strategies"][0]["accuracy"] < 1
    assert "causes" not in results["strategies"][0]


def test_critical_tokens_are_counted_by_cause(lab, tmp_path):
    sampling = Sampling(max_tokens=120, seed=2)
    summary = find_critical(lab, load_problems(limit=20), CriticalConfig(sampling=sampling, budget=64), tmp_path)
    rows = [row for _, row in read_rows(tmp_path / "critical.jsonl")]
    causes = Counter(row["cause"] for row in rows)
    assert {entry["cause"]: entry["wrong"] for entry in summary["causes"]} == causes
    assert sum(entry["critical"] for entry in summary["causes"]) == summary["statuses"]["critical"]
    assert read_json(tmp_path / "summary.json")["causes"] == summary["causes"]
    assert all(row["cause"] is None for _, row in read_rows(tmp_path / "samples.jsonl") if row["correct"])


def test_agreement_is_told_by_cause():
    def row(name, cause, s):
        scores = {"s": s, "policy_prob": [0.5, 0.1, 0.9], "entropy": [0.1, 0.2, 0.3]}
        return {"id": name, "problem_id": name, "cause": cause, "scores": scores}

    rows = [row("a", "slip", [0.9, 0.1, 0.9]), row("b", "boxes", [0.9, 0.9, 0.1]), row("c", None, [0.1, 0.9, 0.9])]
    references = {name: Reference((1, 2, 3), at) for name, at in (("a", 1), ("b", 2), ("c", 2))}
    found = compare(rows, references)
    hits = {
        part["cause"]: {entry["scorer"]: entry["hit_rate"] for entry in part["scorers"]} for part in found["causes"]
    }
    assert hits["slip"] == pytest.approx({"contrast": 1, "policy_prob": 1, "entropy": 0, "random": 1 / 3}, abs=1e-6)
    assert hits["boxes"] == pytest.approx({"contrast": 1, "policy_prob": 0, "entropy": 1, "random": 1 / 3}, abs=1e-6)
    assert found["trajectories"] == 3
