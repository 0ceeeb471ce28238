"""The page of a `logits` run: its figures and tables, and its responses shaded by entropy and distance."""

from __future__ import annotations

import json
import math

import pytest
from test_critical_page import embedded

from forkpoint.cli import main
from forkpoint.evaluation.logit_study import read_table
from forkpoint.report import page_of, write_report
from forkpoint.report.figures.logits_figure import figure_names, logits_svg
from forkpoint.report.pages.logits import page_of_summary
from forkpoint.types import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("logits") / "run"
    asked = [
        "--positions=first,certain,3",
        "--sampler=top_n_sigma=1",
        "--sampler=top_k=50,top_p=0.9",
        "--temperatures=1,3",
    ]
    drawn = ["--temperature=1.5", "--seed=5", "--prompt=cot", "--limit=2", "--max-tokens=40", "--device=cpu", "--quiet"]
    assert main(["logits", *asked, *drawn, f"--out={out}"]) == 0
    return out


@pytest.fixture
def summary(run):
    return json.loads((run / "summary.json").read_text())


def test_every_figure_is_in_the_page_as_in_its_file(run, summary):
    text = (run / "report.html").read_text(encoding="utf-8")
    names = figure_names(summary)
    assert len(names) == 2 + 2 * len(summary["chosen"])
    for name in names:
        drawn = logits_svg(run, name)
        assert drawn in text
        assert (run / f"{name}.svg").read_text(encoding="utf-8") == drawn + "\n"


def test_tables_are_the_summarys(summary):
    page = page_of_summary(summary)
    first = summary["responses"][0]
    assert page.title == "Logits of lab on lab"
    assert f"lab, {first['problem_id']}: {first['tokens']:,} tokens" in page.lines[0]
    assert page.lines[1].startswith("and 1 more responses")
    statistics, *kept = page.sections
    for row, one in zip(statistics.rows, summary["chosen"], strict=True):
        names = f" ({', '.join(one['named'])})" if one["named"] else ""
        assert row[:3] == (f"{one['position']}{names}", repr(one["token"]), f"{one['probability']:.3f}")
        assert [float(cell) for cell in row[3:7]] == pytest.approx(
            [one[name] for name in ("maximum", "mean", "sigma", "distance")], abs=0.005
        )
        assert row[7] == f"{one['entropy']:.3f}"
    for table, one in zip(kept, summary["chosen"], strict=True):
        assert table.title == f"Tokens kept at position {one['position']}"
        assert table.columns == ("sampler", "T = 1", "T = 3")
        assert [tuple(row) for row in table.rows] == [
            (spec, *(f"{count:,}" for count in sizes.values())) for spec, sizes in one["kept"].items()
        ]


def test_responses_are_shaded_by_entropy_and_distance(run, summary):
    data = embedded(write_report(run).read_text(encoding="utf-8"))
    assert [score["key"] for score in data["scores"]] == ["entropy", "distance"]
    table = read_table(run / "distance.csv")
    assert [row["id"] for row in data["rows"]] == [one["problem_id"] for one in summary["responses"]]
    for shown in data["rows"]:
        rows = [row for row in table if row["problem_id"] == shown["id"]]
        assert shown["tokens"] == [row["token"] for row in rows]
        assert shown["ids"] == [row["token_id"] for row in rows]
        for name in ("entropy", "distance"):
            assert shown["columns"][name] == pytest.approx([row[name] for row in rows], rel=1e-3)
        logs = [math.log(row["probability"]) for row in rows]
        assert shown["columns"]["logprob"] == pytest.approx(logs, rel=1e-3, abs=1e-3)


def test_the_page_needs_the_tables_and_not_the_figures(run, tmp_path):
    for path in [*run.glob("*.csv"), run / "summary.json", run / "config.json"]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert page_of(tmp_path).sections[1].svg() == page_of(run).sections[1].svg()
    (tmp_path / "sorted.csv").unlink()
    with pytest.raises(UserError, match=r"no sorted\.csv"):
        page_of(tmp_path)
