"""The page of rounds: a row and a point a round, also of a run that stopped."""

from __future__ import annotations

import json

import pytest
from test_critical_page import parsed

from forkpoint.report import write_report
from forkpoint.report.pages.rounds import page_of_summary
from forkpoint.types import UserError

FIGURES = ("greedy_accuracy", "sampled_accuracy", "pass@1", "pass@4", "distinct_answers", "distinct_responses",
           "correct_logprob")  # fmt: skip


def summary(kind="none", *, stopped=None):
    held_out = {name: 0.5 + i / 100 for i, name in enumerate(FIGURES)}
    held_out |= {f"{name}_ci95": [value - 0.1, value + 0.1] for name, value in held_out.items()}
    samples = {"samples": 480, "wrong": 246, "trained": 1067, "tokens": 2746, "masked_tokens": 534}
    results = [{"round": 0, "held_out": held_out}, {"round": 1, "samples": samples, "held_out": held_out}]
    if stopped:
        results.append({"round": 2, "samples": samples | {"trained": 0}})
    return {
        "verb": "rounds", "model": "lab", "task": "gsm8k", "rounds": 2, "n": 8, "eval_n": 7, "prompt": "cot",
        "sampling": {"temperature": 0.7, "seed": 5}, "results": results, "stopped": stopped,
        "filter": {"kind": kind, "keep_quantile": 0.25, "max_token_probability": 0.9},
    }  # fmt: skip


@pytest.mark.parametrize(("kind", "said"), [
    ("none", "no filter"), ("example", "the 25% least likely right responses"),
    ("token", "tokens of a probability up to 0.9"),
])  # fmt: skip
def test_the_sentences_say_what_was_trained_on(kind, said):
    page = page_of_summary(summary(kind))
    assert page.title == "Rounds: lab on gsm8k"
    assert page.lines == [
        f"tuned on its own right responses: {said}",
        "rounds 2, n 8, eval_n 7, prompt cot, temperature 0.7, seed 5",
    ]


def test_a_row_a_round_with_the_largest_k():
    table, chart = page_of_summary(summary()).sections
    assert table.columns == ("round", "right", "cut off", "tuned on", "tokens", "greedy", "sampled", "pass@4",
                             "answers", "responses", "cut off")  # fmt: skip
    figures = ("50.0% (40 to 60)", "51.0% (41 to 61)", "53.0% (43 to 63)", "0.54", "0.55")
    assert table.rows == [
        ("0", "", "", "", "", *figures, "–"), ("1", "48.8%", "–", "1,067", "2,212", *figures, "–"),
    ]  # fmt: skip
    assert "how many of 7 differ" in table.note
    assert chart.svg().startswith("<svg")


def test_responses_that_were_cut_off_are_counted():
    found = summary()
    for row in found["results"]:
        row["held_out"] = row["held_out"] | {"samples": 40, "cut_off": 4 + row["round"]}
    found["results"][1]["samples"]["cut_off"] = 60
    page = page_of_summary(found)
    assert [(row[2], row[-1]) for row in page.sections[0].rows] == [("", "4"), ("60", "5")]
    assert page.lines[-1] == (
        "cut off at the length limit: round 1, 60 of 480 responses; "
        "round 1 on held-out problems, 5 of 40 responses; raise --max-tokens"
    )


def test_a_run_that_stopped_says_why_and_shows_the_rounds_before():
    page = page_of_summary(summary(stopped="round 2 has nothing to tune on"))
    assert page.lines[-1] == "round 2 has nothing to tune on"
    table, chart = page.sections
    assert table.rows[2] == ("2", "48.8%", "–", "0", "2,212", "", "", "", "", "", "")
    assert chart.svg() == page_of_summary(summary()).sections[1].svg()


def test_the_page_holds_table_and_chart(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"verb": "rounds"}))
    with pytest.raises(UserError, match="is not finished; the same command"):
        write_report(tmp_path)
    (tmp_path / "summary.json").write_text(json.dumps(summary()))
    tags = parsed(write_report(tmp_path).read_text())
    assert (tags.tags.count("svg"), tags.tags.count("table")) == (1, 1)
    assert "Rounds: lab on gsm8k" in tags.text
