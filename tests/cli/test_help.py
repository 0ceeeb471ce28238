"""The help: every verb in one group, options and valid examples at each verb, and nothing heavy for it."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path

import pytest

from forkpoint.cli import ALIASES, GROUPS, VERBS, _find_verb, main
from forkpoint.cli.examples import EXAMPLES
from forkpoint.cli.options import parse
from forkpoint.cli.run import RecipeOptions, parse_options, recipe_of

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "datasets", "ray", "vllm", "trl", "peft", "matplotlib", "rich")


def help_of(capsys, *argv: str) -> str:
    """What --help prints; most verbs then leave by SystemExit, as argparse does."""
    with contextlib.suppress(SystemExit):
        main([*argv, "--help"])
    return capsys.readouterr().out


def arguments(line: str) -> list[str]:
    """What follows `forkpoint` in a command."""
    words = shlex.split(re.sub(r"^source <\(|\)$| > .*", "", line))
    return words[words.index("forkpoint") + 1 :]


def test_the_first_page_names_every_verb_under_one_heading(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    headings = re.findall(r"^(\S.*):$", text, re.MULTILINE)
    assert headings == list(GROUPS)
    named = re.findall(r"^  (\S+(?: \S+)?)  ", text, re.MULTILINE)
    assert named == list(VERBS) == [verb for group in GROUPS.values() for verb in group]
    assert all(len(line) <= 110 for line in text.splitlines())


@pytest.mark.parametrize("verb", VERBS)
def test_a_verbs_help_has_its_options_and_examples(capsys, verb):
    text = help_of(capsys, *verb.split())
    assert text.startswith(f"usage: forkpoint {verb}")
    assert "Unval" not in text  # jsonargparse's word for a type that it could not make out
    options = getattr(import_module(VERBS[verb][0]), "OPTIONS", RecipeOptions if verb == "run" else None)
    for field in fields(options) if options else ():
        assert re.search(rf"^  (--)?{field.name}\b", text, re.MULTILINE), field.name
    assert text.partition("\nexamples:\n")[2].splitlines() == [f"  {line}" for line in EXAMPLES[verb]]


@pytest.mark.parametrize(("verb", "line"), [(verb, line) for verb in EXAMPLES for line in EXAMPLES[verb]])
def test_an_example_is_a_command(verb, line):
    found, rest = _find_verb(arguments(line))
    assert found == verb
    module = import_module(VERBS[verb][0])
    if verb == "report":
        assert len(rest) == 1
    elif verb == "run":
        options = parse_options(rest)
        recipe_of(RecipeOptions(ROOT / options.recipe))
    elif hasattr(module, "parse_options"):
        module.parse_options(rest)
    else:
        options = parse(verb, module.OPTIONS, rest)
        if verb == "eval":
            from forkpoint.evaluation.evaluate import plan

            plan(options.strategy, options.sweep)


def test_what_an_example_reads_another_one_writes():
    lines = [line for verb in EXAMPLES for line in EXAMPLES[verb] if "--inspect" not in line]
    written = {match[1]: line for line in lines if (match := re.search(r"--out runs/([\w-]+)", line))}
    assert len(written) == sum("--out runs/" in line for line in lines)  # each has a directory of its own
    assert {name for line in lines for name in re.findall(r"runs/([\w-]+)", line)} == written.keys()
    scored = {match[1] for line in lines if (match := re.search(r"--scores runs/([\w-]+)", line))}
    assert scored
    for name in scored:  # of the wrong ones of its samples, which pairs are made of
        assert not re.search("--(against|trajectories)", written[name])


def test_every_verb_has_examples_and_an_alias_the_help_of_its_verb(capsys):
    assert EXAMPLES.keys() == VERBS.keys()
    for alias, verb in ALIASES.items():
        assert help_of(capsys, *alias.split()) == help_of(capsys, *verb.split())


def test_the_environment_variables_that_we_read_are_documented():
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    names = {*re.findall(r"""environ(?:\.get|\.setdefault)?[\[(]["'](\w+)""", source), "FORKPOINT_API_KEY"}
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    rows = [row.split("|")[1] for row in page.splitlines() if row.startswith("|")]
    documented = [name for row in rows for name in re.findall(r"`([A-Z_*]+)`", row)]
    assert {"OPENAI_API_KEY", "XDG_CACHE_HOME"} <= names
    for name in names - {"PYTHONPATH"}:
        assert any(fnmatch(name, pattern) for pattern in documented), name


def test_the_help_of_all_verbs_imports_nothing_heavy():
    code = (
        "import contextlib, io, sys\n"
        "from forkpoint.cli import VERBS, main\n"
        "for verb in VERBS:\n"
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "        main([*verb.split(), '--help'])\n"
        f"sys.exit(', '.join(name for name in {HEAVY} if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
