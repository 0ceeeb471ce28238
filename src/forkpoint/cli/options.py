"""From arguments and YAML to a verb's frozen dataclass, by jsonargparse; every mistake becomes one sentence.

A verb's options are the fields of one dataclass; the string under each field is its help text. A list field is
given by repeating its flag, a true/false field by naming it.
"""

from __future__ import annotations

import difflib
import re
import typing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from forkpoint.types import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class EngineOptions:
    """Which model, and how it runs."""

    model: str = "lab"
    """`lab` (embedded), a model directory, or a Hub id"""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, ...; auto takes a GPU where there is one"""
    dtype: str = "auto"
    """auto (as stored), float32, bfloat16 or float16"""
    attn_implementation: str | None = None
    """the attention that transformers uses for prompts and scores: sdpa, eager, flash_attention_2, ..."""
    revision: str | None = None
    """branch, tag or commit of a Hub model"""
    trust_remote_code: bool = False
    """run model code that the Hub repository brings along"""
    memory_gib: float | None = None
    """memory that keys, values and logits may take (default: a share of the device's)"""


@dataclass(frozen=True)
class TaskOptions:
    """Which problems."""

    task: str = "lab"
    """lab, gsm8k, math500, aqua, or jsonl (any file, with --data)"""
    data: str | None = None
    """local JSON Lines file to read in place of the Hub"""
    split: str = "test"
    """the Hub data set's split; for the lab, test or train"""
    limit: int | None = None
    """only the first N problems"""
    question_column: str = "question"
    """jsonl: the column of the question"""
    answer_column: str = "answer"
    """jsonl: the column of the gold answer"""
    options_column: str | None = None
    """jsonl: the column with the list of options of a multiple-choice question"""
    kind: typing.Literal["number", "math", "option", "yesno"] | None = None
    """jsonl: how answers are read and compared (default: number)"""


@dataclass(frozen=True)
class RunOptions:
    """Where a run is kept."""

    out: Path | None = None
    """directory of the run (default: runs/VERB-..., named after the configuration)"""
    quiet: bool = False
    """no progress bar"""


def parse(verb: str, options: type[T], argv: list[str]) -> T:
    """The verb's options from its arguments and, with `--config FILE`, from YAML; flags override the file.

    Prints the help and exits for --help. Raises UserError for anything unknown (suggesting the nearest name) or of
    the wrong type.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog=f"forkpoint {verb}", description=options.__doc__, exit_on_error=False, default_env=False
    )
    parser.add_argument("--config", action="config", help="YAML file with any of these options; flags override it")
    parser.add_class_arguments(options, as_group=False)
    hints = typing.get_type_hints(options)
    try:
        namespace = parser.parse_args(_spell_out(argv, hints))
    except (ArgumentError, TypeError, ValueError) as error:
        raise UserError(_explain(verb, str(error), [f.name for f in fields(options)])) from None  # type: ignore[arg-type]
    values = {f.name: namespace[f.name] for f in fields(options)}  # type: ignore[arg-type]
    return options(**values)


def _spell_out(argv: list[str], hints: dict[str, Any]) -> list[str]:
    """Repeatable flags as jsonargparse's appending ones, and true/false flags with their value."""
    spelt = []
    for i, word in enumerate(argv):
        flag, equals, value = word.partition("=")
        name = flag[2:].replace("-", "_") if flag.startswith("--") else ""
        if name in hints:
            flag = f"--{name}"
            if hints[name] == list[str]:
                flag += "+"
            following = argv[i + 1] if i + 1 < len(argv) else ""
            if hints[name] is bool and not equals and following not in ("true", "false"):
                equals, value = "=", "true"
        spelt.append(f"{flag}{equals}{value}")
    return spelt


def _explain(verb: str, message: str, names: list[str]) -> str:
    """jsonargparse's message as one sentence, with the nearest name for an unknown option."""
    if unknown := re.search(r"unrecognized arguments: (\S+)|Option '([^']+)' is not accepted", message):
        given = (unknown[1] or unknown[2]).partition("=")[0]
        near = difflib.get_close_matches(given.lstrip("-").replace("-", "_"), names, n=1, cutoff=0.5)
        dashes = "--" if unknown[1] else ""
        hint = f", did you mean {dashes}{near[0]}?" if near else f"; forkpoint {verb} --help lists the options"
        return f"unknown option {given}{hint}"
    key = re.search(r'Parser key "([^"]+)"', message)
    value = re.search(r"Given value: (.*)|Got value: (.*)", message)
    if key and value and key[1] in names:
        wanted = re.findall(r"Expected an? <class '(\w+)'>", message)
        words = {"int": "a whole number", "float": "a number", "bool": "true or false", "list": "a list", "str": "text"}
        kinds = " or ".join(dict.fromkeys(words.get(w, w) for w in wanted if w != "NoneType")) or "another value"
        return f"--{key[1]} must be {kinds}, but is {(value[1] or value[2]).strip()!r}"
    return re.sub(r"\s*\n\s*", " ", message).strip()
