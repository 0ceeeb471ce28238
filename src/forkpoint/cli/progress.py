"""What stderr shows of a run: a bar with what runs, how far, how fast, how long still; and where a run goes on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forkpoint.types import FailedError, Progress

LONGEST = 24  # of what runs, so that the numbers beside it stand whole in 80 columns


@contextmanager
def progress_bar(quiet: bool, out: Path) -> Iterator[Progress | None]:
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
            yield _say_what_was_kept()


@contextmanager
def noted(out: Path) -> Iterator[None]:
    """Note the run's directory at an interrupt or a failure."""
    try:
        yield
    except (KeyboardInterrupt, FailedError) as error:
        error.add_note(str(out))
        raise


def _say_what_was_kept() -> Progress:
    """Says once what was done before: the last report before the first tokens of this start."""
    kept = ""
    has_begun = False

    def show(label: str, done: int, total: int, tokens: int) -> None:
        nonlocal kept, has_begun
        if not tokens:
            kept = f"forkpoint: {done:,} of {total:,} are done already ({label})"
        elif not has_begun:
            has_begun = True
            if kept:
                print(kept, file=sys.stderr, flush=True)

    return show


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich import progress
    from rich.console import Console
    from rich.table import Column

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(None, table_column=Column(ratio=1)),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True, expand=True) as bar:
        task = bar.add_task("starting", total=None, rate="")

        def show(label: str, done: int, total: int, tokens: int) -> None:
            seconds = max(bar.tasks[0].elapsed or 0.0, 1e-9)
            short = label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"
            bar.update(task, description=short, completed=done, total=total, rate=f"{tokens / seconds:,.0f} tokens/s")

        yield show
