"""`forkpoint report DIR`: draw the page of a finished run again."""

from __future__ import annotations

from pathlib import Path

from forkpoint.cli.verbs import examples_of
from forkpoint.types import UserError

USAGE = "usage: forkpoint report DIR\n\nDraw report.html of the finished run in DIR again, and print its path."


def run(argv: list[str]) -> None:
    """Write DIR/report.html and print its path."""
    if "-h" in argv or "--help" in argv:
        print(f"{USAGE}\n{examples_of('report')}", end="")
        return
    if len(argv) != 1 or argv[0].startswith("-"):
        raise UserError("report takes one directory: forkpoint report DIR")
    from forkpoint.report import write_report

    print(write_report(Path(argv[0])))
