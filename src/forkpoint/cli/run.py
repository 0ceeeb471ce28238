"""`forkpoint run RECIPE`: several verbs in a row from one file; what is done is skipped.

Each stage is a process of its own, so that its memory is free before the next one starts. recipe.json says what was
started and what is done.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property, partial
from pathlib import Path

from forkpoint.cli.option_groups import BARE, RunOptions
from forkpoint.cli.verb import Verb
from forkpoint.cli.verbs import RESUMING
from forkpoint.files import only_process, to_json, writable, write_whole
from forkpoint.recipe import RECORDS, Recipe, RecipeVerb, Record, StageStep, plan, read_recipe, read_records
from forkpoint.redaction import public, without_secrets
from forkpoint.types import UserError

FORKPOINT = [sys.executable, "-P", "-m", "forkpoint"]  # -P: no module of the working directory is taken for a library
SECONDS_TO_STOP = 10  # that an interrupted stage has before it is killed
SIGNAL_WHEN_PARENT_ENDS = 1  # PR_SET_PDEATHSIG of prctl(2)
DONE = {"skip": "done before", "run": "done", "resume": "done, resumed", "redo": "done again"}


@dataclass(kw_only=True)
class RecipeOptions(RunOptions):
    """Run the stages of a recipe, one after the other.

    Stages that are done are skipped; a stage whose options changed is redone, and so are those after it, after their
    directories were removed. Started again, the same command goes on where it stopped.
    """

    recipe: Path = field(metadata=BARE)
    """the recipe, a YAML file"""
    out: Path | None = None
    """directory of the run, in which each stage has its own (default: the recipe's `out`, or runs/RECIPE)"""
    dry_run: bool = False
    """say what would happen, and with which commands, and do nothing"""

    @cached_property
    def content(self) -> Recipe:
        """The recipe, checked. UserError for anything wrong with it."""
        recipe = read_recipe(self.recipe, _verb, quiet=self.quiet)
        return recipe if self.out is None else replace(recipe, out=self.out)

    def directory(self, verb: str) -> Path:
        """--out, or what the recipe says."""
        return self.content.out


def run_stages(options: RecipeOptions, out: Path) -> Sequence[Path] | None:
    """Run what is left of the recipe, or say what is."""
    recipe = options.content
    if options.dry_run:
        _print_plan(recipe, _steps(recipe, _read(recipe)))
        return None
    writable(out)
    with only_process(out):
        records = _read(recipe)
        steps = _steps(recipe, records)
        _clear(recipe, steps, records)
        _save(recipe, records)  # the recipe may have other stages than before
        for number, step in enumerate(steps, 1):
            if step.action != "skip":
                _do(step, f"{number} of {len(steps)}", recipe, records)
    counts = Counter(DONE[step.action] for step in steps)
    print(", ".join(f"{count} {what}" for what, count in counts.items()))
    return ()


def _verb(name: str) -> RecipeVerb:
    """What a recipe must know of a verb. UserError for one that is unknown or cannot be a stage."""
    from forkpoint.cli import find_verb, load_verb

    found, rest = find_verb(name.split())
    if rest:
        raise UserError(f"unknown verb {name!r}: did you mean {found!r}?")
    verb = load_verb(found)
    names = frozenset(f.name for f in fields(verb.OPTIONS))
    if found == "run" or "out" not in names:
        raise UserError(f"the verb {name!r} cannot be a stage of a recipe")
    return RecipeVerb(names - {"out"}, verb.parse_options, found in RESUMING)


def _read(recipe: Recipe) -> dict[str, Record]:
    """What recipe.json says of the stages that were started. UserError where the directory is another run's."""
    if (recipe.out / RECORDS).exists():
        name, _, records = read_records(recipe.out / RECORDS)
        if name != recipe.name:
            raise UserError(f"{recipe.out} holds a run of the recipe {name!r}, not {recipe.name!r}; "
                            "choose another directory with --out")  # fmt: skip
        return records
    if recipe.out.exists() and any(not path.name.startswith(".") for path in recipe.out.iterdir()):
        raise UserError(f"{recipe.out} holds files but no run of a recipe; "
                        "choose an empty or new directory with --out")  # fmt: skip
    return {}


def _save(recipe: Recipe, records: dict[str, Record]) -> None:
    """Write recipe.json; it is on disk when this returns."""
    verbs = {stage.name: stage.verb for stage in recipe.stages}
    content = {"recipe": recipe.name, "verbs": verbs, "stages": {name: asdict(one) for name, one in records.items()}}
    write_whole(recipe.out / RECORDS, to_json(content, indent=2) + "\n")


def _steps(recipe: Recipe, records: dict[str, Record]) -> list[StageStep]:
    """What to do with each stage of the recipe."""
    return plan(recipe, records, [s.name for s in recipe.stages if os.path.lexists(recipe.out / s.name)])


def _print_plan(recipe: Recipe, steps: Sequence[StageStep]) -> None:
    """What would happen with each stage, and the command of each that would run."""
    from forkpoint.report.content import Table
    from forkpoint.report.terminal import print_table

    rows = [
        (step.stage.name, step.stage.verb, step.action + (f", because {step.why}" if step.action == "redo" else ""))
        for step in steps
    ]
    print_table(Table(f"{recipe.name} in {recipe.out}", ("stage", "verb", "what would happen"), rows, left=3))
    for step in steps:
        if step.action != "skip":
            print(without_secrets(f"forkpoint {shlex.join(step.stage.arguments(recipe.out))}"))


def _clear(recipe: Recipe, steps: Sequence[StageStep], records: dict[str, Record]) -> None:
    """Remove the directories of stages to be redone; what a killed removal leaves is removed by the next run.

    Stages that the recipe no longer has keep theirs, but would be redone if they came back: what they were made of is
    going to change.
    """
    redone = [step.stage.name for step in steps if step.action == "redo"]
    if not redone:
        return
    for name in [*redone, *(records.keys() - {step.stage.name for step in steps})]:
        records[name] = replace(records[name], options=None, done=False)
    _save(recipe, records)
    for name in redone:
        directory = recipe.out / name
        try:
            if os.path.lexists(directory):
                shutil.rmtree(directory)
        except OSError as error:
            raise UserError(f"{directory} is to be redone, but cannot be removed: {error.strerror or error}") from error
        del records[name]


def _do(step: StageStep, number: str, recipe: Recipe, records: dict[str, Record]) -> None:
    """Run a stage. UserError if it was refused, exit code 1 if it failed."""
    stage = step.stage
    arguments = stage.arguments(recipe.out)
    command = without_secrets(shlex.join(arguments))
    print(f"forkpoint run: stage {stage.name} ({number}): {command}", file=sys.stderr, flush=True)
    records[stage.name] = Record(stage.verb, public(stage.options))
    _save(recipe, records)
    start = time.monotonic()
    code = _process([*FORKPOINT, *arguments])
    if code == 0:
        seconds = round(time.monotonic() - start, 1)
        records[stage.name] = replace(records[stage.name], done=True, seconds=seconds)
        _save(recipe, records)
    elif code == 2:
        raise UserError(f"stage {stage.name!r} was refused; its message stands above")
    elif code == 130:
        raise KeyboardInterrupt
    else:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
        print(f"forkpoint: stage {stage.name!r} {how}; the same command goes on from there", file=sys.stderr)
        sys.exit(1)


def _process(command: list[str]) -> int:
    """Run a command to its end and return its exit code. An interrupt gives it some seconds to end by itself."""
    process = subprocess.Popen(command, preexec_fn=_ends_with_this_process())
    try:
        return process.wait()
    except KeyboardInterrupt:  # which a terminal sends to the stage as well
        with suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS_TO_STOP)
        raise
    finally:
        process.kill()
        process.wait()


def _ends_with_this_process() -> Callable[[], object] | None:
    """What a child must call to be killed when this process is, so that none goes on in a directory unseen (Linux)."""
    if sys.platform != "linux":
        return None
    return partial(ctypes.CDLL(None).prctl, SIGNAL_WHEN_PARENT_ENDS, signal.SIGKILL)


VERBS = (Verb("run", RecipeOptions, run_stages),)
