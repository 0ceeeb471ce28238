"""What stderr shows of a run: a bar with what runs, how far, how fast, how long still; or what is done already."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from forkpoint.types import Progress

LONGEST = 24  # of what runs, so that the numbers beside it stand whole in 80 columns


def progress_bar(quiet: bool) -> AbstractContextManager[Progress | None]:
    """A callback (label, done, total, tokens) that moves a bar; None when quiet.

    Where stderr is no terminal it says once what an earlier start of the run has done.
    """
    if quiet:
        return nullcontext()
    return _bar() if sys.stderr.isatty() else nullcontext(_say_what_was_kept())


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
