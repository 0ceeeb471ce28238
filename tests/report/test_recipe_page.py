"""The page of a recipe's run, of made-up stages: their table, and what evaluations and trainings came to."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from forkpoint.evaluation.statistics import paired_difference
from forkpoint.report import Link, page_of, write_report
from forkpoint.report.figures.ratios import ratios_svg
from forkpoint.types import UserError


def stage(verb, done=True, **options):
    return {"verb": verb, "options": options, "done": done, "seconds": 12.5 if done else 0.0}


def evaluation(greedy, task="lab"):
    told = {"ci95": [greedy - 0.1, greedy + 0.1], "tokens_generated": 4321}
    strategies = [
        {"strategy": "greedy", "accuracy": greedy, **told},
        {"strategy": "<b>sample</b>", "accuracy": 0.5, **told},
    ]
    return {"task": task, "n_problems": 1300, "strategies": strategies}


def training(method, loss, rule=("none", 1.0), corpus="corpus.jsonl"):
    history = [{"step": 5, "eval_loss": 9.0}, {"step": 10, "loss": 1.0}, {"step": 10, "eval_loss": loss}]
    told = {"verb": "train", "method": method, "rule": {"score": rule[0], "ratio": rule[1]}, "steps": 10}
    return told | {"corpus": corpus, "eval_data": "held-out.jsonl", "history": history}


STAGES = {
    "score": stage("score"),
    "clm": stage("train clm", store="{score}"),
    "slm-60": stage("train slm", store="{score}", ratio=0.6, snapshots=5),
    "slm-30": stage("train slm", store="{score}", ratio=0.3),
    "drawn": stage("train slm", store="{score}", rule="random", ratio=0.6),
    "silent": stage("train sft", pairs="elsewhere"),
    "before": stage("eval", model="lab"),
    "after": stage("eval", model="{slm-60}/model", data=["{score}", "{score}/x"]),
    "elsewhere": stage("eval", task="gsm8k"),
    "last": stage("critical", done=False, trajectories="{after}"),
}
FILES = {
    "clm/summary.json": training("clm", 2.5),
    "slm-60/summary.json": training("slm", 1.25, ("excess_loss", 0.6)),
    "slm-30/summary.json": training("slm", 1.5, ("excess_loss", 0.3)),
    "drawn/summary.json": training("slm", 2.75, ("random", 0.6)),
    "silent/summary.json": {"method": "sft", "steps": 3, "history": [{"loss": 1.0}]},
    "before/results.json": evaluation(0.4),
    "after/results.json": evaluation(0.6),
    "elsewhere/results.json": evaluation(0.3, "gsm8k"),
}


def write_records(out, stages, **content):
    verbs = {name: told["verb"] for name, told in stages.items()}
    (out / "recipe.json").write_text(json.dumps({"recipe": "mine", "verbs": verbs, "stages": stages} | content))


@pytest.fixture
def run(tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "before/report.html").write_text("<p>before</p>")
    write_records(tmp_path, STAGES)
    return tmp_path


def section(run, title):
    return next(section for section in page_of(run).sections if section.title == title)


def test_stages_are_told_with_their_pages(run):
    page = page_of(run)
    assert page.title == "Recipe mine"
    assert page.lines == ["9 of 10 stages are done, in 112.5 seconds."]
    rows = dict(zip(STAGES, section(run, "Stages").rows, strict=True))
    assert rows["before"] == (Link("before", "before/report.html"), "eval", "", "done", "12.5")
    assert rows["after"] == ("after", "eval", "slm-60, score", "done", "12.5")
    assert rows["last"] == ("last", "critical", "after", "not done", "")
    text = write_report(run).read_text(encoding="utf-8")
    assert '<a href="before/report.html">before</a>' in text
    assert "<b>sample" not in text


def test_stages_are_the_recipes_own_whether_started_or_not(run):
    verbs = {"before": "eval", "later": "train sft", "after": "eval"}
    write_records(run, STAGES, verbs=verbs)
    assert page_of(run).lines == ["2 of 3 stages are done, in 25.0 seconds."]
    rows = section(run, "Stages").rows
    assert [(row[1], row[3]) for row in rows] == [("eval", "done"), ("train sft", "not done"), ("eval", "done")]


def test_the_same_strategys_accuracies_stand_beneath_each_other_by_task(run):
    rows = [tuple(row[:5]) for row in section(run, "Evaluations on lab").rows]
    assert rows == [
        ("greedy", "before", "40.0%", "30.0 to 50.0", "1,300"),
        ("greedy", "after", "60.0%", "50.0 to 70.0", "1,300"),
        ("<b>sample</b>", "before", "50.0%", "30.0 to 50.0", "1,300"),
        ("<b>sample</b>", "after", "50.0%", "50.0 to 70.0", "1,300"),
    ]
    assert [row[1] for row in section(run, "Evaluations on gsm8k").rows] == ["elsewhere", "elsewhere"]
    drawn = section(run, "Accuracy on lab with 95% intervals").svg()
    assert "<!-- greedy, after -->" in drawn
    assert ElementTree.fromstring(drawn).tag.endswith("svg")


def paired(run, stage, scores, problems="3 (contents ab)", prompt="plain", strategy="greedy"):
    """An evaluation's files with these scores by problem, and one right answer of a strategy of its own."""
    told = {"task": "lab", "prompt": prompt, "n_problems": len(scores), "strategies": []}
    rows = [(strategy, name, score) for name, score in scores.items()] + [(f"only {stage}", "p", 1.0)]
    (run / stage / "results.json").write_text(json.dumps(told))
    (run / stage / "config.json").write_text(json.dumps({"verb": "eval", "problems": problems}))
    (run / stage / "samples.jsonl").write_text(
        "".join(json.dumps({"strategy": s, "problem_id": p, "score": score}) + "\n" for s, p, score in rows)
    )


AGAINST = 'Against the stage "before" on lab, problem by problem'
BEFORE = {f"p{i}": float(i >= 6) for i in range(8)}
AFTER = {f"p{i}": float(i < 7) for i in reversed(range(8))}  # paired by id, whatever the order


@pytest.fixture
def before_and_after(run):
    """The run with evaluations of the same problems before and after, and a third after them."""
    (run / "later").mkdir()
    write_records(run, STAGES | {"later": stage("eval")})
    for name, scores in (("before", BEFORE), ("after", AFTER), ("later", BEFORE)):
        paired(run, name, scores)
    return run


def test_evaluations_of_the_same_problems_are_compared_with_the_first(before_and_after):
    table = section(before_and_after, AGAINST)
    low, high = paired_difference(list(BEFORE.values()), list(reversed(AFTER.values()))).ci95
    assert table.rows == [
        ("greedy", "after", "+62.5", f"{100 * low:+.1f} to {100 * high:+.1f}", f"{16 / 128:.2g}", f"{16 / 64:.2g}"),
        ("greedy", "later", "+0.0", "-32.4 to +32.4", "1", "1"),
    ]
    assert list(table.columns) == ["strategy", "stage", "difference", "95% interval", "p", "p (Holm)"]
    assert table.note == "Points; mcnemar-exact."


@pytest.mark.parametrize("other", [{"problems": "3 (contents cd)"}, {"prompt": "cot"}, {"strategy": "sample"}])
def test_evaluations_of_something_else_are_not_compared(before_and_after, other):
    paired(before_and_after, "after", AFTER, **other)
    assert [row[1] for row in section(before_and_after, AGAINST).rows] == ["later"]
    paired(before_and_after, "later", BEFORE, **other)
    paired(before_and_after, "before", BEFORE)
    titles = [section.title for section in page_of(before_and_after).sections]
    assert AGAINST not in titles
    assert ('Against the stage "after" on lab, problem by problem' in titles) == ("strategy" not in other)


def test_broken_scores_are_refused(before_and_after):
    with (before_and_after / "after/samples.jsonl").open("a") as file:
        file.write('{"strategy": 3}\n')
    with pytest.raises(UserError, match=r"after/samples\.jsonl line 10 is broken"):
        page_of(before_and_after)


def test_trainings_are_compared_by_their_last_held_out_loss(run):
    rows = [tuple(row) for row in section(run, "Held-out loss of the trainings").rows]
    assert rows == [
        ("clm", "clm", "all", "10", "2.500"),
        ("slm-60", "slm", "excess_loss 60%", "10", "1.250"),
        ("slm-30", "slm", "excess_loss 30%", "10", "1.500"),
        ("drawn", "slm", "random 60%", "10", "2.750"),
    ]


def test_a_sweep_of_ratios_is_a_chart(run):
    drawn = section(run, "Held-out loss by the share of the tokens").svg()
    assert drawn == ratios_svg({"excess loss": [(0.6, 1.25), (0.3, 1.5)]}, {"clm": 2.5})
    for said in ("excess loss", "clm, all tokens", "held-out loss (nats)"):
        assert f"<!-- {said} -->" in drawn
    assert drawn != ratios_svg({"excess loss": [(0.6, 1.25), (0.3, 1.75)]}, {"clm": 2.5})
    assert drawn != ratios_svg({"excess loss": [(0.6, 1.25), (0.3, 1.5)]}, {"clm": 2.0})


@pytest.mark.parametrize("other", [{"ratio": 0.6}, {"ratio": 0.3, "learning_rate": 1}])
def test_trainings_that_differ_otherwise_are_no_sweep(run, other):
    stages = STAGES | {"slm-30": stage("train slm", store="{score}", **other)}
    summary = training("slm", 1.5, ("excess_loss", other["ratio"]))
    write_records(run, stages)
    (run / "slm-30/summary.json").write_text(json.dumps(summary))
    assert "Held-out loss by the share of the tokens" not in [section.title for section in page_of(run).sections]


def test_a_clm_on_other_text_is_no_line_of_the_chart(run):
    (run / "clm/summary.json").write_text(json.dumps(training("clm", 2.5, corpus="clean.jsonl")))
    assert "all tokens" not in section(run, "Held-out loss by the share of the tokens").svg()


def test_a_file_of_others_is_refused(run):
    (run / "recipe.json").write_text('{"stages": 3}')
    with pytest.raises(UserError, match="is not what `forkpoint run` writes"):
        page_of(run)
