"""Tables and pages in a terminal, and as plain text in a file or a pipe."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from forkpoint.report.content import Link, Page, Table

WIDTH_OF_FILES, WIDEST = 120, 1000
# C1 controls, line separators, and marks that turn the direction of writing over
_ODD = [*range(0x7F, 0xA0), 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)]
_CONTROL = {c: 0x2400 + c for c in range(32) if chr(c) not in "\n\t"} | dict.fromkeys(_ODD, "\ufffd")
WIDTH_OF_NAMES = 18  # of a column of words, at least, where its words are as long


def wide_console() -> Console:
    """The terminal, or for a file or a pipe, which has no width of its own, one that is wide enough for our tables."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH_OF_FILES)


def shown(text: str, style: str = "") -> Text:
    """A text as it may stand in a terminal: control characters, which a model may have written, are made visible."""
    return Text(text.translate(_CONTROL), style=style)


def print_page(page: Page) -> None:
    """The sentences and tables of a page; charts and what is folded are the page's alone."""
    console = wide_console()
    console.print(shown(page.title, "bold"))
    for line in page.lines:
        console.print(shown(line))
    for section in page.sections:
        if isinstance(section, Table) and not section.folded:
            print_table(section, console)


def print_table(table: Table, console: Console | None = None) -> None:
    """One table and its note."""
    console = console or wide_console()
    drawn = RichTable(title=shown(table.title) if table.title else None, box=box.SIMPLE_HEAD, title_justify="left")
    for i, heading in enumerate(table.columns):
        cells = [len(_text(row[i])) for row in table.rows]
        if i < table.left:
            width = min(WIDTH_OF_NAMES, max([len(heading), *cells]))
            drawn.add_column(shown(heading), overflow="fold", min_width=width)
        else:
            drawn.add_column(shown(heading), justify="right", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(shown(_text(cell)) for cell in row))
    least = Measurement.get(console, console.options.update(width=WIDEST), drawn).minimum
    console.print(drawn, width=max(console.width, least), crop=False, soft_wrap=least > console.width)  # nothing is cut
    if table.note:
        console.print(shown(table.note))


def _text(cell: str | Link) -> str:
    return cell.text if isinstance(cell, Link) else cell
