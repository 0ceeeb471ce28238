"""Whole evaluations: the files, what they add up to, resuming, and wrong input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import forkpoint
from forkpoint.evaluation import evaluate as module
from forkpoint.evaluation.results import differences, pairs_of
from forkpoint.evaluation.statistics import holm, paired_difference
from forkpoint.files import only_process
from forkpoint.lab.problem_generator import load_problems
from forkpoint.proportions import wilson
from forkpoint.tasks import grade, grade_response
from forkpoint.types import UserError

STRATEGIES = ["greedy", "cot-decoding:k=5", "sample:n=3,temperature=1", "pass@k:k=2,n=3"]


@pytest.fixture(scope="module")
def finished(lab, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    results = forkpoint.evaluate(lab, load_problems(limit=30), STRATEGIES, task="lab", max_tokens=120, out=out)
    return out, results


def rows_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]


def test_results_follow_from_the_samples(finished):
    out, results = finished
    assert json.loads((out / "results.json").read_text()) == results
    rows = rows_of(out)
    assert len(rows) == 30 * len(STRATEGIES)
    accuracy = {}
    for entry in results["strategies"]:
        own = [r for r in rows if r["strategy"] == entry["strategy"]]
        assert entry["n"] == len(own) == 30
        accuracy[entry["strategy"]] = entry["accuracy"]
        assert entry["accuracy"] == pytest.approx(sum(r["score"] for r in own) / 30)
        assert entry["tokens_generated"] == sum(r["tokens_generated"] for r in own)
    right = sum(grade(r["response"], r["gold"]).correct for r in rows if r["strategy"] == "greedy")
    assert accuracy["greedy"] == right / 30
    assert results["strategies"][0]["ci95"] == pytest.approx(list(wilson(right, 30)))
    assert [c["b"] for c in results["comparisons"]] == STRATEGIES[1:]
    for c in results["comparisons"]:
        assert c["a"] == "greedy"
        assert c["difference"] == pytest.approx(accuracy[c["b"]] - accuracy["greedy"])
        assert c["p_holm"] >= c["p_value"]
        assert c["test"] == ("mcnemar-exact" if c["b"] == "cot-decoding:k=5" else "paired-bootstrap")


def test_rows_agree_with_themselves(finished, tokenizer):
    problems = {p.id: p for p in load_problems(limit=30)}
    for row in rows_of(finished[0]):
        cut_off = row["paths"][row["chosen"]]["finish_reason"] == "length"
        again = grade_response(row["response"], problems[row["problem_id"]], cut_off=cut_off)
        assert (row["answer"], row["correct"]) == (again.extracted, again.correct)
        right = sum(path.get("correct", False) for path in row["paths"])
        if row["strategy"].startswith("pass@k"):
            assert row["score"] == pytest.approx({0: 0, 1: 2 / 3, 2: 1, 3: 1}[right])
        if row["strategy"].startswith("sample"):
            assert row["score"] == pytest.approx(right / 3)
        for path in row["paths"]:
            assert path["text"] in tokenizer.decode(path["token_ids"], skip_special_tokens=True)
            assert "".join(path["tokens"]).startswith(path["text"])
            assert len(path["tokens"]) == len(path["token_ids"]) == len(path["gaps"])
            if path["span"] and path["answer"]:
                assert path["answer"] in "".join(path["tokens"][slice(*path["span"])])


def test_an_interrupted_run_resumes_to_the_same_bytes(lab, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "UNIT_PATHS", 60)
    problems = load_problems(limit=30)
    arguments = {"task": "lab", "max_tokens": 120}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    forkpoint.evaluate(lab, problems, STRATEGIES, out=whole, **arguments)

    class StopError(Exception):
        pass

    def stop_after(n):
        seen = []

        def progress(*_):
            seen.append(1)
            if len(seen) == n:
                raise StopError

        return progress

    for n in (1, 3, 2):
        with pytest.raises(StopError):
            forkpoint.evaluate(lab, problems, STRATEGIES, out=broken, progress=stop_after(n), **arguments)
    journal = broken / "journal.jsonl"
    with journal.open("a") as file:
        file.write('{"unit": [0, 0], "sam')  # what a kill in the middle of a write leaves
    forkpoint.evaluate(lab, problems, STRATEGIES, out=broken, **arguments)
    assert (broken / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()
    assert not journal.exists()


def test_another_configuration_is_refused_and_the_same_one_returns_at_once(lab, finished):
    out, results = finished
    problems = load_problems(limit=30)
    assert forkpoint.evaluate(lab, problems, STRATEGIES, task="lab", max_tokens=120, out=out) == results
    with pytest.raises(UserError, match="seed was 0, now 1"):
        forkpoint.evaluate(lab, problems, STRATEGIES, task="lab", max_tokens=120, seed=1, out=out)
    with pytest.raises(UserError, match="problems was '30"):
        forkpoint.evaluate(lab, problems[:29], STRATEGIES, task="lab", max_tokens=120, out=out)


def test_a_sweep_runs_each_value(lab):
    results = forkpoint.evaluate(
        lab, load_problems(limit=8), ["greedy", "cot-decoding"], task="lab", sweep="k=1,3", max_tokens=120
    )
    assert results["sweep"]["lines"] == [
        {"strategy": "cot-decoding", "values": [1.0, 3.0], "specs": ["cot-decoding:k=1", "cot-decoding:k=3"]}
    ]
    strategies = results["strategies"]
    assert [s["strategy"] for s in strategies] == ["greedy", "cot-decoding:k=1", "cot-decoding:k=3"]
    assert strategies[0]["accuracy"] == strategies[1]["accuracy"]
    assert [(c["a"], c["b"]) for c in results["comparisons"]] == [("greedy", s["strategy"]) for s in strategies[1:]]


def lines(*names):
    return [{"strategy": name, "values": [1.0, 2.0], "specs": [f"{name}1", f"{name}2"]} for name in names]


@pytest.mark.parametrize(("specs", "swept", "pairs"), [
    ("x1 x2 y1 y2 z1 z2", "xyz", "x1-y1 x1-z1 x2-y2 x2-z2"),
    ("x1 x2 greedy y1 y2", "xy", "x1-greedy x1-y1 x2-greedy x2-y2"),
    ("greedy x1 x2 y1 y2", "xy", "greedy-x1 greedy-y1 greedy-x2 greedy-y2"),
    ("greedy beam x1 x2", "x", "greedy-beam greedy-x1 greedy-x2"),
    ("x1 x2", "x", "x1-x2"), ("greedy x y", "", "greedy-x greedy-y"), ("greedy", "", ""),
])  # fmt: skip
def test_a_sweep_compares_line_by_line_at_each_value(specs, swept, pairs):
    assert pairs_of(specs.split(), lines(*swept)) == [tuple(pair.split("-")) for pair in pairs.split()]


def test_comparisons_are_corrected_for_all_of_them():
    few, none, full = [0, 0, 0, 0, 1, 1, 1, 0], [0] * 8, [1] * 8
    found = differences([(few, full), (full, none)])
    assert [c["difference"] for c in found] == [5 / 8, -1]
    alone = [paired_difference(few, full).p_value, paired_difference(full, none).p_value]
    assert [c["p_value"] for c in found] == alone
    assert [c["p_holm"] for c in found] == holm(alone) != alone


@pytest.mark.parametrize(("strategies", "sweep", "message"), [
    ([], None, "at least one"), (["greedy", "greedy"], None, "twice"), (["greedy"], "k=1,2", "no given strategy"),
    (["cot-decoding"], "k=1", "OPTION=NUMBER"), (["cot-decoding"], "k=1,x", "OPTION=NUMBER"),
    (["cot-decoding"], "k=1,1.0", "twice"),
])  # fmt: skip
def test_wrong_plans_are_refused(lab, strategies, sweep, message):
    with pytest.raises(UserError, match=message):
        forkpoint.evaluate(lab, load_problems(limit=2), strategies, sweep=sweep)


def test_what_would_fail_later_is_refused_before_the_directory_is_claimed(lab, tmp_path):
    problems, out = load_problems(limit=2), tmp_path / "run"
    for some, options, message in (
        (problems, {"max_tokens": 5000}, "reads at most"),
        (problems, {"prompt": "palin"}, "prompt style"),
        ([], {}, "no problems"),
        (problems[:1] * 2, {}, "same id"),
    ):
        with pytest.raises(UserError, match=message):
            forkpoint.evaluate(lab, some, ["greedy"], out=out, **options)
    assert not out.exists()
    out.mkdir()
    with only_process(out), pytest.raises(UserError, match="another process"):
        forkpoint.evaluate(lab, problems, ["greedy"], out=out)
