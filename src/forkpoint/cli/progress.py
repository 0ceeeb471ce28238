"""What is told of a run on stderr: a bar with what runs, how far, how fast, how long still; and where a run goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from forkpoint.types import FailedError

LONGEST = 24  # of what runs, so that the numbers beside it stand whole in 80 columns


@contextmanager
def progress_bar(quiet: bool, out: Path) -> Iterator[Callable[[str, int, int, int], None] | None]:
    """A callback (label, done, total, tokens) that moves a bar; None when quiet.

    Where stderr is no terminal it says once what an earlier start of the run has done. What stops the run in `out`
    bears that directory as a note.
    """
    with noted(out):
        if quiet:
            yield None
        elif sys.stderr.isatty():
            with _bar() as show:
                yield show
        else:
            yield _Kept()


@contextmanager
def noted(out: Path) -> Iterator[None]:
    """Note the run's directory at an interrupt or a failure."""
    try:
        yield
    except (KeyboardInterrupt, FailedError) as error:
        error.add_note(str(out))
        raise


class _Kept:
    """Says once what was done before: all that is told before the first tokens of this start."""

    def __init__(self) -> None:
        self._said = ""
        self._is_told = False

    def __call__(self, label: str, done: int, total: int, tokens: int) -> None:
        if not tokens:
            self._said = f"forkpoint: {done:,} of {total:,} are done already ({label})"
        elif not self._is_told:
            self._is_told = True
            if self._said:
                print(self._said, file=sys.stderr, flush=True)


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int, int], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(None, table_column=Column(ratio=1)),
        MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True, expand=True) as bar:
        task = bar.add_task("starting", total=None, rate="")

        def show(label: str, done: int, total: int, tokens: int) -> None:
            seconds = max(bar.tasks[0].elapsed or 0.0, 1e-9)
            short = label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"
            bar.update(task, description=short, completed=done, total=total, rate=f"{tokens / seconds:,.0f} tokens/s")

        yield show
