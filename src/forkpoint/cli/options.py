"""From arguments and YAML to a verb's frozen dataclass, by jsonargparse; every mistake becomes one sentence.

A verb's options are the fields of one dataclass; the string under each field is its help text. A list field is
given by repeating its flag, a true/false field by naming it.
"""

from __future__ import annotations

import difflib
import json
import re
import typing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from forkpoint.cli.examples import examples_of
from forkpoint.types import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class LoadingOptions:
    """How a model is loaded."""

    device: str = "auto"
    """cpu, cuda, cuda:1, mps, ...; auto takes a GPU where there is one"""
    dtype: str = "auto"
    """auto (as stored), float32, bfloat16 or float16"""
    attn_implementation: str | None = None
    """the attention that transformers uses for prompts and scores: sdpa, eager, flash_attention_2, ..."""
    trust_remote_code: bool = False
    """run model code that the Hub repository brings along"""


@dataclass(frozen=True)
class ModelOptions(LoadingOptions):
    """Which model."""

    model: str = "lab"
    """`lab` (embedded), a model directory, or a Hub id"""
    revision: str | None = None
    """branch, tag or commit of a Hub model"""


@dataclass(frozen=True)
class LocalOptions(ModelOptions):
    """Which model, run by transformers in this process."""

    memory_gib: float | None = None
    """memory that keys, values and logits may take (default: a share of the device's)"""


@dataclass(frozen=True)
class EngineOptions(LocalOptions):
    """Which model, and what runs it."""

    engine: typing.Literal["transformers", "vllm", "openai", "ray"] = "transformers"
    """transformers (in this process), vllm, openai (a server of completions), or ray (replicas of one of the first
    two)"""
    tensor_parallel_size: int = 1
    """vllm: GPUs that share one copy of the model"""
    engine_args: str | None = None
    """vllm: further arguments of vllm.LLM, as JSON: '{"gpu_memory_utilization": 0.8}'"""
    base_url: str | None = None
    """openai: address of the server, as http://localhost:8000/v1; its key is read from OPENAI_API_KEY"""
    served_model: str | None = None
    """openai: the model's name there (default: --model, which says where its tokenizer is)"""
    concurrency: int = 64
    """openai: requests in flight at a time"""
    replicas: int = 1
    """ray: copies of the model, each in a process of its own"""
    inner: typing.Literal["transformers", "vllm"] = "transformers"
    """ray: what each replica is"""


@dataclass(frozen=True)
class TaskOptions:
    """Which problems."""

    task: str = "lab"
    """lab, gsm8k, math500, aqua, or jsonl (any file, with --data)"""
    data: str | None = None
    """local file (JSON, CSV, Parquet, ...) or other data set to read in place of the task's own"""
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
class SamplingOptions:
    """How responses are sampled."""

    prompt: str = "cot"
    """plain (Q and A), cot (let's think step by step), few-shot, or chat (the tokenizer's template)"""
    temperature: float = 1.0
    """temperature of the policy that samples"""
    top_p: float = 1.0
    """nucleus: the likeliest tokens that together have this probability"""
    top_k: int = 0
    """only the k likeliest tokens (0: all)"""
    min_p: float = 0.0
    """only tokens with this share of the likeliest one's probability"""
    top_n_sigma: float = 0.0
    """only tokens whose logit is within n standard deviations of the highest (0: all)"""
    max_tokens: int | None = None
    """longest response in tokens (default: by task)"""
    seed: int = 0
    """seed of every random draw"""


@dataclass(frozen=True)
class RunOptions:
    """Where a run is kept."""

    out: Path | None = None
    """directory of the run (default: runs/VERB-..., named after the configuration)"""
    quiet: bool = False
    """no progress bar"""


class _Parser(ArgumentParser):
    """A parser whose help ends with examples, each on one line as it was written."""

    examples = ""

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        return f"{super().format_help(*args, **kwargs)}{self.examples}"


def parser_of(verb: str, options: type[Any], positional: tuple[str, str] | None = None) -> ArgumentParser:
    """The verb's parser, made of its options."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = _Parser(prog=f"forkpoint {verb}", description=options.__doc__, exit_on_error=False, default_env=False)
    parser.examples = examples_of(verb)
    parser.add_argument("--config", action="config", help="YAML file with any of these options; flags override it")
    if positional:
        parser.add_argument(positional[0], type=typing.get_type_hints(options)[positional[0]], help=positional[1])
    parser.add_class_arguments(options, as_group=False, skip=set(positional[:1]) if positional else None)
    return parser


def parse(verb: str, options: type[T], argv: list[str], *, positional: tuple[str, str] | None = None) -> T:
    """The verb's options from its arguments and, with `--config FILE`, from YAML; flags override the file.

    `positional` names an option that is given as a bare word, with its help text.
    Prints the help and exits for --help. Raises UserError for anything unknown (suggesting the nearest name) or of
    the wrong type.
    """
    parser, hints = parser_of(verb, options, positional), typing.get_type_hints(options)
    try:
        namespace = parser.parse_args(_spell_out(argv, hints))
    except (ArgumentError, TypeError, ValueError) as error:
        if positional and f"arguments are required: {positional[0]}" in str(error):
            wanted = f"{positional[1]}: forkpoint {verb} {positional[0].upper()}"
            raise UserError(f"{verb} needs {wanted}") from None
        raise UserError(_explain(verb, str(error), [f.name for f in fields(options)])) from None  # type: ignore[arg-type]
    values = {f.name: namespace[f.name] for f in fields(options)}  # type: ignore[arg-type]
    return options(**values)


def _spell_out(argv: list[str], hints: dict[str, Any]) -> list[str]:
    """Flags as jsonargparse wants them, after --config so that they override it whatever the order.

    A list's flags become one with all values, a true/false flag gets its value, dashes become underscores.
    """
    first: list[str] = []
    others: list[str] = []
    lists: dict[str, list[str]] = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        start, equals, value = word.partition("=")
        name = start[2:].replace("-", "_") if start.startswith("--") else ""
        if name == "config":
            first += [word] if equals or not words else [word, words.pop(0)]
        elif name not in hints:
            others.append(word)
        elif hints[name] is bool and not equals:
            others.append(f"--{name}={words.pop(0).lower() if _is_bool(words) else 'true'}")
        elif hints[name] == list[str] and (equals or words):
            lists.setdefault(name, []).append(value if equals else words.pop(0))
        else:
            others += [f"--{name}{equals}{value}"] if equals or not words else [f"--{name}", words.pop(0)]
    return [*first, *others, *(f"--{name}={json.dumps(values)}" for name, values in lists.items())]


def _is_bool(words: list[str]) -> bool:
    return bool(words) and words[0].lower() in ("true", "false")


def flag(name: str) -> str:
    """An option as it is written on the command line."""
    return f"--{name.replace('_', '-')}"


def _explain(verb: str, message: str, names: list[str]) -> str:
    """jsonargparse's message as one sentence, with the nearest name for an unknown option."""
    if unknown := re.search(r"unrecognized arguments: (\S+)|Option '([^']+)' is not accepted", message):
        given = (unknown[1] or unknown[2]).partition("=")[0]
        if unknown[1] and not given.startswith("-"):
            return f"unexpected argument {given!r}; options are given as --NAME VALUE, see forkpoint {verb} --help"
        near = difflib.get_close_matches(given.lstrip("-").replace("-", "_"), names, n=1, cutoff=0.5)
        meant = [flag(name) if unknown[1] else name for name in near]
        hint = f", did you mean {meant[0]}?" if meant else f"; forkpoint {verb} --help lists the options"
        return f"unknown option {given}{hint}"
    key = re.search(r'Parser key "([^"]+)"', message)
    value = re.search(r"(?:Given|Got) value: (.*)", message)
    if key and value and key[1] in names:
        wanted = re.findall(r"Expected an? <class '(\w+)'>", message)
        words = {"int": "a whole number", "float": "a number", "bool": "true or false", "list": "a list", "str": "text"}
        choices = re.search(r"Literal\[([^\]]*)\]", message)
        kinds = " or ".join(dict.fromkeys(words.get(w, w) for w in wanted if w != "NoneType")) or "another value"
        wanted_text = f"one of {choices[1]}" if choices else kinds
        return f"--{key[1]} must be {wanted_text}, but is {value[1].strip()!r}"
    return re.sub(r"\s*\n\s*", " ", message.replace('Parser key "config"', "--config")).strip()
