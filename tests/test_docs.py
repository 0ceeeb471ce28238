"""The documentation is true: its Python runs, and its commands are ones that the command line takes.

What cannot run offline is read as far as it goes: a client's Python is compiled, other programs' commands are looked at
word by word (`PROGRAMS`). A block in another language, or a command of another program, fails.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml

from forkpoint.cli import find_verb, load_verb, main
from forkpoint.cli.option_groups import EngineOptions, LocalOptions
from forkpoint.cli.verbs import EXAMPLES, VERBS
from forkpoint.decoding.strategies import STRATEGIES
from forkpoint.evaluation.evaluate import plan
from forkpoint.tasks import STYLES, TASKS

DOCUMENTED = {verb: "training" if verb.startswith("train ") else verb for verb in VERBS} | {
    "eval": "evaluation",
    "lab corpus": "lab",
    "lab solutions": "lab",
    "convert": "how-to",
    "serve": "serving",
    "doctor": "cli",
    "show": "report",
    "merge": "training",
    **dict.fromkeys(("score", "select", "train clm", "train slm", "dynamics"), "selective"),
}
ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("README.md"), *sorted(ROOT.glob("docs/*.md"))]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return [body for name, body in _BLOCK.findall(page.read_text(encoding="utf-8")) if name == language]


def lines_of(block: str) -> Iterator[list[str]]:
    """The words of every command in a block, `&&` and `&` between two of them taken apart; without comments."""
    for line in block.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), "&"]:
            if word not in ("&", "&&"):
                words.append(word)
            elif words:
                yield words
                words = []


def commands(page: Path) -> Iterator[list[str]]:
    """The arguments of every `forkpoint` command in the page's bash blocks."""
    for block in blocks(page, "bash"):
        for words in lines_of(block):
            if Path(words[0]).name == "forkpoint":
                yield words[1:]


def with_any(language: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, language)]


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """An empty working directory, so that what a page writes stays apart."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
        check_forkpoint(argv)


def check_forkpoint(argv: list[str]) -> None:
    """That the command line takes the arguments; nothing runs."""
    if {"--help", "-h", "--version"} & set(argv):
        return
    verb, rest = find_verb(argv)
    options = load_verb(verb).parse_options(rest)
    if verb == "run":
        found = options.recipe if options.recipe.exists() else ROOT / options.recipe
        assert replace(options, recipe=found).content.stages
    elif verb == "eval":
        assert options.task in TASKS
        assert options.prompt in STYLES
        plan(options.strategy, options.sweep)


@pytest.mark.parametrize("verb", EXAMPLES)
def test_an_example_of_the_help_is_a_command(verb):
    for line in EXAMPLES[verb]:
        words = shlex.split(re.sub(r"^source <\(|\)$| > .*", "", line))
        argv = words[words.index("forkpoint") + 1 :]
        assert find_verb(argv)[0] == verb
        check_forkpoint(argv)


# Commands of other programs: what of them can be looked at without a GPU, a server or a network.


def check_make(words: list[str]) -> None:
    assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def check_python(words: list[str]) -> None:
    """A script of the repository with options that it knows, code that compiles, or a module."""
    if words[0] == "-c":
        compile(words[1], "docs", "exec")
    elif words[0] == "-m":
        assert words[1] in ("venv", "vllm.entrypoints.openai.api_server")
    else:
        source = (ROOT / words[0]).read_text(encoding="utf-8")
        for option in (word for word in words[1:] if word.startswith("-")):  # written out there, or as a name
            assert f'"{option}"' in source or f'"{option[2:].replace("-", "_")}"' in source, option


def check_accelerate(words: list[str]) -> None:
    """A configuration of ours, and a verb that takes what follows."""
    assert words[0] == "launch"
    assert (ROOT / words[words.index("--config_file") + 1]).exists()
    at = words.index("-m")
    assert words[at + 1] == "forkpoint"
    check_forkpoint(words[at + 2 :])


PROGRAMS: dict[str, Callable[[list[str]], None]] = {
    "make": check_make,
    "python": check_python,
    "accelerate": check_accelerate,
    **dict.fromkeys(("git", "cd", "curl", "pip", "activate", "export", "wait", "mkdir", "vllm"), lambda words: None),
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_is_looked_at(page, workplace):
    """No language but those that a test here reads, and no command but of a program that it knows."""
    for language, block in _BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "py":  # for a server or a GPU: run in tests/serving and tests_vllm, where that can be
            compile(block, page.name, "exec")
        elif language == "yaml" or (not language and re.match(r"\w+:", block)):
            assert isinstance(yaml.safe_load(block), dict)
        elif language != "python":
            assert language in ("bash", "sh", ""), language
            for words in lines_of(block):
                name = Path(words[-1] if words[0] == "." else words[0]).name
                assert name in {"forkpoint", *PROGRAMS}, f"a command of another program: {' '.join(words)}"
                if name != "forkpoint":
                    PROGRAMS[name](words[1:])


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(name):
    """Those of the pages are checked where the site is built (`make docs`)."""
    links = re.findall(r"\]\(([^)\s]+)\)", (ROOT / name).read_text(encoding="utf-8"))
    for target, _, anchor in (link.partition("#") for link in links if "://" not in link):
        path = target or name
        assert (ROOT / path).is_file(), path
        titles = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, (
            anchor
        )


@pytest.mark.slow
def test_the_start_page_works(workplace, capsys):
    """Its commands that need no network, one after the other, print what it quotes but for numbers and spaces."""
    typed = [argv for argv in commands(ROOT / "docs" / "start.md") if "Qwen" not in " ".join(argv)]
    assert [argv[0] for argv in typed] == ["doctor", "eval", "critical"]
    assert [main(argv) for argv in typed] == [0, 0, 0]
    prose = _BLOCK.sub("", (ROOT / "docs" / "start.md").read_text(encoding="utf-8"))
    quoted = re.findall(r"^    (.*)$", prose, re.MULTILINE)
    assert len(quoted) > 15
    printed = capsys.readouterr().out.splitlines()
    shapes = [{re.sub(r"[\d.,+-]+", "0", "".join(line.split())) for line in lines} for lines in (quoted, printed)]
    assert shapes[0] <= shapes[1]
    for run in ("first", "first-critical"):
        assert (workplace / "runs" / run / "report.html").stat().st_size


def table_row(page: str, *cells: str) -> str:
    """The row of a page's tables in which each of the cells' texts stands in code marks; "" if there is none."""
    rows = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8").splitlines()
    return next((row for row in rows if row.startswith("|") and all(f"`{cell}`" in row for cell in cells)), "")


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_is_documented_with_its_defaults(name):
    row = table_row("strategies", name)
    for option, default in STRATEGIES[name][1].items():
        assert f"`{option}` ({str(default).lower()})" in row
        assert name != "cot-decoding" or str(default).lower() in table_row("cot-decoding", option)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("run", "report", "lab train", "completion")])
def test_every_option_is_documented(verb):
    of_engines = {f.name for f in fields(EngineOptions)} - {f.name for f in fields(LocalOptions)} - {"engine"}
    for name in {f.name for f in fields(load_verb(verb).OPTIONS)} - {"run", "further"}:
        page = "engines" if name in of_engines and verb != "serve" else DOCUMENTED[verb]
        assert table_row(page, f"--{name}"), name
