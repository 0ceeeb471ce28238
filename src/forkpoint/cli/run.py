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
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path

from forkpoint.cli.finish import finish
from forkpoint.cli.options import parse
from forkpoint.cli.progress import noted
from forkpoint.cli.verbs import RESUMING
from forkpoint.files import only_process, to_json, writable, write_whole
from forkpoint.recipe import RECORDS, Recipe, RecipeVerb, Record, StageStep, plan, read_recipe, read_records
from forkpoint.redaction import public, without_secrets
from forkpoint.types import UserError

FORKPOINT = [sys.executable, "-P", "-m", "forkpoint"]  # -P: no module of the working directory is taken for a library
SECONDS_TO_STOP = 10  # that an interrupted stage has before it is killed
SIGNAL_WHEN_PARENT_ENDS = 1  # PR_SET_PDEATHSIG of prctl(2)
DONE = {"skip": "done before", "run": "done", "resume": "done, resumed", "redo": "done again"}


@dataclass(frozen=True)
class RecipeOptions:
    """Run the stages of a recipe, one after the other.

    Stages that are done are skipped; a stage whose options changed is redone, and so are those after it, after their
    directories were removed. Started again, the same command goes on where it stopped.
    """

    recipe: Path
    out: Path | None = None
    """directory of the run, in which each stage has its own (default: the recipe's `out`, or runs/RECIPE)"""
    dry_run: bool = False
    """say what would happen, and with which commands, and do nothing"""
    quiet: bool = False
    """no progress bars"""


OPTIONS = RecipeOptions
BARE = ("recipe", "the recipe, a YAML file")


def recipe_of(options: RecipeOptions) -> Recipe:
    """The recipe that the options name, checked. UserError for anything wrong with it."""
    recipe = read_recipe(options.recipe, _verb, quiet=options.quiet)
    return recipe if options.out is None else replace(recipe, out=options.out)


def parse_options(argv: list[str]) -> RecipeOptions:
    """The options of these arguments."""
    return parse("run", RecipeOptions, argv, positional=BARE)


def run(argv: list[str]) -> None:
    """Parse the arguments, read the recipe, run what is left of it, print what came of it."""
    options = parse_options(argv)
    recipe = recipe_of(options)
    if options.dry_run:
        _print_plan(recipe, _Progress(recipe).steps())
        return
    writable(recipe.out)
    with only_process(recipe.out), noted(recipe.out):
        progress = _Progress(recipe)
        steps = progress.steps()
        _clear(recipe, steps, progress)
        progress.save()  # the recipe may have other stages than before
        for number, step in enumerate(steps, 1):
            if step.action != "skip":
                _do(step, f"{number} of {len(steps)}", recipe, progress)
        counts = Counter(DONE[step.action] for step in steps)
        print(", ".join(f"{count} {what}" for what, count in counts.items()))
        finish("run", argv, recipe.out)


def _verb(name: str) -> RecipeVerb:
    """What a recipe must know of a verb. UserError for one that is unknown or cannot be a stage."""
    from forkpoint.cli import find_verb, load_verb

    verb, rest = find_verb(name.split())
    if rest:
        raise UserError(f"unknown verb {name!r}: did you mean {verb!r}?")
    loaded = load_verb(verb)
    names = frozenset(field.name for field in fields(loaded.OPTIONS))
    if verb == "run" or "out" not in names:
        raise UserError(f"the verb {name!r} cannot be a stage of a recipe")
    check = getattr(loaded, "parse_options", partial(parse, verb, loaded.OPTIONS))
    return RecipeVerb(names - {"out"}, check, verb in RESUMING)


class _Progress:
    """recipe.json: what is known of each stage that was started."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.path = recipe, recipe.out / RECORDS
        self.records: dict[str, Record] = {}
        if self.path.exists():
            name, _, self.records = read_records(self.path)
            if name != recipe.name:
                raise UserError(f"{recipe.out} holds a run of the recipe {name!r}, not {recipe.name!r}; "
                                "choose another directory with --out")  # fmt: skip
        elif recipe.out.exists() and any(not path.name.startswith(".") for path in recipe.out.iterdir()):
            raise UserError(f"{recipe.out} holds files but no run of a recipe; "
                            "choose an empty or new directory with --out")  # fmt: skip

    def steps(self) -> list[StageStep]:
        """What to do with each stage of the recipe."""
        present = [stage.name for stage in self.recipe.stages if os.path.lexists(self.recipe.out / stage.name)]
        return plan(self.recipe, self.records, present)

    def set(self, stage: str, record: Record) -> None:
        """Keep what is known of a stage; it is on disk when this returns."""
        self.records[stage] = record
        self.save()

    def save(self) -> None:
        """Write recipe.json."""
        verbs = {stage.name: stage.verb for stage in self.recipe.stages}
        stages = {name: asdict(record) for name, record in self.records.items()}
        content = {"recipe": self.recipe.name, "verbs": verbs, "stages": stages}
        write_whole(self.path, to_json(content, indent=2) + "\n")


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


def _clear(recipe: Recipe, steps: Sequence[StageStep], progress: _Progress) -> None:
    """Remove the directories of stages to be redone; what a killed removal leaves is removed by the next run.

    Stages that the recipe no longer has keep theirs, but would be redone if they came back: what they were made of is
    going to change.
    """
    redone = [step.stage.name for step in steps if step.action == "redo"]
    if not redone:
        return
    gone = progress.records.keys() - {step.stage.name for step in steps}
    for name in [*redone, *gone]:
        progress.records[name] = replace(progress.records[name], options=None, done=False)
    progress.save()
    for name in redone:
        directory = recipe.out / name
        try:
            if os.path.lexists(directory):
                shutil.rmtree(directory)
        except OSError as error:
            raise UserError(f"{directory} is to be redone, but cannot be removed: {error.strerror or error}") from error
        del progress.records[name]
    progress.save()


def _do(step: StageStep, number: str, recipe: Recipe, progress: _Progress) -> None:
    """Run a stage. UserError if it was refused, exit code 1 if it failed."""
    stage = step.stage
    arguments = stage.arguments(recipe.out)
    command = without_secrets(shlex.join(arguments))
    print(f"forkpoint run: stage {stage.name} ({number}): {command}", file=sys.stderr, flush=True)
    record = Record(stage.verb, public(stage.options))
    progress.set(stage.name, record)
    start = time.monotonic()
    code = _process([*FORKPOINT, *arguments])
    if code == 0:
        progress.set(stage.name, replace(record, done=True, seconds=round(time.monotonic() - start, 1)))
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
