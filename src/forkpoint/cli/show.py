"""`forkpoint show DIR`: a finished run in the terminal; `forkpoint report DIR`: its page drawn again."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forkpoint.cli.option_groups import BARE, at_least
from forkpoint.cli.verb import Verb
from forkpoint.types import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from forkpoint.report import Page


@dataclass
class ShowOptions:
    """Show what a finished run found: its tables, and its first responses, tokens coloured by a score.

    Colours are those of the terminal's theme. Where there are none (a file, a pipe, NO_COLOR), strongly shaded tokens
    stand in brackets, and the critical one in two.
    """

    run: Path = field(metadata=BARE)
    """the run's directory"""
    id: str | None = None
    """only this response, or those to this problem, without the tables"""
    score: str | None = None
    """the score that colours tokens: success, drop, gap, entropy, s, loss, ... (default: the page's first)"""
    limit: int = at_least(0, default=3)
    """responses, at most"""


@dataclass
class ReportOptions:
    """Draw report.html of a finished run again, and print its path."""

    run: Path = field(metadata=BARE)
    """the run's directory"""


def report(options: ReportOptions) -> None:
    """Write report.html into the run's directory and print its path."""
    from forkpoint.report import write_report

    print(write_report(options.run))


def show(options: ShowOptions) -> None:
    """Print the run's tables and responses."""
    from forkpoint.report import page_of
    from forkpoint.report.page import as_written
    from forkpoint.report.terminal import print_page, print_responses, wide_console

    page = page_of(options.run)
    with as_written(options.run):
        rows = _rows(page, options)
    if options.id is None:
        print_page(page)
    print_responses(rows, options.score, wide_console())


def _rows(page: Page, options: ShowOptions) -> list[Mapping[str, Any]]:
    """The responses asked for. UserError where there is none with the id, or none with the score."""
    from forkpoint.report.shades import scores_of

    if page.tokens is None:
        if options.id or options.score:
            raise UserError(f"{options.run} holds no texts to show token by token")
        return []
    rows: list[Mapping[str, Any]] = []
    known: dict[str, None] = {}
    named = False
    for row in page.tokens.rows() if options.limit else ():
        if options.id in (None, row["id"], row.get("group"), row.get("problem_id")):
            own = dict.fromkeys(score.key for score in scores_of(row))
            named, known = True, known | own
            rows += [row] if options.score in (None, *own) else []
        if len(rows) == options.limit:
            break
    if rows or not options.limit:
        return rows
    if options.id is not None and not named:
        raise UserError(f"{options.run} holds no {page.tokens.one} with the id {options.id!r}")
    if options.score is not None:
        raise UserError(f"no score {options.score!r} here: there is {', '.join(known) or 'none'}")
    return rows


VERBS = (Verb("show", ShowOptions, show), Verb("report", ReportOptions, report))
