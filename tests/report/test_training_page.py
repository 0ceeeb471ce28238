"""The page of a training: every metric that was logged, in tables and curves, whatever the method."""

from __future__ import annotations

import json
import math
import re
from xml.etree import ElementTree

import pytest
from test_critical_page import parsed

from forkpoint.cli import main
from forkpoint.report.content import Chart, Table
from forkpoint.report.figures.training_figure import Band, MetricLine, curves_svg
from forkpoint.report.pages import training
from forkpoint.types import UserError

PREFERENCES = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen",
               "logps/rejected")  # fmt: skip
LEGEND = re.compile(r"<!-- (.*?) -->")


def row(step, *names, start=""):
    """A logged row, each value another."""
    values = {f"{start}{name}": 1 / (i + 2) + step / 1000 for i, name in enumerate(names)}
    return values | {"step": step, "epoch": step / 8}


def preference(*, held_out=False, kl=False):
    names = ("loss", *PREFERENCES, *(("kl/chosen", "kl/rejected") if kl else ()))
    history = [row(step, *names) | {"learning_rate": 4e-5, "grad_norm": 1.5} for step in (10, 20, 25)]
    if held_out:
        history[1:1] = [row(8, *names, start="eval_")]
        history.append(row(25, *names, start="eval_"))
    return {
        "method": "tdpo2" if kl else "critical-dpo", "model": "lab", "pairs": 1200, "steps": 25, "beta": 0.5,
        "alpha": 0.25 if kl else None, "tokens_in_an_epoch": 34567, "seed": 3, "history": history,
        "arguments": {"learning_rate": 1e-4, "num_train_epochs": 3.0, "per_device_train_batch_size": 8},
    }  # fmt: skip


def pretraining(method):
    names = ("loss", "loss/all", "selection/share")
    if method == "slm":
        names += ("loss/unselected", *(f"selection/documents_{what}" for what in ("none", "p10", "p50", "p90")))
    history = [*(row(step, *names) for step in (5, 10)), {"eval_loss": 0.334, "step": 10, "epoch": 1.0}]
    return {
        "method": method, "model": "lab", "rows": 600, "steps": 10, "tokens_in_an_epoch": 86810, "seed": 0,
        "rule": {"score": "excess_loss", "ratio": 0.6, "scope": "batch"}, "arguments": {}, "history": history,
    }  # fmt: skip


def charts(page):
    return {section.title: section for section in page.sections if isinstance(section, Chart)}


def tables(page):
    return {section.title: section for section in page.sections if isinstance(section, Table)}


def legend(chart):
    """All that is written in a chart but numbers."""
    return [text for text in LEGEND.findall(chart.svg()) if not re.fullmatch(r"[−\d.]+", text)]


# What is said


def test_a_preference_training_says_its_data_and_constants():
    page = training.page_of_summary(preference(kl=True))
    assert page.title == "Training by tdpo2: lab"
    assert page.lines == [
        "lab, tdpo2: 1,200 pairs, 25 steps, 34,567 tokens an epoch",
        "beta 0.5, alpha 0.25, learning rate 0.0001, epochs 3, batch size 8, seed 3",
    ]
    assert "alpha" not in training.page_of_summary(preference()).lines[1]


def test_pretraining_says_its_rule_where_it_has_one():
    assert training.page_of_summary(pretraining("slm")).lines == [
        "lab, slm: 600 rows, 10 steps, 86,810 tokens an epoch",
        "rule excess_loss, ratio 0.6, scope batch, seed 0",
    ]
    assert training.page_of_summary(pretraining("clm")).lines[1] == "seed 0"


def test_the_ends_of_every_metric_are_in_a_table_with_three_decimals():
    table = tables(training.page_of_summary(preference(held_out=True)))["Metrics at the beginning and at the end"]
    assert table.columns == ("metric", "up to step 10", "up to step 25", "held out, step 8", "held out, step 25")
    assert [cells[0] for cells in table.rows] == ["loss", *PREFERENCES]
    assert table.rows[0] == ("loss", "0.510", "0.525", "0.508", "0.525")
    assert table.rows[5] == ("logps/chosen", "0.153", "0.168", "0.151", "0.168")


def test_what_was_logged_once_has_one_column():
    summary = preference()
    summary["history"] = summary["history"][:1]
    table, steps = tables(training.page_of_summary(summary)).values()
    assert table.columns == ("metric", "up to step 10")
    assert len(steps.rows) == 1


def test_the_loss_of_held_out_text_is_not_taken_for_one_of_selected_tokens():
    slm, clm = (
        tables(training.page_of_summary(pretraining(method)))["Metrics at the beginning and at the end"]
        for method in ("slm", "clm")
    )
    assert slm.rows[0] == ("loss", "0.505", "0.510", "0.334")
    assert slm.rows[1][3] == ""
    assert slm.note == "The loss of held-out text is that of all its tokens."
    assert clm.note == ""


def test_every_step_is_in_a_folded_table_with_all_that_was_logged_at_it():
    table = tables(training.page_of_summary(preference(held_out=True)))["Every logged step"]
    assert table.folded
    assert [cells[0] for cells in table.rows] == ["10", "8", "20", "25"]
    own = ("loss", *PREFERENCES, "epoch", "grad_norm", "learning_rate")
    held_out = [f"eval_{name}" for name in ("loss", *PREFERENCES)]
    assert table.columns == ("step", *own, *held_out)
    last = dict(zip(table.columns, table.rows[-1], strict=True))
    assert (last["loss"], last["eval_loss"], last["learning_rate"], last["epoch"]) == ("0.525",) * 2 + (
        "4.00e-05", "3.125",
    )  # fmt: skip
    assert dict(zip(table.columns, table.rows[1], strict=True))["loss"] == ""


def test_of_very_many_steps_some_are_listed(monkeypatch):
    monkeypatch.setattr(training, "MOST_STEPS", 10)
    summary = preference()
    summary["history"] = [row(step, "loss") for step in range(1, 26)]
    table = tables(training.page_of_summary(summary))["One in 3 of the logged steps"]
    assert [cells[0] for cells in table.rows] == ["1", "4", "7", "10", "13", "16", "19", "22", "25"]


def test_a_training_that_logged_nothing_has_its_sentences_alone():
    summary = preference() | {"history": []}
    assert not training.page_of_summary(summary).sections


# What is drawn


@pytest.mark.parametrize(("summary", "titles"), [
    (preference(), ["Loss", "Log-probability of the responses", "Rewards", "Accuracy of the rewards"]),
    (preference(kl=True), ["Loss", "Log-probability of the responses", "Rewards", "Accuracy of the rewards",
                           "Divergence from the reference"]),
    (pretraining("slm"), ["Loss", "Tokens selected"]), (pretraining("clm"), ["Loss"]),
    (preference() | {"method": "sft", "history": [row(5, "loss", "mean_token_accuracy")]},
     ["Loss", "Accuracy on tokens"]),
])  # fmt: skip
def test_a_chart_is_there_where_its_metrics_are(summary, titles):
    assert list(charts(training.page_of_summary(summary))) == titles


def test_the_curves_of_chosen_and_rejected_are_told_apart_from_those_of_held_out_pairs():
    shown = charts(training.page_of_summary(preference(held_out=True, kl=True)))
    both = ["chosen", "chosen, held out", "rejected", "rejected, held out"]
    axes = ["step", "mean log-probability of a response (nats)"]
    assert sorted(legend(shown["Log-probability of the responses"])) == sorted(both + axes)
    assert {*both, "margins", "margins, held out"} < set(legend(shown["Rewards"]))
    assert set(both) < set(legend(shown["Divergence from the reference"]))
    assert {"training pairs", "held-out pairs"} < set(legend(shown["Loss"]))


def test_the_losses_of_selective_modeling_are_four_curves_and_the_share_has_a_band():
    shown = charts(training.page_of_summary(pretraining("slm")))
    assert {"selected tokens", "tokens left out", "all tokens", "held-out text, all tokens"} < set(
        legend(shown["Loss"])
    )
    words = {"documents, 10% to 90% of them", "median document", "all documents"}
    assert words < set(legend(shown["Tokens selected"]))


def test_the_first_chart_says_over_how_many_steps_a_point_is_the_mean():
    notes = [chart.note for chart in charts(training.page_of_summary(preference(held_out=True))).values()]
    many = "A point of the training is the mean over the 5 to 10 steps since the point before it"
    assert notes == [f"{many}; a held-out one is of that step alone.", "", "", ""]
    even = preference() | {"history": [row(step, "loss") for step in (10, 20)]}
    [chart] = charts(training.page_of_summary(even)).values()
    assert chart.note == "A point of the training is the mean over the 10 steps since the point before it."


@pytest.mark.parametrize("name", ["loss", *PREFERENCES, "kl/chosen", "kl/rejected", "eval_loss", "eval_logps/chosen"])
def test_every_chart_is_drawn_from_its_numbers(name):
    """Another value changes the one chart that it belongs to."""
    before, after = (charts(training.page_of_summary(preference(held_out=True, kl=True))) for _ in range(2))
    changed = preference(held_out=True, kl=True)
    next(entry for entry in changed["history"] if name in entry)[name] += 0.3
    after = charts(training.page_of_summary(changed))
    different = [title for title in before if before[title].svg() != after[title].svg()]
    words = {"loss": "Loss", "logps": "Log-probability of the responses", "kl": "Divergence from the reference"}
    group = name.removeprefix("eval_").split("/")[0]
    accuracy = name == "rewards/accuracies"
    assert different == [words.get(group) or ("Accuracy of the rewards" if accuracy else "Rewards")]


def drawn(curves, **options):
    return ElementTree.fromstring(curves_svg(curves, "loss", **options))


def groups(tree, start):
    return sum(element.get("id", "").startswith(start) for element in tree.iter())


def test_the_figure_is_the_same_each_time_and_a_single_curve_has_no_legend():
    curve = MetricLine("training", [1, 2, 3], [0.5, 0.4, 0.3])
    assert curves_svg([curve], "loss") == curves_svg([curve], "loss")
    assert groups(drawn([curve]), "legend_") == 0
    assert groups(drawn([curve, MetricLine("held out", [3], [0.4], held_out=True)]), "legend_") == 1
    assert groups(drawn([curve], band=Band("most", [1, 3], [0, 0], [1, 1])), "legend_") == 1
    assert groups(drawn([curve], band=Band("most", [1, 3], [0, 0], [1, 1])), "FillBetweenPolyCollection_") == 1


def test_many_points_have_no_markers_but_those_of_held_out_data():
    def markers(n, *, held_out):
        tree = drawn([MetricLine("training", range(n), [math.sin(i) for i in range(n)], held_out=held_out)])
        lines = [element for element in tree.iter() if element.get("id", "").startswith("line2d_")]
        return max(sum(part.tag.endswith("use") for part in line.iter()) for line in lines)

    assert (markers(30, held_out=False), markers(200, held_out=False), markers(200, held_out=True)) == (30, 1, 200)


# The page


def test_a_finished_run_is_drawn_by_the_report_verb(tmp_path, capsys):
    summary = preference(held_out=True) | {"model": "<script>alert(1)</script>"}
    (tmp_path / "config.json").write_text(json.dumps({"verb": "train", "method": "critical-dpo"}))
    with pytest.raises(UserError, match=r"no finished run: there is no summary\.json"):
        training.page(tmp_path)
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert main(["report", str(tmp_path)]) == 0
    tags = parsed((tmp_path / "report.html").read_text())
    assert "Training by critical-dpo: <script>alert(1)</script>" in "".join(tags.text)
    assert tags.tags.count("svg") == 4
    assert tags.tags.count("table") == 2
