"""The progress bar on stderr: what runs, how far, how fast, how long still."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Callable[[str, int, int, int], None] | None]:
    """A callback (label, done, total, tokens) that moves a bar; None when quiet or not at a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None, rate="")

        def show(label: str, done: int, total: int, tokens: int) -> None:
            seconds = max(bar.tasks[0].elapsed or 0.0, 1e-9)
            rate = f"{tokens:,} tokens, {tokens / seconds:,.0f}/s"
            bar.update(task, description=label, completed=done, total=total, rate=rate)

        yield show
