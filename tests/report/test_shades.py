"""Texts in a terminal and a notebook: shaded by the scores' numbers, and safe with hostile text."""

from __future__ import annotations

import io
import math
import re

import numpy as np
import pytest
from browser import parsed
from made_up_runs import HOSTILE, rows_of
from rich.console import Console

import forkpoint.report.notebook  # tells types how a notebook shows them
from forkpoint.cli import main
from forkpoint.report import Table, page_of
from forkpoint.report.shades import SCORES, Shade, ShownScore, shade, values_of
from forkpoint.report.terminal import print_responses, print_table
from forkpoint.report.viewer import heading_of
from forkpoint.scores.trajectory_scores import with_tokens
from forkpoint.types import Problem, Sampling, TokenScores, Trajectory

ESCAPE = "\x1b[31m\x9b31m\x07\u202e\u2066\u2028"


@pytest.fixture
def critical(run_of):
    rows = rows_of(run_of("critical") / "critical.jsonl")
    return next(row for row in rows if row["status"] == "critical")


def printed(rows, key=None, **console):
    file = io.StringIO()
    print_responses(rows, key, Console(file=file, width=200, **console))
    return file.getvalue()


@pytest.mark.parametrize(("value", "light", "strong", "two_sided", "expected"), [
    (1.0, 1, 0, False, Shade(0)), (0.0, 1, 0, False, Shade(9)), (0.45, 1, 0, False, Shade(5)),
    (None, 1, 0, False, Shade(0)), (-1.0, 0, 2, True, Shade(5, below=True)), (-9.0, 0, 2, False, Shade(0)),
])  # fmt: skip
def test_a_shade_grows_from_light_to_strong(value, light, strong, two_sided, expected):
    assert shade(value, ShownScore("x", "x", light, strong, two_sided)) == expected


def test_success_and_drop_are_read_off_the_curve():
    row = {"success": [1.0, 0.5, None, 0.25]}
    assert values_of(row, "success") == [0.5, None, 0.25]
    assert values_of(row, "drop") == [0.5, None, None]
    assert values_of({"gap": [0.5, math.nan, None]}, "gap") == [0.5, None, None]


@pytest.mark.parametrize(("row", "words"), [
    ({}, ""),
    ({"answer": "7", "gold": "8", "correct": False}, ", ✗ 7, gold 8"),
    ({"status": "undecided", "critical_index": 3}, ", undecided, candidate at 3"),
    ({"answer": "9", "gold": "8", "correct": None, "note": "Δ 0.240"}, ", answer 9, not graded, gold 8, Δ 0.240"),
    ({"answer": "7", "correct": True, "finish_reason": "length"}, ", ✓ 7, gold not known, cut off at the length limit"),
])  # fmt: skip
def test_a_heading_says_what_is_known(row, words):
    assert heading_of(row | {"id": "a"}) == f"a{words}"


def test_a_terminal_without_colours_gets_marks(critical, monkeypatch):
    text, at = printed([critical]), critical["critical_index"]
    assert f"[[{critical['tokens'][at]}]]" in text
    assert f"critical token at {at}" in text
    assert "\x1b" not in text
    drops = values_of(critical, "drop")
    strongest = max(range(len(drops)), key=lambda t: drops[t] or 0)
    assert re.search(rf" {strongest} +{drops[strongest]:.3f}", text)
    row = {"id": "a", "tokens": ["x", "y", "z", "w"], "token_ids": [1, 2, 3, 4], "gap": [1.0, 0.5, 0.5, 0.9]}
    assert "\nx[yz]w\n" in printed([row])
    assert "[typo: yz]" in printed([row | {"noise": [None, "typo", "typo", None]}])
    monkeypatch.setenv("NO_COLOR", "1")
    assert f"[[{critical['tokens'][at]}]]" in printed([critical], force_terminal=True, color_system="256")


def test_a_terminal_with_colours_shows_the_whole_text(critical, run_of):
    for row, key in ((critical, "entropy"), (next(page_of(run_of("documents")).tokens.rows()), "class")):
        text = printed([row], key, color_system="standard", force_terminal=True)
        assert "\x1b[" in text
        assert "".join(row["tokens"]).strip() in re.sub(r"\x1b\[[\d;]*m", "", text)


def test_no_control_sequence_of_a_model_reaches_the_terminal(critical):
    texts = dict.fromkeys(("id", "question", "answer"), ESCAPE)
    text = printed([critical | texts | {"tokens": [ESCAPE] * len(critical["tokens"])}])
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", text)
    assert "␛[31m" in text


def test_nothing_of_a_table_is_cut_in_a_narrow_terminal():
    cells = ["lowest probability", "0.235", "0.096 to 0.473", "0.510", "0.372 to 0.657", "0.964", "0.945 to 0.979"]
    file = io.StringIO()
    print_table(Table("t", ["scorer", *["95% interval"] * 6], [cells]), Console(file=file, width=80))
    assert all(word in file.getvalue() for cell in cells for word in cell.split())


def test_show_prints_the_responses_asked_for(run_of, capsys):
    run = run_of("critical")
    rows = rows_of(run / "critical.jsonl")
    for arguments, shown in ((["--limit=2"], rows[:2]), (["--id", rows[0]["problem_id"]], rows[:2]),
                             (["--id", rows[3]["id"], "--score=gap"], rows[3:4])):  # fmt: skip
        assert main(["show", str(run), *arguments]) == 0
        text = capsys.readouterr().out
        assert [row["id"] in text for row in rows[:5]] == [row in shown for row in rows[:5]]
        assert ("What the critical tokens are" in text) == (arguments == ["--limit=2"])
    for arguments, fact in ((["--id=nobody"], "nobody"), (["--score=loss"], "there is success, drop, policy_prob"),
                            (["--limit=-1"], "-1")):  # fmt: skip
        assert main(["show", str(run), *arguments]) == 2
        assert fact in capsys.readouterr().err


# Notebooks


def test_a_notebook_shows_the_scores_of_a_trajectory(lab):
    sampling = Sampling(temperature=1.5, max_tokens=60)
    problems = forkpoint.load_problems("lab", limit=1)
    (trajectory,) = forkpoint.sample_trajectories(lab, problems, sampling, n=1, prompt="cot")
    (scores,) = forkpoint.score_trajectories(lab, [trajectory], sampling)
    assert "".join(scores.tokens) == lab.tokenizer.decode(trajectory.token_ids, skip_special_tokens=True)
    html = scores._repr_html_()
    for score in SCORES:
        assert (f"{score.label}: no shade at" in html) == (score.key in scores.columns)
    for name, column in scores.columns.items():
        assert f"{name} {column[0]:.4g}" in html


@pytest.mark.parametrize(
    "columns", [{"logprob": [-1.0, 2.0]}, {"mine": [0.5, 0.25]}, {}, {"loss": [math.inf, math.nan]}]
)
def test_a_notebook_shows_the_text_without_a_score_that_it_knows(columns):
    trajectory = Trajectory("p/0", Problem("p", "How many?", "7", "number"), (1,), (2, 3), "7", True, "stop")
    scores = TokenScores(trajectory, {k: np.array(v) for k, v in columns.items()}, (" seven", " pens"))
    html = scores._repr_html_()
    assert "".join(parsed(html).text).count(" seven pens") == 1
    assert "style=" not in html
    assert ("mine 0.5" in html) == ("mine" in columns)


def test_nothing_of_hostile_scores_executes_in_a_notebook():
    trajectory = Trajectory(HOSTILE, Problem(HOSTILE, HOSTILE, HOSTILE, "number"), (1,), (2, 3), HOSTILE, False, "stop")
    scores = TokenScores(trajectory, {"gap": np.array([0.2, np.nan])})
    assert "⟨2⟩" in scores._repr_html_()

    class Hostile:
        backend_tokenizer = None

        def decode(self, ids, **_):
            return HOSTILE * len(ids)

    tags = parsed(with_tokens(scores, Hostile())._repr_html_())
    assert not {"script", "img"} & set(tags.tags)
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    assert "".join(tags.text).count(HOSTILE) >= 3
