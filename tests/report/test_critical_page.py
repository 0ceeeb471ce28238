"""The page of a `critical` run: all of the run is in it, nothing in the run can execute, and it stays small."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from collections import Counter
from importlib import resources

import pytest
from made_up_run import SUMMARY, made_up_rows, write_run
from test_report import HOSTILE, Tags

from forkpoint.cli import main
from forkpoint.report import write_report
from forkpoint.report.pages.critical import page_of_summary
from forkpoint.report.viewer import viewer_data
from forkpoint.types import UserError

NASTY = HOSTILE + " </script><!-- \u2028\u2029 {{ 7 * 7 }} \ud800"
NO_NETWORK = re.compile(r"(?:src|href|url|import)\s*[=(]\s*[\"']?\s*(?!#|data:,)(?:https?:)?//", re.IGNORECASE)


@pytest.fixture(scope="module")
def rows(lab):
    return made_up_rows(lab, problems=6, n=3)


def page_of(out, rows, **changes):
    return write_report(write_run(out, rows, **changes)).read_text(encoding="utf-8")


def parsed(page):
    tags = Tags()
    tags.feed(page)
    return tags


def embedded(page):
    """The viewer's data as the browser reads it, with the tokens of every row."""
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])
    for row in data["rows"]:
        if "tokens" not in row:
            row["tokens"] = [data["texts"][str(token)] for token in row["ids"]]
    return data


def hostile(row):
    """The row with everything that is text made dangerous."""
    texts = dict.fromkeys(("question", "gold", "answer", "status", "finish_reason"), NASTY)
    texts["id"] = NASTY.replace("\ud800", "")  # which a file's reader refuses in an id
    alternatives = [{**a, "token": NASTY} for a in row["alternatives"]]
    return row | texts | {"tokens": [NASTY] * len(row["tokens"]), "alternatives": alternatives}


def test_every_number_and_token_of_the_run_is_there(rows, tmp_path):
    data = embedded(page_of(tmp_path, rows))
    assert [s["key"] for s in data["scores"]] == ["success", "drop", "policy_prob", "entropy", "gap"]
    assert len(data["rows"]) == len(rows)
    for row, shown in zip(rows, data["rows"], strict=True):
        assert [shown[k] for k in ("id", "question", "gold", "correct", "tokens", "ids", "status", "finish")] == [
            row[k] for k in ("id", "question", "gold", "correct", "tokens", "token_ids", "status", "finish_reason")
        ]
        assert shown.get("critical") == row["critical_index"]
        assert shown["success"] == pytest.approx(row["success"], rel=1e-3)
        assert list(zip(shown["low"], shown["high"], strict=True)) == [
            pytest.approx(ci, rel=1e-3) for ci in row["success_ci"]
        ]
        for key in ("policy_prob", "entropy", "gap", "logprob"):
            assert shown["columns"][key] == pytest.approx(row[key], rel=1e-3)
        tried = [[a[k] for k in ("position", "token_id", "token", "n")] for a in row["alternatives"]]
        assert [[*a[:3], a[5]] for a in shown.get("alternatives", [])] == tried
        assert "prompt_ids" not in shown


def test_the_summary_is_readable_without_a_script(rows, tmp_path):
    tags = parsed(page_of(tmp_path, rows, statuses={"critical": 7, "none": 10, "undecided": 1}))
    text = " ".join("".join(tags.text[: next(i for i, t in enumerate(tags.text) if '"rows":' in t)]).split())
    for said in (
        "Critical tokens: lab on lab", "protocol forks, prompt cot, temperature 1.0, top_p 0.95, max_tokens 80, seed 0",
        "80 responses, 33 correct, 2 without an answer", "7 with a critical token, 10 without, 1 undecided",
        "42.0% of 47 wrong responses (95% interval 35.0 to 49.0)", "at token 22 in the median, 46.0% of the way",
        "number", "66.0%", "803,221 tokens, 48.2 seconds", "20,160 rollouts", "9.5 times", "14.9 to 27.9", "21.6%",
        "needs JavaScript",
    ):  # fmt: skip
        assert said in text
    assert tags.tags.count("svg") == 1
    counted = page_of_summary(SUMMARY | {"statuses": Counter(), "responses": SUMMARY["responses"] | {"cut_off": 9}})
    assert counted.lines[1:3] == [
        "80 responses, 33 correct, 2 without an answer, 9 cut off",
        "cut off at the length limit: 9 of 80 responses; raise --max-tokens",
    ]


def test_nothing_of_a_hostile_run_executes(rows, tmp_path):
    nasty = NASTY.replace("\ud800", "")
    page = page_of(tmp_path, [hostile(r) for r in rows], model=nasty, task=nasty, protocol=nasty, prompt=nasty,
                   token_kinds=[{"kind": nasty, "count": 1}])  # fmt: skip
    tags = parsed(page)
    assert tags.tags.count("script") == 2
    assert not {"img", "iframe", "object", "embed", "form"} & set(tags.tags)
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    assert embedded(page)["rows"][0]["tokens"][0] == NASTY
    block = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1]
    assert not re.search("[<>&\u2028\u2029]", block)
    assert "{{ 7 * 7 }}" in "".join(tags.text)


def test_only_the_embedded_script_may_run(rows, tmp_path):
    page = page_of(tmp_path, rows)
    policy = re.search(r'Policy" content="([^"]*)"', page)[1]
    script = re.search(r'<script type="module">(.*?)</script>', page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|</|<!--", script)


def test_it_asks_the_network_for_nothing(rows, tmp_path):
    page = page_of(tmp_path, rows)
    assert not NO_NETWORK.search(page)
    links = {v for name, v in parsed(page).attributes if name in ("src", "href", "xlink:href") and v[0] != "#"}
    assert links == {"data:,"}


def test_prefixes_and_columns_that_were_not_measured(rows, tmp_path):
    row = dict(rows[0])
    row["success"] = [None if i % 3 else p for i, p in enumerate(row["success"])]
    row["success_ci"] = [None if i % 3 else [None, float("nan")] for i in range(len(row["success"]))]
    row["policy_prob"] = [float("nan"), *row["policy_prob"][1:]]
    row["s"] = [0.5] * len(row["token_ids"])
    bare = {key: row[key] for key in ("id", "token_ids", "tokens")}
    bare |= {"success": None, "alternatives": None, "extra": [1]}
    data = embedded(page_of(tmp_path, [row, bare]))
    assert [p is None for p in data["rows"][0]["success"][:4]] == [False, True, True, False]
    assert data["rows"][0]["low"][0] is data["rows"][0]["high"][0] is None
    assert data["rows"][0]["columns"]["policy_prob"][0] is None
    assert "s" in [s["key"] for s in data["scores"]]
    assert set(data["rows"][1]) == {"id", "ids", "tokens"}


def test_a_run_without_critical_tokens_says_so(rows, tmp_path):
    some = [r | {"status": "none", "critical_index": None} for r in rows]
    page = page_of(tmp_path, some, share_critical=0.0, critical_position=None, token_kinds=[],
                   replacement={"n_trajectories": 0, "table": []})  # fmt: skip
    assert "0 with a critical token" in page
    assert "in the median" not in page
    assert "no response has a critical token to replace" in page
    assert "svg" not in parsed(page).tags


def test_an_empty_run_says_so_and_has_no_viewer(tmp_path):
    page = page_of(tmp_path, [], which="wrong", n_wrong=0, share_critical=None)
    assert "no response is wrong, so there is nothing to label" in page
    assert "This run holds no trajectories." in page
    assert 'id="viewer"' not in page
    assert "application/json" not in page


def test_tokens_that_are_spelled_in_two_ways_keep_their_own_texts(rows):
    other = rows[0] | {"id": "other", "tokens": [t.upper() for t in rows[0]["tokens"]]}
    data = json.loads(viewer_data([rows[0], other]).json)
    first, second = data["rows"]
    assert "tokens" not in first
    assert [data["texts"][str(token)] for token in first["ids"]] == rows[0]["tokens"]
    assert second["tokens"] == other["tokens"]


def test_a_thousand_trajectories_fit_in_a_small_page(rows, tmp_path):
    many = [rows[i % len(rows)] | {"id": f"p/{i}"} for i in range(1000)]
    page = page_of(tmp_path, many)
    assert len(embedded(page)["rows"]) == 1000
    assert len(page.encode()) < 4_000_000


def test_a_page_has_a_limit_and_names_it(rows, tmp_path, monkeypatch):
    monkeypatch.setattr("forkpoint.report.viewer.BYTES_SHOWN", 10_000)
    data = viewer_data(rows)
    assert 0 < data.shown < data.total == len(rows)
    grouped = [row | {"group": str(i // 2)} for i, row in enumerate(rows * 3)]
    monkeypatch.setattr("forkpoint.report.viewer.BYTES_SHOWN", 30_000)
    assert viewer_data(grouped).shown % 2 == 0 < viewer_data(grouped).shown < len(grouped)
    monkeypatch.setattr("forkpoint.report.viewer.BYTES_SHOWN", 10_000)
    assert f"The first {data.shown} of {data.total} trajectories, token by token" in page_of(tmp_path, rows)


def test_what_the_directory_holds_chooses_the_page(rows, tmp_path, capsys):
    run = write_run(tmp_path / "run", rows[:1])
    assert main(["report", str(run)]) == 0
    assert "Critical tokens: lab on lab" in (run / "report.html").read_text()
    (run / "summary.json").unlink()
    with pytest.raises(UserError, match=r"no finished run: there is no summary\.json"):
        write_report(run)


def test_a_broken_row_is_named(rows, tmp_path):
    run = write_run(tmp_path, rows[:1])
    with (run / "critical.jsonl").open("a") as file:
        file.write('{"tokens": ["a"], "token_ids": []}\n')
    with pytest.raises(UserError, match=r"critical\.jsonl line 2"):
        write_report(run)
    for line in ("[1]", "{}", "{"):
        (run / "critical.jsonl").write_text(line + "\n")
        with pytest.raises(UserError, match=r"critical\.jsonl line 1"):
            write_report(run)


def luminance(colour):
    """Relative luminance of an sRGB colour (WCAG 2.2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_shades_are_told_apart_in_grey_and_text_stays_legible_on_them():
    css = (resources.files("forkpoint.report") / "templates" / "base.css").read_text()
    alphas = [float(a) for a in re.findall(r"--a: ([.\d]+)", css)]
    assert len(alphas) == 9
    for theme in (css.splitlines()[0], css.splitlines()[1]):
        value = dict(re.findall(r"--(\w+): ([^;]+);", theme))
        colours = {}
        for name in ("ink", "paper"):
            digits = value[name][1:] if len(value[name]) == 7 else "".join(c * 2 for c in value[name][1:])
            colours[name] = bytes.fromhex(digits)
        mark = [int(c) for c in value["mark"].split(",")]
        grounds = [[a * m + (1 - a) * p for m, p in zip(mark, colours["paper"], strict=True)] for a in (0, *alphas)]
        levels = [luminance(ground) for ground in grounds]
        steps = [abs(b - a) for a, b in itertools.pairwise(levels)]
        assert levels == sorted(levels, reverse=levels[0] > levels[-1])
        assert min(steps) > 0.001
        for level in levels:
            low, high = sorted((level, luminance(colours["ink"])))
            assert (high + 0.05) / (low + 0.05) >= 4.5
