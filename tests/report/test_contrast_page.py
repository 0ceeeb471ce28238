"""The page of contrastive estimation: the sets, the agreement with its differences, and every score of every token."""

from __future__ import annotations

import json

import pytest
from test_critical_page import embedded

from forkpoint.report import write_report
from forkpoint.report.pages.contrast import page, page_of_summary
from forkpoint.types import UserError

METRICS = ("hit_rate", "mean_reciprocal_rank", "auc")
COLUMNS = ("s", "policy_prob", "logprob", "entropy", "logprob_positive", "logprob_negative")


def figures(**named):
    values = dict(zip(METRICS, (0.25, 0.5, 0.75), strict=True))
    return named | values | {f"{name}_ci95": [value - 0.125, value + 0.125] for name, value in values.items()}


def summary(*, agreement=True):
    compared = {
        "trajectories": 17, "problems": 12,
        "scorers": [figures(scorer=name) for name in ("contrast", "policy_prob", "entropy", "random")],
        "comparisons": [figures(a="contrast", b=name) for name in ("policy_prob", "entropy", "random")],
    }  # fmt: skip
    compared["comparisons"][0]["auc_ci95"] = [-0.0002, 0.125]
    return {
        "verb": "contrast", "model": "lab", "task": "gsm8k", "agreement": compared if agreement else None,
        "sets": {"questions": 100, "samples": 1600, "correct": 797},
        "scored": {"trajectories": 17, "tokens": 1777},
        "training": {
            "positive": {"responses": 100, "steps": 3, "losses": [0.3, 0.2, 0.1]},
            "negative": {"responses": 246, "steps": 31, "losses": [0.5] * 15},
        },
    }  # fmt: skip


def row(number=0, **changes):
    scores = {name: [number + 0.25, 0.5, i + 0.0] for i, name in enumerate(COLUMNS)}
    return {
        "id": f"p/{number}", "problem_id": "p", "question": "How many?", "token_ids": [7, 8, 0],
        "tokens": [" four", " pens", ""], "answer": "4", "gold": "3", "correct": False, "finish_reason": "stop",
        "scores": scores,
    } | changes  # fmt: skip


def run(out, *rows):
    (out / "config.json").write_text(json.dumps({"verb": "contrast"}))
    (out / "summary.json").write_text(json.dumps(summary()))
    (out / "scores.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return out


def test_the_sentences_say_the_sets_and_what_became_of_the_models():
    page = page_of_summary(summary())
    assert page.title == "Contrastive estimation: lab on gsm8k"
    assert page.lines == [
        "lab on gsm8k: 1,600 samples of 100 questions, 49.8% correct",
        "positive model: 100 responses, 3 steps, mean loss 0.200",
        "negative model: 246 responses, 31 steps, mean loss 0.500",
        "scored: 1,777 tokens of 17 trajectories",
        "at finding critical tokens the lowest s is not shown to differ from the model's own lowest probability "
        "(AUC +0.750, 95% interval +0.000 to +0.125)",
    ]


def test_samples_that_were_cut_off_are_counted():
    told = summary()
    told["sets"]["cut_off"] = 161
    assert page_of_summary(told).lines[:2] == [
        "lab on gsm8k: 1,600 samples of 100 questions, 49.8% correct, 161 cut off",
        "cut off at the length limit: 161 of 1,600 responses; raise --max-tokens",
    ]


@pytest.mark.parametrize(("interval", "said"), [([0.1, 0.2], "better than"), ([-0.2, -0.1], "worse than")])
def test_what_tuning_gained_is_said(interval, said):
    told = summary()
    told["agreement"]["comparisons"][0]["auc_ci95"] = interval
    assert f"the lowest s is {said} the model's own lowest probability" in page_of_summary(told).lines[-1]


def test_the_agreement_has_every_scorer_and_its_difference_from_the_contrast():
    agreement, differences, _ = page_of_summary(summary()).sections
    assert agreement.title == "Finding the critical token: 17 trajectories of 12 problems"
    cells = ("0.250", "0.125 to 0.375", "0.500", "0.375 to 0.625", "0.750", "0.625 to 0.875")
    scorers = ("lowest s", "lowest probability", "highest entropy", "random")
    assert agreement.rows == [(scorer, *cells) for scorer in scorers]
    assert [cells[0] for cells in differences.rows] == list(scorers[1:])
    assert differences.rows[0][5:] == ("+0.750", "+0.000 to +0.125")
    assert differences.rows[1][1:3] == ("+0.250", "+0.125 to +0.375")


def test_an_auc_of_nothing_is_a_dash():
    told = summary()
    for entry in (*told["agreement"]["scorers"], *told["agreement"]["comparisons"]):
        entry |= {"auc": None, "auc_ci95": None}
    page = page_of_summary(told)
    assert any(line.startswith("the AUC is undefined") for line in page.lines)
    for table in page.sections[:2]:
        assert all(row[-2:] == ("–", "–") and "–" not in row[:-2] for row in table.rows)


def test_without_rollouts_there_is_the_chart_of_the_losses_alone():
    [chart] = page_of_summary(summary(agreement=False)).sections
    text = chart.svg()
    for label in ("positive model, on right responses", "negative model, on wrong responses"):
        assert f"<!-- {label} -->" in text
    for name in ("positive", "negative"):
        other = summary()
        other["training"][name]["losses"][1] += 0.1
        assert page_of_summary(other).sections[-1].svg() != text


def test_every_score_of_every_token_is_in_the_viewer(tmp_path):
    data = embedded(write_report(run(tmp_path, row(), row(1))).read_text())
    assert [score["key"] for score in data["scores"]] == ["s", "policy_prob", "entropy"]
    assert [shown["id"] for shown in data["rows"]] == ["p/0", "p/1"]
    for i, shown in enumerate(data["rows"]):
        assert shown["columns"] == {name: [i + 0.25, 0.5, j] for j, name in enumerate(COLUMNS)}
        assert (shown["tokens"], shown["ids"]) == ([" four", " pens", ""], [7, 8, 0])
        assert (shown["answer"], shown["gold"], shown["correct"]) == ("4", "3", False)


def test_the_critical_token_of_rollouts_is_marked(tmp_path):
    data = embedded(write_report(run(tmp_path, row(critical_index=1), row(1))).read_text())
    assert [shown.get("critical") for shown in data["rows"]] == [1, None]


@pytest.mark.parametrize(("change", "said"), [
    ({"critical_index": 3}, "critical_index must be one of the 3 tokens, but is 3"),
    ({"tokens": [" four"]}, "token_ids and tokens differ in length"),
    ({"scores": [1, 2, 3]}, "scores must be an object, but is"),
    ({"scores": {"s": [1, 2]}}, "the scores s must be numbers, one for each of the 3 tokens"),
    ({"scores": {"entropy": [1, 2, "x"]}}, "the scores entropy must be numbers"),
    ({"token_ids": "7"}, "token_ids must be a list of whole numbers"), ({"id": 7}, "column 'id' should be a string"),
])  # fmt: skip
def test_a_broken_row_is_named(tmp_path, change, said):
    shown = page(run(tmp_path, row(), row(**change)))
    with pytest.raises(UserError, match=rf"scores\.jsonl line 2: .*{said}"):
        list(shown.tokens.rows())


def test_a_run_without_scores_is_not_finished(tmp_path):
    (run(tmp_path) / "scores.jsonl").unlink()
    with pytest.raises(UserError, match=r"no finished run: there is no scores\.jsonl"):
        page(tmp_path)
