"""The help: every verb in one group, options and valid examples at each verb, and nothing heavy for it."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from dataclasses import fields
from fnmatch import fnmatch
from pathlib import Path

import pytest

from forkpoint.cli import load_verb, main
from forkpoint.cli.verbs import ALIASES, EXAMPLES, GROUPS, VERBS

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "datasets", "ray", "vllm", "trl", "peft", "matplotlib", "rich")


def help_of(capsys, *argv: str) -> str:
    """What --help prints; most verbs then leave by SystemExit, as argparse does."""
    with contextlib.suppress(SystemExit):
        main([*argv, "--help"])
    return capsys.readouterr().out


def test_the_first_page_names_every_verb_under_one_heading(capsys):
    text = help_of(capsys)
    assert re.findall(r"^(\S.*):$", text, re.MULTILINE) == list(GROUPS)
    assert re.findall(r"^  (\S+(?: \S+)?)  ", text, re.MULTILINE) == list(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verbs_help_has_its_options_and_examples(capsys, verb):
    text = help_of(capsys, *verb.split())
    assert text.startswith(f"usage: forkpoint {verb}")
    for name in (f.name for f in fields(load_verb(verb).OPTIONS) if f.name != "further"):
        assert re.search(rf"^  (--)?{name}\b", text, re.MULTILINE | re.IGNORECASE), name
    assert text.partition("\nexamples:\n")[2].splitlines() == [f"  {line}" for line in EXAMPLES[verb]]
    for alias in (alias for alias, known in ALIASES.items() if known == verb):
        assert help_of(capsys, *alias.split()) == text


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
        "from forkpoint.cli import main\n"
        "from forkpoint.cli.verbs import VERBS\n"
        "for verb in VERBS:\n"
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "        main([*verb.split(), '--help'])\n"
        f"sys.exit(', '.join(name for name in {HEAVY} if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
