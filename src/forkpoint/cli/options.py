"""From arguments and YAML to a verb's options, by argparse; every mistake becomes one sentence.

A verb's options are the fields of one dataclass; the string under a field is its help text. A field without a default
must be there, a list's flag is repeated, a true/false flag is named. Flags take `-` for `_`.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import textwrap
from dataclasses import MISSING, Field, fields
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from forkpoint.cli.option_groups import TransformersOptions
from forkpoint.cli.verbs import examples_of
from forkpoint.types import UserError

T = TypeVar("T")
ELSEWHERE = {
    "ref_model": "the reference is --model as it is before the training",
    "label_smoothing": "no conservative or robust DPO is offered",
    "loss_type": "the loss is the verb: train dpo, rpo, tdpo, critical-dpo, fork-dpo or sft",
    "beta": "critical-dpo has --gamma, and sft, clm and slm have no such constant",
}
"""Options of trainings elsewhere that are something else here, or nothing."""


class _Append(argparse.Action):
    """Collects the values of a repeated flag, which replace the default."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [values] if before is self.default else [*before, values])


class _BareWord(argparse.Action):
    """Keeps a bare word; without one, the flag of this name counts."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if values is not None:
            setattr(namespace, self.dest, values)


def parse(verb: str, options: type[T], argv: list[str]) -> T:
    """The verb's options from its arguments and, with `--config FILE`, from YAML; flags override the file.

    Prints the help and exits for --help. Raises UserError for anything unknown (suggesting the nearest name) or of the
    wrong type.
    """
    parser = parser_of(verb, options)
    arguments, rest = _parsed(parser, argv)
    settings = _settings(arguments.config)
    own = known = _names(parser)
    if issubclass(options, TransformersOptions) and (rest or settings.keys() - own):
        parser = parser_of(verb, options, _transformers_parser())
        known = _names(parser)
    for name, value in settings.items():
        if name not in known:
            raise UserError(f"{arguments.config[-1]}: {_unknown(verb, name, own, known)}")
        if value not in (None, []):
            default = parser.get_default(name)
            is_switch = isinstance(value, bool) and isinstance(default, bool)
            text = value if is_switch else _text(value, many=isinstance(default, list))
            for action in parser._actions:
                if action.dest == name and action.option_strings:  # not a bare word, which would override its flag
                    action.default = text
    arguments, rest = _parsed(parser, argv)
    if rest and not rest[0].startswith("-"):
        raise UserError(f"unexpected argument {rest[0]!r}; options are --NAME VALUE, see forkpoint {verb} --help")
    if rest:
        raise UserError(_unknown(verb, rest[0].partition("=")[0], own, known))
    values = {name: value for name, value in vars(arguments).items() if name in known}
    for f in fields(options):  # type: ignore[arg-type]
        if _is_required(f) and values[f.name] in (None, []):
            label = f.name.upper() if f.metadata.get("bare") else f"--{f.name}"
            raise UserError(f"{verb} needs {label}: {_help_texts(options)[f.name]}")
    if issubclass(options, TransformersOptions):
        values["further"] = {name: values.pop(name) for name in [*values] if name not in own}
    return options(**values)


def parser_of(verb: str, options: type[Any], *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The verb's parser, made of its options and those of `parents`."""
    words = [f.name for f in fields(options) if f.metadata.get("bare")]
    kinds = (options, TransformersOptions) if issubclass(options, TransformersOptions) else (options,)
    parser = argparse.ArgumentParser(
        usage=" ".join(["forkpoint", verb, *map(str.upper, words), "[options]"]), epilog=examples_of(verb),
        description="\n\n".join(str(inspect.getdoc(kind)) for kind in kinds), parents=parents,
        formatter_class=argparse.RawDescriptionHelpFormatter, conflict_handler="resolve", allow_abbrev=False,
        exit_on_error=False,
    )  # fmt: skip
    parser.add_argument("--config", action="append", default=[], help="YAML file of options, which flags override")
    hints, texts = get_type_hints(options), _help_texts(options)
    for f in (f for f in fields(options) if f.name != "further"):
        reading, text = _reading(f, hints[f.name], switch=bool(words)), texts[f.name].replace("%", "%%")
        default = f.default if f.default_factory is MISSING else f.default_factory()
        if _is_required(f):
            default = [] if get_origin(hints[f.name]) is list else None
        if not (default in (None, False, []) or "(default" in text):
            text = f"{text} (default: {default})"
        parser.add_argument(f"--{f.name}", default=default, help=text, **reading)
        if f.name in words:
            word = {"action": _BareWord, "nargs": "?", "metavar": f.name.upper()}
            parser.add_argument(f.name, help=text, **{**reading, **word})
        if "_" in f.name:
            dashed = f"--{f.name.replace('_', '-')}"
            parser.add_argument(dashed, dest=f.name, default=default, help=argparse.SUPPRESS, **reading)
    return parser


def _is_required(f: Field[Any]) -> bool:
    return f.default is f.default_factory is MISSING


def _names(parser: argparse.ArgumentParser) -> set[str]:
    return {action.dest for action in parser._actions} - {"help", "config"}


def _help_texts(options: type[Any]) -> dict[str, str]:
    """The string under each field."""
    texts: dict[str, str] = {}
    for kind in reversed(options.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # type: ignore[attr-defined]
        for pair in pairwise(body):
            match pair:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    texts[name] = " ".join(text.split())
    return texts


def _reading(f: Field[Any], hint: Any, *, switch: bool) -> dict[str, Any]:
    """The keywords of add_argument for a field of this type. A `switch` takes no value: beside a bare word, that would
    be taken for it."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kind = next(kind for kind in kinds if kind is not NoneType)
    values = get_args(kind) if get_origin(kind) is Literal else (True, False) if kind is bool else ()
    known = {str(value).lower() if kind is bool else str(value): value for value in values}
    wanted = f"one of {', '.join(known)}" if known else {int: "a whole number", float: "a number"}.get(kind, "text")

    def read(text: str) -> Any:
        if NoneType in kinds and text == "null":
            return None
        try:
            value = known[text.lower() if kind is bool else text] if known else kind(text)
        except (KeyError, ValueError):
            raise argparse.ArgumentTypeError(f"must be {wanted}, but is {text!r}") from None
        if value < (least := f.metadata.get("least", value)):
            raise argparse.ArgumentTypeError(f"must be at least {least}, but is {value}")
        return value

    if get_origin(kind) is list:
        return {"action": _Append, "metavar": "TEXT"}
    if kind is bool:
        return {"action": "store_true"} if switch else {"type": read, "nargs": "?", "const": True, "metavar": "BOOL"}
    return {"type": read, **({"choices": values} if values else {"metavar": kind.__name__.upper()})}


def _parsed(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    try:
        return parser.parse_known_intermixed_args(argv)
    except argparse.ArgumentError as error:
        name = str(error.argument_name).partition("/")[0]  # of transformers' with both spellings
        raise UserError(f"{name} {error.message}") from None


def _settings(paths: list[str]) -> dict[str, Any]:
    """The options in YAML files; the later ones override."""
    if not paths:
        return {}
    from forkpoint.recipe import read_yaml

    return {name.replace("-", "_"): value for path in paths for name, value in read_yaml(Path(path)).items()}


def _text(value: Any, *, many: bool = False) -> Any:
    """A value of a YAML file as a flag has it; `many` texts for an option that is a list."""
    if many:
        return [_text(one) for one in (value if isinstance(value, list) else [value])]
    return json.dumps(value) if isinstance(value, bool | dict | list) else str(value)


def _unknown(verb: str, option: str, own: set[str], known: set[str]) -> str:
    """The sentence about an unknown option, with the nearest name, if there is one of the verb's `own`."""
    name = option.lstrip("-").replace("-", "_")
    dashes = "--" if option.startswith("-") else ""
    near = [one for one in sorted(known) if one.endswith(f"_{name}")]
    if not near and name in ELSEWHERE:
        return f"there is no {dashes}{name} here: {ELSEWHERE[name]}"
    near = near or get_close_matches(name, own, 1, cutoff=0.6) or get_close_matches(name, known, 1, cutoff=0.5)
    hint = f", did you mean {dashes}{near[0]}?" if near else f"; forkpoint {verb} --help lists the options"
    return f"unknown option {dashes}{name}{hint}"


def _transformers_parser() -> argparse.ArgumentParser:
    """A parser of transformers' TrainingArguments, which leaves out what is not said."""
    from transformers import HfArgumentParser, TrainingArguments
    from transformers.hf_argparser import string_to_bool

    parser: argparse.ArgumentParser = HfArgumentParser(TrainingArguments, add_help=False)
    for action in parser._actions:
        action.default = argparse.SUPPRESS
        if action.type is string_to_bool:  # also those that may be None are named alone
            action.nargs, action.const = "?", True
    return parser
