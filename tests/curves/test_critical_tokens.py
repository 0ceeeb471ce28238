"""What `critical` writes on the lab: lines, curves, labels, costs, the page; by both protocols, with other options."""

from __future__ import annotations

import json

import numpy as np
import pytest
from lab_runs import SEARCH, check, labelled, rows_of

from forkpoint.curves.critical_tokens import CriticalConfig, describe, find_critical, label_trajectories
from forkpoint.curves.label_dataset import COLUMNS
from forkpoint.lab.problem_generator import load_problems
from forkpoint.trajectories.rows import load_trajectories

ROUNDING = 2e-6  # of a success, of the next one and of a probability, six digits each


def test_the_lines_are_what_was_promised(critical_run, lab):
    for row in rows_of(critical_run[0] / "critical.jsonl"):
        check(row)
        assert "".join(row["tokens"]) == lab.tokenizer.decode(row["token_ids"], skip_special_tokens=True)
        for a in row["alternatives"]:
            text = lab.tokenizer.decode([a["token_id"]], skip_special_tokens=True)
            assert a["token"] in (
                ("", "\ufffd") if "\ufffd" in text else (text,)
            )  # a part of a character is no text yet
            assert a["policy_prob"] + row["policy_prob"][a["position"]] < 1 + ROUNDING
        np.testing.assert_allclose(np.log(row["policy_prob"]), row["logprob"], atol=1e-4)  # temperature 1, all tokens
        assert row["status"] != "critical" or 0 <= row["critical_index"] < len(row["token_ids"])


def test_the_samples_are_all_responses_and_the_wrong_ones_are_labelled(critical_run):
    samples = rows_of(critical_run[0] / "samples.jsonl")
    assert [row["id"] for row in samples] == [f"{p.id}/0" for p in load_problems(limit=6)]
    wrong = [row for row in samples if not row["correct"]]
    assert wrong == [{key: row[key] for key in samples[0]} for row in rows_of(critical_run[0] / "critical.jsonl")]
    for row in samples:
        assert row["correct"] == (row["answer"] == row["gold"])


def test_the_summary_follows_from_the_files(critical_run):
    out, summary = critical_run
    rows, samples = rows_of(out / "critical.jsonl"), rows_of(out / "samples.jsonl")
    assert summary["responses"] == {
        "n": 6,
        "correct": sum(row["correct"] for row in samples),
        "no_answer": sum(row["answer"] is None for row in samples),
        "cut_off": sum(row["finish_reason"] == "length" for row in samples),
    }
    asked = {"verb": "critical", "model": "lab", "task": "lab", "budget": 192, "which": "wrong", "replace": True}
    assert (asked | describe(rows)).items() <= summary.items()
    assert summary["brute_force_tokens"] > 5 * summary["tokens_generated"] > 0
    assert summary["seconds"] > 0


def test_another_token_rescues_what_the_critical_one_lost(critical_run):
    out, summary = critical_run
    replaced, table = rows_of(out / "replacement.jsonl"), summary["replacement"]["table"]
    rows = [row for row in rows_of(out / "critical.jsonl") if row["status"] == "critical"]
    assert [(r["id"], r["critical_index"]) for r in replaced] == [(r["id"], r["critical_index"]) for r in rows]
    assert summary["replacement"]["n_trajectories"] == len(rows) == summary["statuses"]["critical"]
    assert summary["replacement"]["tokens_generated"] == sum(row["tokens_generated"] for row in replaced)
    assert [line["k"] for line in table] == list(range(1, 65))
    assert table[0]["without"] == pytest.approx(np.mean([row["without"] / 64 for row in replaced]), abs=1e-6)
    assert table[0]["without"] < 0.05 < 0.3 < table[0]["with"]
    assert [line["with"] for line in table] == sorted(line["with"] for line in table)


@pytest.mark.parametrize("protocol", ["forks", "paper"])
def test_labels_from_python(lab, critical_run, tmp_path, protocol):
    given = load_trajectories(critical_run[0] / "critical.jsonl", load_problems(limit=6), lab)[:2]
    search = CriticalConfig(protocol, SEARCH.sampling, budget=24, until="budget")
    summary = find_critical(lab, [], search, tmp_path, trajectories=given)
    labels = {label.trajectory.id: label for label in label_trajectories(lab, iter(given), search)}
    assert (summary["protocol"], summary["n_trajectories"], len(labels)) == (protocol, 2, 2)
    for row in rows_of(tmp_path / "critical.jsonl"):
        label = labels[row["id"]]
        assert (row["status"], row["critical_index"], row["rollouts"]) == (
            label.status, label.critical_index, label.rollouts
        )  # fmt: skip
        assert row["tokens_generated"] == label.tokens_generated
        np.testing.assert_allclose(np.array(row["success"], float), label.success, atol=1e-6)
        assert (row["alternatives"] != []) == (protocol == "forks")


def test_the_papers_protocol(tmp_path):
    """Nothing is evaluated before the last recoverable prefix, and the critical token is the first lost one after."""
    rows = labelled(tmp_path / "out", "--limit", "4", "--seed", "2", "--protocol", "paper")
    assert rows
    for row in rows:
        assert row.keys() == COLUMNS.keys()
        assert row["alternatives"] == []
        success = row["success"]
        first = success.count(None)
        assert success[:first] == row["success_ci"][:first] == [None] * first
        assert None not in success[first:]
        assert success[first] >= 4 / 64 > max(success[first + 1 :])
        assert (row["status"], row["critical_index"]) == ("critical", success.index(0) - 1)
        assert row["rollouts"] <= 64 * (len(row["token_ids"]) - first)


def test_the_whole_budget_and_all_responses(tmp_path):
    """The labels of the correct ones alone are the same."""
    few = ["--limit", "3", "--seed", "2", "--n", "3", "--budget", "20", "--wave", "16", "--until", "budget"]
    rows = labelled(tmp_path / "all", *few, "--which", "all")
    samples = rows_of(tmp_path / "all/samples.jsonl")
    assert [row["id"] for row in rows] == [f"{p.id}/{i}" for p in load_problems(limit=3) for i in range(3)]
    assert [row["token_ids"] for row in rows] == [row["token_ids"] for row in samples]
    assert {row["rollouts"] for row in rows} == {20}
    for row in rows:
        check(row)
        assert row["success"][-1] == row["correct"]
    assert "undecided" in {row["status"] for row in rows}
    correct = [row for row in rows if row["correct"]]
    assert 0 < len(correct) < 9
    assert labelled(tmp_path / "correct", *few, "--which", "correct") == correct


def test_sampling_options_reach_the_policy(tmp_path):
    few = ["--limit", "2", "--seed", "2", "--budget", "24", "--which", "all", "--top-k", "2", "--temperature", "0.5"]
    rows = labelled(tmp_path / "out", *few)
    assert sum(len(row["alternatives"]) for row in rows) > 2
    for row in rows:
        others = {a["position"]: a["policy_prob"] for a in row["alternatives"]}
        assert len(others) == len(row["alternatives"])
        for position, prob in others.items():
            assert prob + row["policy_prob"][position] == pytest.approx(1, abs=ROUNDING)
    sampling = json.loads((tmp_path / "out/config.json").read_text())["sampling"]
    assert (sampling["temperature"], sampling["top_k"], sampling["seed"]) == (0.5, 2, 2)
