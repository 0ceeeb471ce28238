"""Pages in a real browser: they work, nothing of a run's texts executes, console and network stay silent."""

from __future__ import annotations

import json
import shutil
from urllib.parse import quote

import pytest
from browser import embedded, parsed
from made_up_runs import HOSTILE, RUNS, hostile, poisoned, rows_of, write

from forkpoint.report import page_of, write_report
from forkpoint.report.shades import CATEGORIES, ShownScore, scores_of, shades_of
from forkpoint.report.viewer import viewer_data

SETTLE = "new Promise(done => setTimeout(done, 400))"
CHOSEN, HEADING = "document.querySelector('#facts h3').textContent", "document.querySelector('#panel h3').textContent"
FOCUS = "Number(document.activeElement.dataset.t)"
LIST = "#list > :not([hidden])"
SIBLING = "document.querySelector('#siblings [aria-selected=\"true\"] span').textContent"
CLASSES = (
    "[...document.querySelectorAll('.token')]"
    ".map(t => [...t.classList].filter(c => /^([sc][0-9]|below)$/.test(c)).join(' '))"
)
NASTY = HOSTILE + " </script><!-- \u2028\u2029 {{ 7 * 7 }} \ud800"


@pytest.fixture
def opened(tab, run_of):
    """Opens a page by its run's kind; afterwards neither console nor network may have seen anything else."""
    pages = []

    def open_page(run):
        pages.append(write_report(run_of(run) if isinstance(run, str) else run).as_uri())
        tab.open(pages[-1])
        return tab

    yield open_page
    assert tab.complaints() == []
    assert {url.split("#")[0] for url in tab.requests()} == {pages[-1]}


def point_at(tab, t):
    tab.run(f"document.querySelector('[data-t=\"{t}\"]').scrollIntoView({{block: 'center'}})")
    box = tab.run(f"document.querySelector('[data-t=\"{t}\"]').getClientRects()[0].toJSON()")
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=box["x"] + 2, y=box["y"] + box["height"] / 2)


# Every page


@pytest.mark.parametrize("name", RUNS)
def test_no_page_holds_markup_of_its_run(run_of, tmp_path, name):
    text = write_report(poisoned(run_of(name), tmp_path)).read_text(encoding="utf-8")
    tags = parsed(text)
    assert tags.tags.count("script") == (2 if page_of(tmp_path).tokens else 1)
    assert not {"img", "iframe", "object", "embed", "form"} & set(tags.tags)
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    links = {v for name, v in tags.attributes if name in ("src", "href", "xlink:href") and v and v[0] != "#"}
    assert links <= {"data:,", "before/report.html"}
    assert HOSTILE in "".join(tags.text)
    if name in ("eval", "recipe"):
        assert not {"script", "img"} & set(parsed(page_of(tmp_path)._repr_html_()).tags)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_page_works_and_executes_nothing_of_its_run(opened, run_of, tmp_path, name):
    run = poisoned(run_of(name), tmp_path)
    tab = opened(run)
    assert "<script>alert(1)</script>" in tab.run("document.body.textContent")
    for scheme in ("light", "dark"):
        tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        tab.run("document.querySelectorAll('details').forEach(d => d.open = true)")
        tab.run("document.querySelectorAll('th button').forEach(button => button.click())")
    if page_of(run).tokens:
        use_the_viewer(tab)
    tab.resize(width=390, height=844)
    assert tab.run(f"{SETTLE}.then(() => document.documentElement.scrollWidth)") == 390
    tab.resize()
    assert tab.run("document.querySelectorAll('img, iframe, header script, #viewer script').length") == 0


def use_the_viewer(tab):
    """Keys, the pointer, the filter, and the link to a token."""
    entries = tab.texts(LIST)
    tab.run("document.querySelector('[data-t=\"0\"]').click()")
    tab.press("j", "k", "End")
    last = tab.run(FOCUS)
    assert f"token {last} of {last + 1}" in tab.run(HEADING)
    point_at(tab, 0)
    assert f"token 0 of {last + 1}" in tab.run(HEADING)
    for score in tab.run("[...document.querySelectorAll('#score option')].map(o => o.value)"):
        tab.choose("score", score)
    tab.press("/", *"no such text")
    assert tab.texts(LIST) == []
    tab.press("Escape")
    assert tab.texts(LIST) == entries
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)  # from a token, which the panel would show
    tab.press("j")
    tab.run("[...document.querySelectorAll('.token')].at(-1).click()")
    shown = tab.run(CHOSEN), tab.run(HEADING)
    link = tab.run("document.querySelector('#panel a').getAttribute('href')")
    tab.press(*"kkkk", "Home")
    tab.run(SETTLE)
    tab.run(f"location.hash = {json.dumps(link)}, {SETTLE}")
    assert (tab.run(CHOSEN), tab.run(HEADING), tab.run("location.hash")) == (*shown, link)


def test_texts_that_break_scripts_stay_text(opened, run_of, tmp_path):
    run = shutil.copytree(run_of("critical"), tmp_path / "run")
    row = rows_of(run / "critical.jsonl")[0]
    nasty = hostile(row, nasty=NASTY) | {"id": NASTY.replace("\ud800", "")}
    nasty |= {"alternatives": [a | {"token": NASTY} for a in row["alternatives"]]}
    bare = {"id": "bare", "tokens": [], "token_ids": []}
    tab = opened(write(run, critical=[nasty, bare]))
    page = (run / "report.html").read_text(encoding="utf-8")
    assert embedded(page)["rows"][0]["tokens"][0].endswith(NASTY)
    assert not set("<>&\u2028\u2029") & set(page.split('id="data">')[1].split("</script>")[0])
    assert "{{ 7 * 7 }}" in tab.run("document.getElementById('text').textContent")
    tab.press("j")
    assert tab.run(CHOSEN) == "bare"


# The token viewer


def test_shades_are_those_of_terminal_and_notebook(opened, run_of):
    compared = set()
    for name in ("critical", "documents", "contrast"):
        tab, row = opened(name), next(page_of(run_of(name)).tokens.rows())
        tab.run(f"location.hash = '#{quote(row['id'], safe='')}', {SETTLE}")
        for score in scores_of(row):
            tab.choose("score", score.key)
            shades, classes = shades_of(row, score), tab.run(CLASSES)
            if isinstance(score, ShownScore):  # the page's numbers have four digits
                assert ["below" in name for name in classes] == [s.below for s in shades], score.key
                steps = [abs(int(name[1]) - s.strength) for name, s in zip(classes, shades, strict=True)]
                assert max(steps) <= 1
                assert sum(steps) <= 2
            else:
                kinds = dict(zip(tab.texts("#legend b"), tab.run("[...document.querySelectorAll('#legend b')]"
                                                                 ".map(b => b.className)"), strict=True))  # fmt: skip
                assert classes == [kinds[s.name] if s.name else "s0" for s in shades], score.key
            compared.add(score.key)
    assert {category.key for category in CATEGORIES} | {"success", "drop", "gap", "s", "delta"} < compared


def test_keys_reach_tokens_forks_and_the_critical_token(opened, run_of):
    rows = rows_of(run_of("critical") / "critical.jsonl")
    tab = opened("critical")
    first = next(row for row in rows if row["status"] == "critical")
    assert tab.run(CHOSEN) == first["id"]
    tab.press("c", "ArrowLeft")
    assert tab.run(FOCUS) == first["critical_index"] - 1
    tab.press("Home", "f")
    forks = sorted({a["position"] for a in first["alternatives"] if a["n"]})
    assert tab.run(FOCUS) == next(t for t in forks if t > 0)
    assert len(tab.texts(".token.fork")) == tab.run("document.querySelectorAll('.forks circle').length") == len(forks)
    assert tab.run("[...document.querySelectorAll('.token.critical')].map(t => Number(t.dataset.t))") == [
        first["critical_index"]
    ]
    tab.press("End")
    tab.run(SETTLE)
    assert tab.run("location.hash") == f"#{first['id']}:{len(first['tokens']) - 1}"
    point_at(tab, forks[0])
    likelihoods = [float(text) for text in tab.texts("#panel tr > td:nth-child(2)")]
    assert likelihoods == sorted(likelihoods, reverse=True)
    assert len(likelihoods) == 1 + sum(a["position"] == forks[0] for a in first["alternatives"])


def test_a_problem_has_its_verdicts_and_all_its_paths(opened, run_of):
    samples = rows_of(run_of("eval") / "samples.jsonl")
    tab = opened("eval")
    first = [row for row in samples if row["problem_id"] == samples[0]["problem_id"]]
    picked = [f"{row['strategy']}, path {row['chosen']}" for row in first if len(row["paths"]) > 1]
    assert tab.texts("#siblings > .picked span:first-child") == picked
    assert len(tab.texts("#siblings > div")) == sum(len(row["paths"]) for row in first)
    start, end = first[1]["paths"][first[1]["chosen"]]["span"]
    marked = tab.run("[...document.querySelectorAll('.token.answer')].map(t => Number(t.dataset.t))")
    assert marked == list(range(start, end))
    tab.press(*"[" * 8, "]", "]")
    assert tab.run(SIBLING) == "cot-decoding:k=4, path 1"
    assert "".join(tab.texts(".token")).replace("⟨end⟩", "") == "".join(first[1]["paths"][1]["tokens"])
    link = f"#{first[0]['problem_id']}/{quote('cot-decoding:k=4', safe='')}/1:2"
    tab.press("j")
    tab.run(f"location.hash = '{link}', {SETTLE}")
    assert (tab.run(SIBLING), "token 2 of" in tab.run(HEADING)) == ("cot-decoding:k=4, path 1", True)


def test_problems_are_narrowed_by_what_strategies_did_and_tables_sorted(opened, run_of):
    verdicts = {}
    for row in rows_of(run_of("eval") / "samples.jsonl"):
        verdicts.setdefault(row["problem_id"], []).append(row["correct"])
    tab = opened("eval")
    tab.choose("tag", "strategies disagree")
    assert len(tab.texts(LIST)) == sum(len(set(signs)) > 1 for signs in verdicts.values()) > 0
    tab.choose("tag", "greedy wrong")
    assert len(tab.texts(LIST)) == sum(not greedy for greedy, *_ in verdicts.values())
    column, cells = (
        "document.querySelectorAll('.data thead')[0].rows[0].cells[1]",
        ".data:first-of-type td:nth-child(2)",
    )
    for order in (-1, 1):
        tab.run(f"{column}.querySelector('button').click()")
        shares = [float(text.rstrip("%")) for text in tab.texts(cells)][:3]
        assert shares == sorted(shares, key=lambda share: order * share)


# Large runs


@pytest.mark.slow
def test_of_as_many_trajectories_as_a_page_holds_only_the_chosen_one_is_in_the_document(opened, run_of, tmp_path):
    """Of 400 tokens each, as a real model's: with a curve, intervals, forks and four scores a token."""
    run = shutil.copytree(run_of("critical"), tmp_path / "run")
    rows = rows_of(run / "critical.jsonl")
    write(run, critical=[repeated(rows[i % len(rows)], 400) | {"id": f"p/{i}"} for i in range(800)])
    tab = opened(run)
    assert (run / "report.html").stat().st_size < 25_000_000
    assert len(tab.texts("#list > div")) == 800
    assert tab.run("performance.getEntriesByName('viewer ready').length") == 1
    assert tab.run("document.querySelectorAll('#text > *').length") == 400


def repeated(row, n):
    """The row's response over and over, up to n tokens."""
    times = -(-n // len(row["token_ids"]))
    lists = {
        key: (values * times)[: n + (key in ("success", "success_ci"))]
        for key, values in row.items()
        if isinstance(values, list) and key not in ("alternatives", "prompt_ids")
    }
    return row | lists


def test_a_page_has_a_limit_and_names_it(run_of, monkeypatch):
    rows = rows_of(run_of("critical") / "critical.jsonl")
    size = len(viewer_data(rows[:1]).json)
    monkeypatch.setattr("forkpoint.report.viewer.BYTES_SHOWN", 3 * size)
    data = viewer_data(rows)
    assert 0 < data.shown < data.total == len(rows)
    assert f"The first {data.shown} of {data.total} trajectories" in write_report(run_of("critical")).read_text()
    grouped = viewer_data([row | {"group": str(i // 2)} for i, row in enumerate(rows * 3)])
    assert grouped.shown % 2 == 0 < grouped.shown < grouped.total


def test_what_was_not_measured_is_left_out_and_other_spellings_are_kept():
    row = {"id": "a", "token_ids": [5, 6], "tokens": ["a", "b"], "success": [1.0, None, 0.5], "extra": [1],
           "success_ci": [None, [None, float("nan")], [0.4, 0.6]], "policy_prob": [float("nan"), 0.123456]}  # fmt: skip
    bare = {"id": "b", "token_ids": [5, 6], "tokens": ["A", "b"], "success": None, "alternatives": None}
    first, second = json.loads(viewer_data([row, bare]).json)["rows"]
    assert (first["success"], first["low"], first["high"]) == ([1, None, 0.5], [None, None, 0.4], [None, None, 0.6])
    assert first["columns"] == {"policy_prob": [None, 0.1235]}  # four significant digits
    assert second == {"id": "b", "ids": [5, 6], "tokens": ["A", "b"]}
    assert "tokens" not in first
