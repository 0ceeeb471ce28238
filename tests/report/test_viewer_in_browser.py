"""The token viewer in a real browser: hand and keyboard, permanent links, and silence on console and network."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from browser import browser
from made_up_run import made_up_rows, write_run
from test_critical_page import hostile

from forkpoint.report import write_report

SETTLE = "new Promise(done => setTimeout(done, 500))"
CHOSEN = "document.querySelector('#facts h3').textContent"
PANEL = "document.getElementById('panel').textContent"
FOCUS = "Number(document.activeElement.dataset.t)"


@pytest.fixture(scope="module")
def rows(lab):
    return made_up_rows(lab, problems=4, n=3)


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def opened(tab, rows, tmp_path):
    """The tab with the page of the rows; afterwards neither console nor network may have seen anything else."""
    page = write_report(write_run(tmp_path, rows)).as_uri()
    tab.open(page)
    yield tab
    assert tab.complaints() == []
    assert {url.split("#")[0] for url in tab.requests()} == {page}


def test_the_keyboard_reaches_trajectories_tokens_forks_and_the_critical_token(opened, rows):
    first = next(r for r in rows if r["status"] == "critical")
    second = rows[rows.index(first) + 1]
    assert opened.run(CHOSEN) == first["id"]
    opened.press("c")
    assert opened.run(FOCUS) == first["critical_index"]
    opened.press("ArrowLeft")
    assert opened.run(FOCUS) == first["critical_index"] - 1
    opened.press("Home", "f")
    assert opened.run(FOCUS) == min(a["position"] for a in first["alternatives"] if a["n"] and a["position"] > 0)
    opened.press("j")
    assert opened.run(CHOSEN) == second["id"]
    opened.press("End")
    opened.run(SETTLE)
    assert opened.run("location.hash") == f"#{second['id']}:{len(second['tokens']) - 1}"
    opened.press("k")
    assert opened.run(CHOSEN) == first["id"]


def test_the_panel_follows_the_mouse_and_names_the_alternatives(opened, rows):
    row = next(r for r in rows if r["status"] == "critical")
    fork = next(a["position"] for a in row["alternatives"] if a["n"])
    opened.run("document.getElementById('text').scrollIntoView({block: 'center'})")
    box = opened.run(f"document.querySelector('[data-t=\"{fork}\"]').getClientRects()[0].toJSON()")
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    opened.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    shown = opened.run(PANEL)
    assert f"token {fork} of" in shown
    here = [a for a in row["alternatives"] if a["position"] == fork]
    table = opened.run(
        "[...document.querySelectorAll('#panel tr')].slice(1).map(r => Number(r.children[1].textContent))"
    )
    assert table == sorted(table, reverse=True)
    assert len(table) == len(here) + 1
    assert f"{100 * here[0]['success']:.1f}%" in shown


def test_a_permanent_link_opens_its_trajectory_and_token(opened, rows):
    row = rows[5]
    opened.run(f"location.hash = '#{quote(row['id'], safe='')}:3', {SETTLE}")
    assert opened.run(CHOSEN) == row["id"]
    assert "token 3 of" in opened.run(PANEL)


def test_search_and_status_narrow_the_list(opened, rows):
    visible = "[...document.querySelectorAll('#list > :not([hidden])')].length"
    opened.press("/", *rows[-1]["id"])
    assert opened.run(visible) == sum(rows[-1]["id"] in r["id"] for r in rows)
    assert rows[-1]["id"] in opened.run(CHOSEN)
    opened.press("Escape")
    opened.run("(s => (s.value = 'none', s.dispatchEvent(new Event('change'))))(document.getElementById('tag'))")
    assert opened.run(visible) == sum(r["status"] == "none" for r in rows)


def test_each_score_shades_the_text(opened, rows):
    row = next(r for r in rows if r["status"] == "critical")
    for key, doubt in (("policy_prob", [1 - p for p in row["policy_prob"]]), ("gap", [1 - g for g in row["gap"]])):
        shades = opened.run(
            f"(s => (s.value = '{key}', s.dispatchEvent(new Event('change')),"
            "[...document.querySelectorAll('.token')].map(t => Number(/\\bs(\\d)\\b/.exec(t.className)[1]))))"
            "(document.getElementById('score'))"
        )
        assert all(abs(shade - min(9, 10 * d)) <= 1.01 for shade, d in zip(shades, doubt, strict=True))


def test_every_fork_and_only_one_critical_token_is_marked(opened, rows):
    row = next(r for r in rows if r["status"] == "critical")
    forks = {a["position"] for a in row["alternatives"] if a["n"]}
    assert opened.run("document.querySelectorAll('.token.fork').length") == len(forks)
    assert opened.run("document.querySelectorAll('.forks circle').length") == len(forks)
    assert opened.run("[...document.querySelectorAll('.token.critical')].map(t => Number(t.dataset.t))") == [
        row["critical_index"]
    ]


def test_hostile_text_stays_text(tab, rows, tmp_path):
    gaps = rows[0] | {"success": [None] * len(rows[0]["success"]), "alternatives": [], "id": "gaps"}
    bare = {"id": "bare", "tokens": [], "token_ids": []}
    tab.open(write_report(write_run(tmp_path, [hostile(rows[0]), gaps, bare])).as_uri())
    tab.press("k")
    assert tab.run("document.querySelectorAll('#viewer script, #viewer img').length") == 0
    assert "<img src=x onerror=alert(2)>" in tab.run("document.getElementById('text').textContent")
    tab.press("j", "j")
    assert tab.run(CHOSEN) == "bare"
    assert tab.complaints() == []


def test_opening_by_a_link_shows_the_text_and_plain_opening_the_top(tab, rows, tmp_path):
    page = write_report(write_run(tmp_path, rows)).as_uri()
    tab.open(f"{page}#{quote(rows[5]['id'], safe='')}:3")
    box = tab.run("document.querySelector('[data-t=\"3\"]').getBoundingClientRect().toJSON()")
    assert 0 <= box["top"] < box["bottom"] <= 1000
    assert tab.run("scrollY") > 0
    tab.open("about:blank")
    tab.open(page)
    assert tab.run("scrollY") == 0


def test_on_a_phone_the_panel_stays_in_view_once_a_token_is_tapped_and_covers_the_text_alone(opened):
    panel = "getComputedStyle(document.getElementById('panel')).position"
    over = "document.elementFromPoint(100, {y}).closest('#panel') !== null"
    opened.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=False)
    try:
        assert opened.run(panel) == "static"
        opened.run("document.querySelector('[data-t=\"0\"]').click()")
        opened.run("scrollTo(0, document.getElementById('text').getBoundingClientRect().top + scrollY - 600)")
        assert opened.run(panel) == "sticky"
        assert opened.run(over.format(y=840))
        for covered in (".controls", "#facts", "#list"):
            box = f"document.querySelector('{covered}').getBoundingClientRect().bottom"
            opened.run(f"scrollBy(0, {box} - 840)")
            assert not opened.run(over.format(y=820)), covered
    finally:
        opened.call("Emulation.setDeviceMetricsOverride", width=1280, height=1000, deviceScaleFactor=1, mobile=False)


def test_numbers_have_their_meaning_and_scales_words_at_their_ends(opened):
    named = "[...document.querySelectorAll('#meanings dt')].map(d => d.textContent)"
    assert opened.run(named) == ["π", "log-probability", "entropy (nats)", "gap", "success", "critical"]
    ends = "[...document.querySelectorAll('#legend > span')].map(s => s.textContent)"
    assert opened.run(ends) == ["100%", "0%"]
    opened.run("(s => (s.value = 'gap', s.dispatchEvent(new Event('change'))))(document.getElementById('score'))")
    assert opened.run(ends) == ["1 sure", "0 unsure"]
