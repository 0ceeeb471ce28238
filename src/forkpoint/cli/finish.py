"""How a verb's run ends: its command is kept, its page written, its tables printed, and what it made is named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def finish(verb: str, argv: Sequence[str], out: Path, *made: Path) -> None:
    """Write command.json and report.html into the run's directory, print what the page says, and the paths of what
    was `made`, with the page last.
    """
    from forkpoint.report.command import keep_command
    from forkpoint.report.page import page_of, write_report
    from forkpoint.report.terminal import print_page

    keep_command(out, [*verb.split(), *argv])
    page = page_of(out)
    path = write_report(out, page)
    print_page(page)
    print("\n" + "\n".join(map(str, [*made, path])))
