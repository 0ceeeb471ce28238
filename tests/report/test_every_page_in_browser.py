"""The page of every verb in a real browser, of runs whose texts are hostile: it works, and nothing of them executes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import test_contrast_page
import test_lm_eval_page
import test_pairs_page
import test_recipe_page
import test_rounds_page
import test_training_page
from browser import browser
from made_up_documents import made_up_documents, write_documents
from made_up_run import made_up_rows, write_run
from test_report import HOSTILE

import forkpoint
from forkpoint.cli import main
from forkpoint.report import write_report
from forkpoint.report.page import BY_FILE, PAGES

SETTLE = "new Promise(done => setTimeout(done, 400))"
VISIBLE = "document.querySelectorAll('#list > :not([hidden])').length"
PANEL = "document.getElementById('panel').textContent"
TEXTS = (  # the keys under which models, data sets and users write what they like
    "id", "problem_id", "question", "prompt", "answer", "gold", "chosen", "rejected", "model", "task", "strategy",
    "text", "target", "note", "noise", "data", "recipe", "status", "finish_reason", "checkpoints", "source",
)  # fmt: skip
LISTS = ("tokens", "chosen_tokens", "rejected_tokens", "filtered_resps", "noise", "checkpoints")


def hostile(value: Any, key: str = "") -> Any:
    """The value with every text that is not ours made dangerous."""
    if isinstance(value, dict):
        return {name: hostile(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [hostile(inner, key if key in LISTS else "") for inner in value]
    return f"{value} {HOSTILE}" if isinstance(value, str) and key in (*TEXTS, *LISTS) else value


def poison(run: Path, *names: str) -> Path:
    """Make the files of a run hostile, and its configuration and command."""
    for name in names:
        lines = (run / name).read_text(encoding="utf-8")
        rows = [json.loads(line) for line in lines.splitlines()] if name.endswith("l") else [json.loads(lines)]
        (run / name).write_text("\n".join(json.dumps(hostile(row)) for row in rows) + "\n", encoding="utf-8")
    (run / "command.json").write_text(json.dumps({"command": HOSTILE, "versions": {HOSTILE: HOSTILE}}))
    return run


def with_summary(run: Path, verb: str, summary: Any) -> Path:
    (run / "config.json").write_text(json.dumps({"verb": verb, "model": HOSTILE, HOSTILE: {HOSTILE: [HOSTILE]}}))
    (run / "summary.json").write_text(json.dumps(summary))
    return run


def eval_run(lab: Any, out: Path) -> Path:
    forkpoint.evaluate(
        lab, forkpoint.load_problems("lab", limit=2), ["greedy", "cot-decoding:k=2"], task="lab", out=out
    )
    return poison(out, "results.json", "samples.jsonl")


def critical_run(lab: Any, out: Path) -> Path:
    return poison(write_run(out, made_up_rows(lab, problems=2, n=1)), "summary.json", "critical.jsonl")


def documents_run(lab: Any, out: Path) -> Path:
    return poison(write_documents(out, *made_up_documents(lab.tokenizer, n=2)), "summary.json", "documents.jsonl")


def contrast_run(lab: Any, out: Path) -> Path:
    run = test_contrast_page.run(out, *(test_contrast_page.row(i) for i in range(2)))
    return poison(run, "summary.json", "scores.jsonl")


def pairs_run(lab: Any, out: Path) -> Path:
    rows = [test_pairs_page.row(id=f"p{i}", rejected_weights=[0.25, 0.5]) for i in range(2)]
    return poison(test_pairs_page.run(out, "samples", *rows), "pairs.jsonl")


def training_run(lab: Any, out: Path) -> Path:
    return poison(with_summary(out, "train", test_training_page.preference(held_out=True, kl=True)), "summary.json")


def rounds_run(lab: Any, out: Path) -> Path:
    return poison(with_summary(out, "rounds", test_rounds_page.summary(stopped=HOSTILE)))


def lm_eval_run(lab: Any, out: Path) -> Path:
    results = {"model": HOSTILE, "tasks": ["maths"], "strategies": [test_lm_eval_page.entry("greedy", 0.5, 9.25)]}
    (out / "config.json").write_text('{"verb": "lm-eval"}')
    (out / "results.json").write_text(json.dumps(results))
    (out / "greedy").mkdir()
    samples = [test_lm_eval_page.generated(1, "2", "2"), test_lm_eval_page.generated(2, "7", "3")]
    (out / "greedy/samples_maths.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    (out / "greedy/samples_choice.jsonl").write_text(json.dumps(test_lm_eval_page.chosen(0)) + "\n")
    return poison(out, "greedy/samples_maths.jsonl")


def recipe_run(lab: Any, out: Path) -> Path:
    for name, content in test_recipe_page.FILES.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(json.dumps(hostile(content)))
    (out / "before/report.html").write_text("<p>before</p>")
    test_recipe_page.write_records(out, test_recipe_page.STAGES, recipe=HOSTILE)
    return out


def corpus_of(out: Path) -> Path:
    texts = [f"Q: How many pens? {HOSTILE}", "Then the number of pens doubles. " * 4]
    (out / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return out / "corpus.jsonl"


def store_run(lab: Any, out: Path) -> Path:
    command = ["score", f"--data={corpus_of(out)}", "--length=64", f"--out={out / 'store'}", "--quiet"]
    assert main(command) == 0
    return poison(out / "store", "documents.jsonl")


def selection_run(lab: Any, out: Path) -> Path:
    store = store_run(lab, out)
    command = ["select", f"--store={store}", "--rule=reference_loss", f"--out={out / 'labels'}", "--quiet"]
    assert main(command) == 0
    return out / "labels"


def logits_run(lab: Any, out: Path) -> Path:
    run = out / "run"
    assert main(["logits", "--limit=1", "--max-tokens=12", "--device=cpu", "--quiet", f"--out={run}"]) == 0
    return poison(run, "summary.json")


def corpus_run(lab: Any, out: Path) -> Path:
    run = out / "run"
    sizes = ["--documents=60", "--clean_documents=7", "--held_out_documents=5"]
    assert main(["lab", "corpus", *sizes, f"--out={run}", "--quiet"]) == 0
    return run


RUNS: dict[str, Callable[[Any, Path], Path]] = {
    "eval": eval_run, "critical": critical_run, "contrast": contrast_run, "pairs": pairs_run,
    "training": training_run, "rounds": rounds_run, "store": store_run, "selection": selection_run,
    "documents": documents_run, "logits": logits_run, "lm_eval": lm_eval_run, "corpus": corpus_run,
    "recipe": recipe_run,
}  # fmt: skip
WITHOUT_TEXTS = {"training", "rounds", "lm_eval", "recipe"}


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


def test_no_page_is_left_out():
    assert RUNS.keys() == {*PAGES.values(), *BY_FILE.values()}


@pytest.mark.parametrize("name", RUNS)
def test_a_page_works_and_executes_nothing_of_its_run(tab, lab, tmp_path, name):
    page = write_report(RUNS[name](lab, tmp_path)).as_uri()
    tab.open(page)
    assert tab.run("document.querySelectorAll('h1').length") == 1
    if name != "corpus":  # which holds nothing but the lab's own texts
        assert "<script>alert(1)</script>" in tab.run("document.body.textContent")
    for scheme in ("light", "dark"):
        tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        sort_every_table(tab)
    if name in WITHOUT_TEXTS:
        assert tab.run("document.getElementById('viewer')") is None
    else:
        use_the_viewer(tab)
    fits_a_narrow_screen(tab)
    tab.run(SETTLE)
    assert tab.run("document.querySelectorAll('img, iframe, header script, #viewer script').length") == 0
    assert tab.complaints() == []
    assert {url.split("#")[0] for url in tab.requests()} == {page}


def sort_every_table(tab):
    tab.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    tab.run("document.querySelectorAll('th button').forEach(button => button.click())")


def use_the_viewer(tab):
    """Keys, the pointer, the filter, and the link to a token."""
    entries = tab.run(VISIBLE)
    assert entries > 0
    tab.run("document.querySelector('[data-t=\"0\"]').click()")
    tab.press("j", "k", "End")
    last = tab.run("Number(document.activeElement.dataset.t)")
    assert f"token {last} of {last + 1}" in tab.run(PANEL)
    tab.run("document.querySelector('[data-t=\"0\"]').scrollIntoView({block: 'center'})")
    box = tab.run("document.querySelector('[data-t=\"0\"]').getClientRects()[0].toJSON()")
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=box["x"] + 2, y=box["y"] + box["height"] / 2)
    assert f"token 0 of {last + 1}" in tab.run(PANEL)
    tab.run("document.querySelectorAll('#score option').forEach(o => { const s = document.getElementById('score');"
            "s.value = o.value; s.dispatchEvent(new Event('change')) })")  # fmt: skip
    tab.press("/", *"no such text")
    assert tab.run(VISIBLE) == 0
    tab.press("Escape")
    assert tab.run(VISIBLE) == entries
    follow_a_link(tab)


def follow_a_link(tab):
    """The link to a token leads back to it from wherever one is, and is the address there."""
    name, heading = "document.querySelector('#facts h3').textContent", "document.querySelector('#panel h3').textContent"
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)  # from a token, which the panel would show
    tab.press("j")
    tab.run("[...document.querySelectorAll('.token')].at(-1).click()")
    shown = tab.run(name), tab.run(heading)
    link = tab.run("document.querySelector('#panel a').getAttribute('href')")
    tab.press(*"kkkk", "Home")
    tab.run(SETTLE)
    tab.run(f"location.hash = {json.dumps(link)}, {SETTLE}")
    assert (tab.run(name), tab.run(heading)) == shown
    assert tab.run("location.hash") == link


def fits_a_narrow_screen(tab):
    tab.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=False)
    try:
        assert tab.run(f"{SETTLE}.then(() => document.documentElement.scrollWidth)") == 390
    finally:
        tab.call("Emulation.setDeviceMetricsOverride", width=1280, height=1000, deviceScaleFactor=1, mobile=False)
