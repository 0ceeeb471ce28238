"""Tables and pages in a terminal, and as plain text in a file or a pipe."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from forkpoint.report.content import Link, Page, Table

WIDTH_OF_FILES = 120
WIDTH_OF_NAMES = 18  # of a column of words, at least, where its words are as long


def wide_console() -> Console:
    """The terminal, or for a file or a pipe, which has no width of its own, one that is wide enough for our tables."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH_OF_FILES)


def print_page(page: Page) -> None:
    """The sentences and tables of a page; charts and what is folded are the page's alone."""
    console = wide_console()
    console.print(Text(page.title, style="bold"))
    for line in page.lines:
        console.print(Text(line))
    for section in page.sections:
        if isinstance(section, Table) and not section.folded:
            print_table(section, console)


def print_table(table: Table, console: Console | None = None) -> None:
    """One table and its note."""
    console = console or wide_console()
    shown = RichTable(title=Text(table.title) if table.title else None, box=box.SIMPLE_HEAD, title_justify="left")
    for i, heading in enumerate(table.columns):
        cells = [len(_text(row[i])) for row in table.rows]
        if i < table.left:
            width = min(WIDTH_OF_NAMES, max([len(heading), *cells]))
            shown.add_column(Text(heading), overflow="fold", min_width=width)
        else:
            shown.add_column(Text(heading), justify="right", no_wrap=True)
    for row in table.rows:
        shown.add_row(*(Text(_text(cell)) for cell in row))
    console.print(shown)
    if table.note:
        console.print(Text(table.note))


def _text(cell: str | Link) -> str:
    return cell.text if isinstance(cell, Link) else cell
