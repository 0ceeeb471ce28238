"""Recipes: verbs in a row from one YAML file, and what of it is left to do.

Reads the file, checks it and compares it with what was done. Starts nothing, removes nothing, and knows of the verbs
only what `RecipeVerb` holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import yaml

from forkpoint.files import read_json
from forkpoint.redaction import public
from forkpoint.types import UserError

Action = Literal["skip", "run", "resume", "redo"]
Option = str | int | float | bool | list[Any]
KEYS = ("out", "defaults", "stages")
RECORDS = "recipe.json"  # what was started and done, in the directory of the run
NOT_HERE = {
    "out": "each stage's directory is the recipe's own, named after the stage",
    "config": "write its options into the stage",
    "help": "see forkpoint VERB --help",
}
UNIMPORTANT = ("quiet",)  # options without which a stage is the same
REFERENCE = re.compile(r"\{([A-Za-z0-9_-]+)\}")


@dataclass(frozen=True, slots=True)
class RecipeVerb:
    """What a recipe must know of a verb: its options, a check of arguments that raises UserError, and whether a killed
    run of it goes on from where it was."""

    options: frozenset[str]
    check: Callable[[list[str]], object]
    resumes: bool


@dataclass(frozen=True, slots=True)
class Stage:
    """One verb with its options, defaults included. References stay as they are written, so that neither another
    spelling of the output directory nor moving it makes another stage."""

    name: str
    verb: str
    options: dict[str, Option]
    resumes: bool

    def arguments(self, out: Path) -> list[str]:
        """The verb and its flags, with the references to earlier stages as paths."""
        flags = [f"--{name}={_text(one, out)}" for name, value in self.options.items() for one in _values(value)]
        return [*self.verb.split(), *flags, f"--out={out / self.name}"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe's stages, in order. `name` is its file's."""

    name: str
    out: Path
    stages: tuple[Stage, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a stage that was started: how, and whether it is done. Without `options`, its directory is to be
    removed."""

    verb: str
    options: dict[str, Option] | None
    done: bool = False
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class StageStep:
    """What happens with a stage, and why."""

    stage: Stage
    action: Action
    why: str = ""


def read_recipe(path: Path, verb_of: Callable[[str], RecipeVerb], *, quiet: bool = False) -> Recipe:
    """The recipe in a file, each stage checked against its verb.

    `verb_of` raises UserError for a name that cannot be a stage. `quiet` is passed to every stage whose verb has it.
    Raises UserError, naming the file and the stage, for anything that could be known to be wrong before a stage runs.
    """
    content = read_yaml(path)
    with _within(str(path)):
        _check_names(content, KEYS, "key")
        contents = content.get("stages")
        if not isinstance(contents, dict) or not contents:
            raise UserError("'stages' should name at least one stage, each with its verb and options")
        out = content.get("out") or f"runs/{path.stem}"
        if not isinstance(out, str):
            raise UserError(f"'out' should be a directory, but is {out!r}")
        defaults = _options(content.get("defaults") or {}, "'defaults'")
        with _within("defaults"):
            _check_references(defaults, [], list(contents))
    stages: list[Stage] = []
    used: set[str] = set()
    for name, entry in contents.items():
        with _within(f"{path}, stage {name!r}"):
            verb, stage = _stage(name, entry, defaults, verb_of)
            _check_references(stage.options, [s.name for s in stages], list(contents))
            if quiet and "quiet" in verb.options:
                stage.options["quiet"] = True
            verb.check(stage.arguments(Path(out))[len(stage.verb.split()) :])
            used |= verb.options
            stages.append(stage)
    with _within(f"{path}, defaults"):
        _check_names(defaults, sorted(used), "option")
    return Recipe(path.stem, Path(out), tuple(stages))


def read_records(path: Path) -> tuple[str, dict[str, str], dict[str, Record]]:
    """The recipe's name, the verbs of its stages in order, and what is known of each stage that was started.

    A stage that is known may be none of the recipe any more. UserError for any other file.
    """
    content = read_json(path)
    try:
        records = {stage: Record(**record) for stage, record in content["stages"].items()}
        return str(content["recipe"]), dict(content["verbs"]), records
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is not what `forkpoint run` writes") from error


def plan(recipe: Recipe, records: Mapping[str, Record], present: Collection[str]) -> list[StageStep]:
    """What to do with each stage, by what was recorded and which stages' directories are `present`.

    A stage that differs from its record is redone, and so is every recorded one after it. Raises UserError for a
    directory that is there without a record: it is not this recipe's to resume or remove.
    """
    steps: list[StageStep] = []
    first = ""  # the first stage to be redone
    for stage in recipe.stages:
        record = records.get(stage.name)
        if record is None:
            if stage.name in present:
                raise UserError(
                    f"the directory of stage {stage.name!r} is there, but was not made by this recipe; remove it or "
                    "choose another directory with --out"
                )
            steps.append(StageStep(stage, "run"))
        elif why := f"{first} is redone" if first else _reason(stage, record, stage.name in present):
            first = first or stage.name
            steps.append(StageStep(stage, "redo", why))
        elif record.done:
            steps.append(StageStep(stage, "skip", "done"))
        else:
            steps.append(StageStep(stage, "resume" if stage.name in present else "run"))
    return steps


def _reason(stage: Stage, record: Record, present: bool) -> str:
    """Why a stage that was started must be done from its beginning; "" if it need not."""
    if record.options is None:
        return "an earlier stage was redone"
    if record.verb != stage.verb:
        return f"its verb was {record.verb}, now {stage.verb}"
    options = public(stage.options), public(record.options)
    for name in sorted({*options[0], *options[1]} - set(UNIMPORTANT)):
        now, before = (o.get(name, "not given") for o in options)
        if before != now:
            return f"{name} was {before}, now {now}"
    if record.done and not present:
        return "its directory is gone"
    if not record.done and present and not stage.resumes:
        return f"{stage.verb} cannot go on from where it was"
    return ""


def _stage(
    name: str, content: Any, defaults: Mapping[str, Option], verb_of: Callable[[str], RecipeVerb]
) -> tuple[RecipeVerb, Stage]:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise UserError("a stage's name is that of its directory: letters, digits, - and _")
    words = content.get("verb") if isinstance(content, dict) else None
    if not isinstance(words, str) or not words.strip():
        raise UserError("a stage needs a 'verb', such as verb: eval")
    words = " ".join(words.split())
    verb = verb_of(words)
    own = _options({key: value for key, value in content.items() if key != "verb"}, "a stage")
    options = {name: value for name, value in defaults.items() if name in verb.options} | own
    return verb, Stage(name, words, {k: v for k, v in options.items() if v is not None}, verb.resumes)


def _options(content: Any, where: str) -> dict[str, Option]:
    """Options by name; None stands for the verb's own default."""
    if not isinstance(content, dict):
        raise UserError(f"{where} should hold options, NAME: VALUE, but is {content!r}")
    for key, value in content.items():
        if key in NOT_HERE:
            raise UserError(f"{key!r} cannot be given in a recipe: {NOT_HERE[key]}")
        if not all(isinstance(one, str | int | float | bool | None) for one in _values(value)):
            hint = "; a reference needs quotes" if isinstance(value, dict) else ""
            raise UserError(f"{key!r} should be one value or a list of values, but is {value!r}{hint}")
    return {key.replace("-", "_"): value for key, value in content.items()}


def _check_references(options: Mapping[str, Option], earlier: list[str], stages: list[str]) -> None:
    for name, value in options.items():
        for reference in (found for one in _values(value) for found in REFERENCE.findall(str(one))):
            if reference not in stages:
                near = get_close_matches(reference, earlier or stages, n=1, cutoff=0.5)
                hint = f"did you mean {{{near[0]}}}?" if near else f"the stages are {', '.join(stages)}"
                raise UserError(f"{name} refers to {{{reference}}}, which is no stage: {hint}")
            if reference not in earlier:
                raise UserError(f"{name} refers to {{{reference}}}, which is no earlier stage")


def _check_names(content: Mapping[str, Any], names: Collection[str], what: str) -> None:
    for key in content:
        if key not in names:
            near = get_close_matches(key, names, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names)}"
            raise UserError(f"unknown {what} {key!r}: {hint}")


def _values(value: Option) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _text(value: Any, out: Path) -> str:
    return str(value).lower() if isinstance(value, bool) else REFERENCE.sub(lambda m: str(out / m[1]), str(value))


@contextmanager
def _within(where: str) -> Iterator[None]:
    """Put before a UserError's sentence where the mistake is."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML comes without types
    """YAML in which a key that is there twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and key.value in seen:
                raise UserError(f"line {key.start_mark.line + 1}: {key.value!r} is there twice")
            seen.add(str(key.value))
        return {str(key): value for key, value in super().construct_mapping(node, deep).items()}


def read_yaml(path: Path) -> dict[str, Any]:
    """The names and values of a YAML file. UserError, naming the file, where it holds anything else."""
    with _within(str(path)):
        try:
            content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
        except OSError as error:
            raise UserError(f"cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UserError("is not text in UTF-8") from error
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f"line {mark.line + 1}: {getattr(error, 'problem', '')}" if mark else " ".join(str(error).split())
            raise UserError(f"is not valid YAML: {line}") from error
        if not isinstance(content, dict):
            raise UserError(f"should hold names and values, but holds {content!r:.60}")
        return content
