"""The page of an `eval` run in a real browser: problems and their paths, narrowing, links, tables, and its size."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from browser import browser
from made_up_run import made_up_rows, write_run
from test_report import HOSTILE

import forkpoint
from forkpoint.report import write_report

SETTLE = "new Promise(done => setTimeout(done, 500))"
CHOSEN = "document.querySelector('#facts h3').textContent"
SIBLING = "document.querySelector('#siblings [aria-selected=\"true\"] span').textContent"
TEXT = "[...document.querySelectorAll('.token')].map(t => t.textContent).join('')"
VISIBLE = "[...document.querySelectorAll('#list > :not([hidden])')].map(e => e.querySelector('span').textContent)"
READY = "performance.getEntriesByName('viewer ready')[0].startTime"
COLUMN = "[...document.querySelectorAll('.data tbody')[{table}].rows].map(r => r.cells[{column}].textContent)"
CLICK = "document.querySelectorAll('.data thead')[{table}].rows[0].cells[{column}].querySelector('button').click()"
STRATEGIES = ["greedy", "cot-decoding:k=4", "self-consistency:n=3"]


@pytest.fixture(scope="module")
def run(lab, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    forkpoint.evaluate(lab, forkpoint.load_problems("lab", limit=12), STRATEGIES, task="lab", max_tokens=100, out=out)
    return out


@pytest.fixture(scope="module")
def samples(run):
    return [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def opened(tab, run):
    """The tab with the run's page; afterwards neither console nor network may have seen anything else."""
    page = write_report(run).as_uri()
    tab.open(page)
    yield tab
    assert tab.complaints() == []
    assert {url.split("#")[0] for url in tab.requests()} == {page}


def test_a_problem_has_its_verdicts_and_all_its_paths(opened, samples):
    first = samples[0]["problem_id"]
    signs = " ".join("✓" if row["correct"] else "✗" for row in samples if row["problem_id"] == first)
    assert opened.run(VISIBLE)[0] == f"{signs} {first}"
    assert len(opened.run(VISIBLE)) == 12
    assert opened.run("document.querySelectorAll('#siblings > div').length") == 1 + 4 + 3
    picked = opened.run(
        "[...document.querySelectorAll('#siblings > .picked span:first-child')].map(s => s.textContent)"
    )
    assert picked == [
        f"{row['strategy']}, path {row['chosen']}"
        for row in samples
        if row["problem_id"] == first and len(row["paths"]) > 1
    ]
    assert opened.run(SIBLING) == picked[0]


def test_marks_and_answers_name_their_strategies(opened, samples):
    assert opened.run("document.getElementById('order').textContent") == f"✓ ✗ in this order: {'; '.join(STRATEGIES)}"
    first = [row for row in samples if row["problem_id"] == samples[0]["problem_id"]]
    titles = opened.run("[...document.querySelectorAll('#list > div:first-child b')].map(b => b.title)")
    assert titles == [f"{row['strategy']} {'right' if row['correct'] else 'wrong'}" for row in first]
    opened.press(*"[" * 8)
    sign = "✓" if first[0]["correct"] else "✗"
    said = f"greedy: Answer {first[0]['answer']} {sign}. Gold {first[0]['gold']}"
    assert opened.run("document.querySelector('#facts p:last-child').textContent").startswith(said)


def test_an_answer_is_shown_without_a_verdict_and_a_missing_one_where_others_are_graded(tab, run, samples, tmp_path):
    row = next(r for r in samples if r["strategy"] == STRATEGIES[1])
    paths = [path | {"correct": None} for path in row["paths"]]
    paths[0] |= {"answer": "never graded"}
    paths[1] |= {"answer": None}
    (tmp_path / "results.json").write_text((run / "results.json").read_text())
    (tmp_path / "samples.jsonl").write_text(json.dumps(row | {"paths": paths}) + "\n")
    tab.open(write_report(tmp_path).as_uri())
    answers = tab.run("[...document.querySelectorAll('#siblings > div')].map(d => d.children[1].textContent)")
    assert answers[:2] == ["never graded", "no answer"]


def test_the_paths_are_scrolled_by_whole_lines(opened):
    top = (
        "(box => [...box.children].some(line => line.offsetTop === box.scrollTop))(document.getElementById('siblings'))"
    )
    opened.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=False)
    try:
        opened.press(*"]" * 8)
        assert opened.run("document.getElementById('siblings').scrollTop") > 0
        assert opened.run(top)
    finally:
        opened.call("Emulation.setDeviceMetricsOverride", width=1280, height=1000, deviceScaleFactor=1, mobile=False)


def test_keys_go_through_paths_and_problems(opened, samples):
    row = next(r for r in samples if r["strategy"] == STRATEGIES[1])
    opened.press(*"[" * 8)
    assert opened.run(SIBLING) == "greedy"
    opened.press("]", "]")
    assert opened.run(SIBLING) == f"{STRATEGIES[1]}, path 1"
    assert opened.run(TEXT).replace("⟨end⟩", "") == "".join(row["paths"][1]["tokens"])
    opened.run(SETTLE)
    link = f"#{row['problem_id']}/{quote(row['strategy'], safe='')}/1"
    assert opened.run("location.hash").startswith(f"{link}:")
    opened.press("j")
    assert opened.run(CHOSEN) == samples[1]["problem_id"]
    opened.run(f"location.hash = '{link}:2', {SETTLE}")
    assert opened.run(SIBLING) == f"{STRATEGIES[1]}, path 1"
    assert "token 2 of" in opened.run("document.getElementById('panel').textContent")
    opened.run(f"location.hash = '#{samples[3]['problem_id']}', {SETTLE}")
    assert opened.run(CHOSEN) == samples[3]["problem_id"]


def test_the_answers_tokens_are_underlined(opened, samples):
    row = next(r for r in samples if r["strategy"] == STRATEGIES[1])
    start, end = row["paths"][row["chosen"]]["span"]
    marked = opened.run("[...document.querySelectorAll('.token.answer')].map(t => Number(t.dataset.t))")
    assert marked == list(range(start, end))


def test_problems_are_narrowed_by_what_strategies_did_and_by_text(opened, samples):
    choose = "(s => (s.value = '{}', s.dispatchEvent(new Event('change'))))(document.getElementById('tag'))"
    verdicts = {}
    for row in samples:
        verdicts.setdefault(row["problem_id"], {})[row["strategy"]] = row["correct"]
    for tag, problems in {
        "strategies disagree": [p for p, v in verdicts.items() if len(set(v.values())) > 1],
        "greedy wrong": [p for p, v in verdicts.items() if not v["greedy"]],
    }.items():
        opened.run(choose.format(tag))
        assert 0 < len(problems) < 12
        assert [line.split()[-1] for line in opened.run(VISIBLE)] == problems
        assert opened.run("document.getElementById('count').textContent") == f"{len(problems)} of 12 problems"
    opened.run(choose.format(""))
    path = next(r for r in samples if r["strategy"] == STRATEGIES[2])["paths"][1]["text"].strip()[:60]
    opened.press("/", *path)
    found = [
        p
        for p in verdicts
        if any(path in "".join(q["tokens"]) for r in samples if r["problem_id"] == p for q in r["paths"])
    ]
    assert [line.split()[-1] for line in opened.run(VISIBLE)] == found


def test_headings_sort_their_table(opened):
    accuracy, strategy = COLUMN.format(table=0, column=1), COLUMN.format(table=0, column=0)
    opened.run(CLICK.format(table=0, column=1))
    shown = [float(cell.rstrip("%")) for cell in opened.run(accuracy)]
    assert shown == sorted(shown, reverse=True)
    assert len(set(shown)) > 1
    assert opened.run("document.querySelector('.data th[aria-sort]').getAttribute('aria-sort')") == "descending"
    opened.run(CLICK.format(table=0, column=1))
    assert [float(cell.rstrip("%")) for cell in opened.run(accuracy)] == sorted(shown)
    opened.run(CLICK.format(table=0, column=0))
    assert opened.run(strategy) == sorted(STRATEGIES)
    assert opened.run("document.querySelectorAll('.data th[aria-sort]').length") == 1


def test_paper_is_white_and_without_a_list(opened):
    opened.call("Emulation.setEmulatedMedia", media="print")
    try:
        assert opened.run("getComputedStyle(document.querySelector('nav')).display") == "none"
        assert opened.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    finally:
        opened.call("Emulation.setEmulatedMedia", media="")


def test_hostile_text_stays_text(tab, run, samples, tmp_path):
    results = json.loads((run / "results.json").read_text())
    for entry in results["strategies"]:
        entry["strategy"] = HOSTILE
    for entry in results["comparisons"]:
        entry |= {"a": HOSTILE, "b": HOSTILE, "test": HOSTILE}
    texts = dict.fromkeys(("problem_id", "strategy", "question", "gold", "answer"), HOSTILE)
    rows = [row | texts | {"paths": [hostile(path) for path in row["paths"]]} for row in samples[12:13]]
    named = {"model": HOSTILE, "task": HOSTILE, "prompt": HOSTILE}
    (tmp_path / "results.json").write_text(json.dumps(results | named))
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "config.json").write_text(json.dumps({"verb": "eval", HOSTILE: HOSTILE}))
    (tmp_path / "command.json").write_text(json.dumps({"command": HOSTILE, "versions": {HOSTILE: HOSTILE}}))
    page = write_report(tmp_path).as_uri()
    tab.open(page)
    assert tab.run("document.querySelectorAll('img, #viewer script, header script').length") == 0
    assert tab.run("document.body.textContent").count("<img src=x onerror=alert(2)>") > 20
    tab.press("]", "j", "k", "n")
    assert HOSTILE[:20] in tab.run("document.title")
    assert tab.complaints() == []
    assert {url.split("#")[0] for url in tab.requests()} == {page}


def hostile(path):
    return path | {
        "answer": HOSTILE,
        "dropped": HOSTILE,
        "continuation": HOSTILE,
        "tokens": [HOSTILE] * len(path["tokens"]),
    }


def test_a_thousand_trajectories_are_ready_in_two_seconds(tab, lab, tmp_path):
    """Of 400 tokens each, as a real model's: with a curve, intervals, forks and four scores a token."""
    rows = made_up_rows(lab, problems=4, n=3)
    long = [repeated(rows[i % len(rows)], 400) | {"id": f"p/{i}"} for i in range(1000)]
    page = write_report(write_run(tmp_path, long))
    assert page.stat().st_size < 25_000_000
    tab.open(page.as_uri())
    assert tab.run("document.querySelectorAll('#list > div').length") == 1000
    assert tab.run(READY) < 2000
    assert tab.complaints() == []


def repeated(row, n):
    """The row's response over and over, up to n tokens."""
    times = -(-n // len(row["token_ids"]))
    lists = {
        key: (values * times)[: n + (key in ("success", "success_ci"))]
        for key, values in row.items()
        if isinstance(values, list) and key not in ("alternatives", "prompt_ids")
    }
    return row | lists
