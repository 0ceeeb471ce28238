"""`forkpoint completion SHELL`: the script with which a shell completes verbs, options and choices.

shtab makes it of the verbs' own parsers. It is static: nothing of forkpoint runs at a press of the tab key.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from forkpoint.cli.option_groups import BARE
from forkpoint.cli.verb import Verb


@dataclass
class CompletionOptions:
    """Print the script with which a shell completes forkpoint's verbs, options and choices."""

    shell: Literal["bash", "zsh", "fish", "tcsh"] = field(metadata=BARE)
    """bash, zsh, fish or tcsh"""


def print_script(options: CompletionOptions) -> None:
    """Print the script of one parser of all verbs; those of two words stand under their first word."""
    import shtab

    from forkpoint.cli import load_verb
    from forkpoint.cli.options import parser_of
    from forkpoint.cli.verbs import VERBS as SUMMARIES

    root = argparse.ArgumentParser("forkpoint")
    root.add_argument("--version", action="store_true", help="show the version")
    below = {"": root.add_subparsers()}
    for verb, (_, summary) in SUMMARIES.items():
        first, _, last = verb.rpartition(" ")
        if first not in below:
            below[first] = below[""].add_parser(first, help=f"forkpoint {first} ...").add_subparsers()
        kind = load_verb(verb).OPTIONS
        own = parser_of(verb, kind)
        _name_values(own, get_type_hints(kind))
        below[first].add_parser(last, help=summary, parents=[own], add_help=False)
    print(shtab.complete(root, options.shell, root_prefix="forkpoint"))


def _name_values(parser: argparse.ArgumentParser, hints: dict[str, Any]) -> None:
    """Give each option without choices those that are known, or paths."""
    import shtab

    from forkpoint.tasks import STYLES, TASKS

    known = {
        "task": TASKS, "prompt": STYLES, "device": ("auto", "cpu", "cuda", "mps"),
        "dtype": ("auto", "float32", "bfloat16", "float16"),
    }  # fmt: skip
    for action in parser._actions:
        hint = hints.get(action.dest)
        if values := known.get(action.dest) or (("true", "false") if action.metavar == "BOOL" else ()):
            action.choices = tuple(values)
        elif action.dest == "config" or {str, Path} & {hint, *get_args(hint)}:
            action.complete = shtab.FILE  # type: ignore[attr-defined]


VERBS = (Verb("completion", CompletionOptions, print_script),)
