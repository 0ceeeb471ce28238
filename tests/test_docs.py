"""The documentation is true: its Python runs, and its commands are ones that the command line takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path

import pytest

from forkpoint.cli import VERBS, _find_verb
from forkpoint.cli.eval import EvalOptions
from forkpoint.cli.options import EngineOptions, LocalOptions, parse
from forkpoint.cli.run import parse_options, recipe_of
from forkpoint.decoding.strategies import _OPTIONS, parse_strategy
from forkpoint.evaluation.evaluate import plan
from forkpoint.lab.corpus import SLIP_PROBABILITY
from forkpoint.sampling.limits import _ALLOWED
from forkpoint.tasks import STYLES, TASKS

MODULES = {verb: import_module(name) for verb, (name, _) in VERBS.items()}
DOCUMENTED = {verb: "training" if verb.startswith("train ") else verb for verb in VERBS} | {
    "eval": "evaluation",
    "lab corpus": "lab",
    "serve": "serving",
    "doctor": "cli",
    **dict.fromkeys(("score", "select", "train clm", "train slm", "dynamics"), "selective"),
}
ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("README.md"), *sorted(ROOT.glob("docs/*.md"))]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return [body for name, body in _BLOCK.findall(page.read_text(encoding="utf-8")) if name == language]


def commands(page: Path) -> Iterator[list[str]]:
    """The arguments of every `forkpoint` command in the page's bash blocks."""
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and Path(words[0]).name == "forkpoint":
                yield words[1:]


def with_any(language: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, language)]


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """An empty working directory, so that what a page writes stays apart."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_blocks_are_found():
    assert {"cot-decoding", "samplers", "engines", "critical"} <= {page.stem for page in with_any("python")}
    assert sum(1 for page in PAGES for argv in commands(page) if argv[0] == "eval") > 8


@pytest.mark.parametrize("page", with_any("python"), ids=lambda page: page.stem)
def test_python_runs(page, workplace):
    namespace = {"__name__": f"docs_{page.stem}"}
    for i, block in enumerate(blocks(page, "python"), start=1):
        exec(compile(block, f"{page.name} block {i}", "exec"), namespace)


@pytest.mark.parametrize("page", with_any("bash"), ids=lambda page: page.stem)
def test_commands_parse(page, workplace):
    for block in blocks(page, "yaml"):  # its first line names the file: "# compare.yaml"
        (workplace / block.splitlines()[0].lstrip("# ")).write_text(block)
    for argv in commands(page):
        if {"--help", "-h", "--version"} & set(argv):
            continue
        verb, rest = _find_verb(argv)
        if verb == "report":
            assert len(rest) == 1
            continue
        if verb == "run":
            given = parse_options(rest)
            recipe_of(given if given.recipe.exists() else replace(given, recipe=ROOT / given.recipe))
            continue
        module = MODULES[verb]
        if hasattr(module, "parse_options"):
            module.parse_options(rest)
            continue
        options = parse(verb, module.OPTIONS, rest)
        if verb == "eval":
            check_eval(options)


def check_eval(options: EvalOptions) -> None:
    """What `eval` checks before it loads anything."""
    assert options.task in TASKS
    assert options.prompt in STYLES
    for strategy in options.strategy:
        parse_strategy(strategy)
    if options.strategy:
        plan(options.strategy, options.sweep)


def table_row(page: str, *cells: str) -> str:
    """The row of a page's tables in which each of the cells' texts stands in code marks; "" if there is none."""
    rows = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8").splitlines()
    return next((row for row in rows if row.startswith("|") and all(f"`{cell}`" in row for cell in cells)), "")


@pytest.mark.parametrize("name", _OPTIONS)
def test_every_strategy_is_documented_with_its_defaults(name):
    row = table_row("strategies", name)
    for option, default in _OPTIONS[name].items():
        assert f"`{option}` ({str(default).lower()})" in row
        assert name != "cot-decoding" or str(default).lower() in table_row("cot-decoding", option)


def test_every_sampler_field_is_documented():
    assert all(table_row("samplers", field) for field in _ALLOWED if field != "max_tokens")


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("run", "report", "lab train", "completion")])
def test_every_option_is_documented(verb):
    of_engines = {f.name for f in fields(EngineOptions)} - {f.name for f in fields(LocalOptions)} - {"engine"}
    for option in fields(MODULES[verb].OPTIONS):
        page = "engines" if option.name in of_engines and verb != "serve" else DOCUMENTED[verb]
        assert table_row(page, f"--{option.name.replace('_', '-')}"), option.name


def test_every_task_is_documented_with_its_length():
    for name, task in TASKS.items():
        assert table_row("tasks", name).endswith(f"| {task.max_tokens} |")


def test_the_lab_page_quotes_the_corpus():
    text = (ROOT / "docs" / "lab.md").read_text(encoding="utf-8")
    assert f"wrong with probability {SLIP_PROBABILITY}" in text
