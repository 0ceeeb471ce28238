"""Shades in a terminal and a notebook: those of the token viewer, from the same numbers, and safe with hostile text."""

from __future__ import annotations

import io
import math
import re
from importlib import import_module
from typing import get_type_hints

import numpy as np
import pytest
from browser import browser
from made_up_documents import made_up_documents, write_documents
from made_up_run import made_up_rows, write_run
from rich.console import Console
from test_report import HOSTILE, Tags

import forkpoint
from forkpoint.cli import main
from forkpoint.report import Page, Table, Tokens, page_of, write_report
from forkpoint.report.coloured import print_responses
from forkpoint.report.notebook import page_html
from forkpoint.report.page import PAGES
from forkpoint.report.shades import Shade, heading_of, names_of, scores_of, shade, shades_of, spelled_of, values_of
from forkpoint.report.shown_scores import SCORES, Category, ShownScore
from forkpoint.report.terminal import print_table
from forkpoint.scores.trajectory_scores import with_tokens
from forkpoint.types import Problem, Results, Sampling, TokenScores, Trajectory

ESCAPE = "\x1b[31m\x9b31m\x07\u202e\u2066\u2028"
CLASSES = (
    "(key => {{ const s = document.getElementById('score'); s.value = key; s.dispatchEvent(new Event('change'));"
    "return [...document.querySelectorAll('.token')]"
    ".map(t => [...t.classList].filter(c => /^(s[0-9]|below)$/.test(c)).join(' ')) }})('{}')"
)


@pytest.fixture(scope="module")
def rows(lab):
    return made_up_rows(lab, problems=3, n=2)


@pytest.fixture(scope="module")
def critical(rows):
    return next(row for row in rows if row["status"] == "critical")


def printed(rows, key=None, **console):
    file = io.StringIO()
    print_responses(rows, key, Console(file=file, width=200, **console))
    return file.getvalue()


@pytest.mark.parametrize(
    ("value", "light", "strong", "two_sided", "expected"),
    [
        (1.0, 1, 0, False, Shade(0)),
        (0.0, 1, 0, False, Shade(9)),
        (0.45, 1, 0, False, Shade(5)),
        (2.0, 1, 0, False, Shade(0)),
        (None, 1, 0, False, Shade(0)),
        (-1.0, 0, 2, True, Shade(5, below=True)),
        (1.0, 0, 2, True, Shade(5)),
        (-9.0, 0, 2, False, Shade(0)),
    ],
)
def test_a_shade_grows_from_light_to_strong(value, light, strong, two_sided, expected):
    assert shade(value, light, strong, two_sided=two_sided) == expected


@pytest.mark.parametrize(("row", "said"), [
    ({"id": "a"}, "a"),
    ({"id": "a", "answer": "7", "gold": "8", "correct": False}, "a, ✗ 7, gold 8"),
    ({"id": "a", "answer": None, "gold": "8", "correct": False, "critical_index": 3},
     "a, ✗ no answer, gold 8, critical token at 3"),
    ({"id": "a", "status": "undecided", "critical_index": 3}, "a, undecided, candidate at 3"),
    ({"id": "a", "answer": "9", "gold": "8", "correct": None, "note": "Δ 0.240"},
     "a, answer 9, not graded, gold 8, Δ 0.240"),
    ({"id": "a", "answer": None, "gold": "8", "correct": None, "note": "left out: length"},
     "a, no answer, gold 8, left out: length"),
    ({"id": "a", "answer": "7", "correct": True}, "a, ✓ 7, gold not known"),
])  # fmt: skip
def test_a_heading_says_what_is_known(row, said):
    assert heading_of(row) == said


@pytest.mark.parametrize(("reason", "last"), [("stop", "⟨end⟩"), ("length", "")])
def test_the_end_of_a_response_is_named(reason, last):
    row = {"id": "a", "token_ids": [5, 0], "tokens": ["a", ""], "finish_reason": reason}
    assert spelled_of(row) == ["a", last]
    assert (last or "◌") in page_html(Page("", tokens=Tokens(lambda: iter([row]), "")))


def test_success_and_drop_are_read_off_the_curve():
    row = {"success": [1.0, 0.5, None, 0.25]}
    assert values_of(row, "success") == [0.5, None, 0.25]
    assert values_of(row, "drop") == [0.5, None, None]
    assert values_of({"gap": [0.5, math.nan, None]}, "gap") == [0.5, None, None]


def test_the_shades_are_those_of_the_page(rows, tokenizer, tmp_path):
    documents, summary = made_up_documents(tokenizer, n=1)
    pages = [
        (write_run(tmp_path / "run", rows[:1]), rows[0]),
        (write_documents(tmp_path / "d", documents, summary), documents[0]),
    ]
    compared = 0
    with browser(tmp_path / "profile") as tab:
        for run, row in pages:
            tab.open(write_report(run).as_uri())
            for score in (s for s in scores_of(row) if isinstance(s, ShownScore)):
                own = [f"s{s.strength}" + (" below" if s.below else "") for s in shades_of(row, score)]
                assert tab.run(CLASSES.format(score.key)) == own, score.key
                compared += len(own)
    assert compared > 300


def test_a_terminal_without_colours_gets_marks(critical):
    text = printed([critical])
    at = critical["critical_index"]
    assert f"[[{critical['tokens'][at]}]]" in text
    assert critical["question"] in text
    assert f"✗ {critical['answer']}, gold {critical['gold']}, critical token at {at}" in text
    assert "\x1b" not in text
    drops = values_of(critical, "drop")
    strongest = max(range(len(drops)), key=lambda t: drops[t] or 0)
    assert re.search(rf" {strongest} +{drops[strongest]:.3f}", text)


def test_a_terminal_whose_user_wants_no_colour_gets_marks(critical, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    text = printed([critical], force_terminal=True, color_system="256")
    assert f"[[{critical['tokens'][critical['critical_index']]}]]" in text


def test_a_score_is_looked_for_beyond_the_first_responses(rows, tmp_path, capsys):
    bare = {k: v for k, v in rows[0].items() if k != "gap"} | {"id": "bare"}
    run = write_run(tmp_path, [bare, *rows])
    assert main(["show", str(run), "--score", "gap", "--limit", "1"]) == 0
    shown = capsys.readouterr().out
    assert rows[0]["id"] in shown
    assert "bare" not in shown


@pytest.mark.parametrize("width", [80, 100])
def test_nothing_of_a_table_is_cut_in_a_narrow_terminal(width):
    cells = ["lowest probability", "0.235", "0.096 to 0.473", "0.510", "0.372 to 0.657", "0.964", "0.945 to 0.979"]
    headings = ["scorer", "top-1 hits", "95% interval", "mean 1/rank", "95% interval", "AUC", "95% interval"]
    file = io.StringIO()
    print_table(Table("t", headings, [cells]), Console(file=file, width=width))
    text = re.sub(r"\s+", " ", file.getvalue())
    assert "…" not in text
    for word in " ".join([*headings, *cells]).split():
        assert word in text, word


def test_marked_tokens_are_those_with_the_strongest_shades():
    row = {"id": "a", "tokens": ["x", "y", "z", "w"], "token_ids": [1, 2, 3, 4], "gap": [1.0, 0.5, 0.5, 0.9]}
    assert "\nx[yz]w\n" in printed([row])


def test_colours_are_the_terminals_own_and_the_text_is_whole(critical):
    text = printed([critical], "entropy", color_system="standard", force_terminal=True)
    assert "\x1b[" in text
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert "".join(critical["tokens"]).strip() in plain


def test_classes_are_named_in_marks_and_legend(tokenizer):
    (row, *_), _ = made_up_documents(tokenizer, n=1)
    text = printed([row], "noise")
    assert "[boilerplate: " in text
    names = names_of(row, next(s for s in scores_of(row) if isinstance(s, Category) and s.key == "noise"))
    assert f" boilerplate  {names.count('boilerplate')}" in text


def test_no_control_sequence_of_a_model_reaches_the_terminal(critical):
    hostile = critical | {
        "id": ESCAPE,
        "question": ESCAPE,
        "answer": ESCAPE,
        "tokens": [ESCAPE] * len(critical["tokens"]),
    }
    text = printed([hostile])
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", text)
    assert "␛[31m" in text


def test_show_prints_tables_and_responses(rows, tmp_path, capsys):
    run = write_run(tmp_path, rows)
    assert main(["show", str(run), "--limit", "2"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Critical tokens: lab on lab\n")
    assert "What the critical tokens are" in shown
    assert [row["id"] in shown for row in rows[:3]] == [True, True, False]
    assert main(["show", str(run), "--id", rows[0]["problem_id"]]) == 0
    shown = capsys.readouterr().out
    assert [row["id"] in shown for row in rows[:3]] == [True, True, False]
    assert main(["show", str(run), "--id", rows[3]["id"], "--score", "gap"]) == 0
    shown = capsys.readouterr().out
    assert "What the critical tokens are" not in shown
    assert rows[3]["id"] in shown
    assert "gap between the two likeliest" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--id", "nobody"], "holds no trajectory with the id 'nobody'"),
        (["--score", "loss"], "no score 'loss' here: there is success, drop, policy_prob, entropy, gap"),
        (["--limit", "-1"], "limit must be at least 0, but is -1"),
    ],
)
def test_what_show_cannot_show_is_one_sentence(rows, tmp_path, capsys, arguments, said):
    run = write_run(tmp_path, rows)
    assert main(["show", str(run), *arguments]) == 2
    assert said in capsys.readouterr().err


# Notebooks


def parsed(html):
    tags = Tags()
    tags.feed(html)
    return tags


def test_a_notebook_shows_results_and_runs(lab, rows, tmp_path):
    results = forkpoint.evaluate(lab, forkpoint.load_problems("lab", limit=4), ["greedy", "sample"], task="lab")
    assert isinstance(results, Results)
    html = results._repr_html_()
    for s in results["strategies"]:
        assert f"{100 * s['accuracy']:.1f}%" in html
    assert parsed(html).tags.count("svg") == 1
    html = page_of(write_run(tmp_path, rows))._repr_html_()
    assert "What the critical tokens are" in html
    assert rows[0]["id"] in html
    assert html.count('class="text"') == 3


@pytest.mark.parametrize("name", sorted(set(PAGES.values())))
def test_what_every_verb_returns_has_a_page_of_its_own(name):
    module = import_module(f"forkpoint.report.pages.{name}")
    assert get_type_hints(module.page_of_summary)["return"] is Page


def test_a_notebook_shows_the_scores_of_a_trajectory(lab):
    sampling = Sampling(temperature=1.5, max_tokens=60)
    (trajectory,) = forkpoint.sample_trajectories(
        lab, forkpoint.load_problems("lab", limit=1), sampling, n=1, prompt="cot"
    )
    (scores,) = forkpoint.score_trajectories(lab, [trajectory], sampling)
    (direct,) = lab.score([trajectory.prompt_ids + trajectory.token_ids], sampling=sampling)
    own = slice(len(trajectory.prompt_ids), -1)
    for name, column in (("logprob", direct.logprobs), ("entropy", direct.entropy), ("gap", direct.gaps),
                         ("policy_prob", direct.policy)):  # fmt: skip
        np.testing.assert_allclose(scores.columns[name], column[own], rtol=1e-4, atol=1e-5)
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
    problem = Problem("p", "How many?", "7", "number")
    trajectory = Trajectory("p/0", problem, (1,), (2, 3), "7", True, "stop")
    scores = TokenScores(trajectory, {k: np.array(v) for k, v in columns.items()}, (" seven", " pens"))
    html = scores._repr_html_()
    assert "".join(parsed(html).text).count(" seven pens") == 1
    assert "style=" not in html
    assert ("mine 0.5" in html) == ("mine" in columns)


def test_a_notebook_colours_names(tokenizer):
    rows, _ = made_up_documents(tokenizer, n=1)
    page = Page("t", tokens=Tokens(lambda: iter(rows), "documents.jsonl"))
    html = page._repr_html_()
    first = next(name for name in rows[0]["class"] if name)
    assert f'<span title="{first}, ' in html
    assert 'style="background: rgba(' in html


def test_nothing_of_hostile_scores_executes_in_a_notebook():
    problem = Problem(HOSTILE, HOSTILE, HOSTILE, "number")
    trajectory = Trajectory(HOSTILE, problem, (1,), (2, 3), HOSTILE, False, "stop")
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
