"""`forkpoint completion SHELL`: the script with which bash, zsh or fish completes verbs, options and choices.

It is static: nothing of forkpoint runs at a press of the tab key. The verbs' own dataclasses say what it holds; options
of transformers' TrainingArguments, which `train` takes beside its own, are not in it.
"""

from __future__ import annotations

import types
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from forkpoint.cli.options import parse, parser_of

DEVICES = ("auto", "cpu", "cuda", "mps")
TRUTH = ("true", "false")
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class CompletionOptions:
    """Print the script with which a shell completes forkpoint's verbs, options and choices.

    Put it where the shell looks: ~/.local/share/bash-completion/completions/forkpoint for bash, a file _forkpoint in a
    directory of $fpath for zsh, ~/.config/fish/completions/forkpoint.fish for fish.
    """

    shell: Literal["bash", "zsh", "fish"]


SHELLS = get_args(get_type_hints(CompletionOptions)["shell"])


@dataclass(frozen=True)
class Option:
    """An option as it is completed: its name without dashes before it, its help, and the values that it can have."""

    name: str
    help: str
    values: tuple[str, ...] = ()
    is_switch: bool = False


@dataclass(frozen=True)
class Verb:
    """A verb as it is completed. `words` may stand without a flag; `takes_files` is for a bare path."""

    name: str
    summary: str
    options: tuple[Option, ...]
    words: tuple[str, ...] = ()
    takes_files: bool = False


def parse_options(argv: list[str]) -> CompletionOptions:
    """The options of these arguments."""
    return parse("completion", CompletionOptions, argv, positional=("shell", "bash, zsh or fish"))


def run(argv: list[str]) -> None:
    """Print the script."""
    options = parse_options(argv)
    from forkpoint.cli.completion_scripts import SCRIPTS

    print(SCRIPTS[options.shell](completed_verbs()), end="")


def completed_verbs() -> list[Verb]:
    """All verbs with what is completed after them."""
    from forkpoint.cli.verbs import VERBS

    return [
        Verb(
            name, summary, _options(name, module), words=SHELLS if name == "completion" else (),
            takes_files=name in ("run", "report", "show"),
        )
        for name, (module, summary) in VERBS.items()
    ]  # fmt: skip


def _options(verb: str, module: str) -> tuple[Option, ...]:
    """The verb's options by its dataclass, with the help that its parser shows."""
    from forkpoint.cli import load_verb
    from forkpoint.cli.run import RecipeOptions
    from forkpoint.cli.show import ShowOptions

    asked = Option("help", "show all options, with examples", is_switch=True)
    bare = {"run": ("recipe", RecipeOptions), "show": ("run", ShowOptions)}  # those with a bare word
    word, options = bare.get(verb) or (None, getattr(load_verb(verb), "OPTIONS", None))
    if options is None:
        return (asked,)
    helps = {
        action.dest: action.help or ""
        for action in reversed(parser_of(verb, options, (word, "") if word else None)._actions)
    }
    hints = {name: hint for name, hint in get_type_hints(options).items() if name not in (word, "further")}
    on = {field.name for field in fields(options) if field.default is True}  # which take "false"
    own = (
        Option(n, _line(helps[n]), TRUTH if n in on else _values(n, hint), hint is bool and n not in on)
        for n, hint in hints.items()
    )
    return (*own, Option("config", _line(helps["config"])), asked)


def _line(text: str) -> str:
    return " ".join(text.split())


def _values(name: str, hint: Any) -> tuple[str, ...]:
    """The values that are known beforehand."""
    from forkpoint.tasks import STYLES, TASKS

    known: dict[str, Iterable[str]] = {"task": TASKS, "prompt": STYLES, "device": DEVICES, "dtype": DTYPES}
    return tuple(known.get(name, ())) or _literals(hint)


def _literals(hint: Any) -> tuple[str, ...]:
    if get_origin(hint) is Literal:
        return tuple(str(value) for value in get_args(hint))
    if isinstance(hint, types.UnionType):
        return tuple(value for part in get_args(hint) for value in _literals(part))
    return ()
