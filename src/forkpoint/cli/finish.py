"""How a verb's run ends: the command is kept, the results are printed, the page is written, the files are named."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path


def finish(verb: str, argv: Sequence[str], out: Path, *made: Path) -> None:
    """Write command.json and report.html into `out`; print the page and the paths of what was `made`, the page's last.

    The run is done whatever becomes of its page: stderr says why it could not be drawn.
    """
    from forkpoint.report.command import keep_command
    from forkpoint.report.page import page_of, write_report
    from forkpoint.report.terminal import print_page

    keep_command(out, [*verb.split(), *argv])
    page = None
    try:
        page = page_of(out)
        made = *made, write_report(out, page)
    except Exception as error:
        print(
            f"forkpoint: the run in {out} is done, but its page could not be drawn ({type(error).__name__}: {error}); "
            f"`forkpoint report {out}` tries again",
            file=sys.stderr,
        )
    if page is not None:
        print_page(page)
    print("\n" + "\n".join(map(str, made)))
