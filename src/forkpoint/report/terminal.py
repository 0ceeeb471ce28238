"""Pages in a terminal, and as plain text in a file or a pipe: tables, and texts token by token.

Texts stand in colours of the terminal's own theme, or with marks where it has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from forkpoint.jsonl import Row
from forkpoint.report.content import Link, Page, Table
from forkpoint.report.shades import SCORES, Category, Score, Shade, ShownScore, scores_of, shades_of, values_of
from forkpoint.report.viewer import heading_of, spelled_of

WIDTH_OF_FILES, WIDEST = 120, 1000
WIDTH_OF_NAMES = 18  # of a column of words, at least, where its words are as long
# C1 controls, line separators, and marks that turn the direction of writing over
_ODD = [*range(0x7F, 0xA0), 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)]
_CONTROL = {c: 0x2400 + c for c in range(32) if chr(c) not in "\n\t"} | dict.fromkeys(_ODD, "\ufffd")
LEVELS = ("", "yellow", "red", "black on yellow", "white on red")  # from no shade to the strongest
BELOW = ("", "cyan", "blue", "black on cyan", "white on blue")  # on the far side of a two-sided score
NAMES = ("black on magenta", "black on yellow", "white on blue", "black on green", "white on red", "black on cyan")
MARKED = 2  # the lowest level that is marked where there are no colours
STRONGEST = 8  # tokens that are listed under a text
DROP = next(score for score in SCORES if score.key == "drop")


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
    rows = [[cell.text if isinstance(cell, Link) else cell for cell in row] for row in table.rows]
    drawn = RichTable(title=shown(table.title) if table.title else None, box=box.SIMPLE_HEAD, title_justify="left")
    for i, heading in enumerate(table.columns):
        if i < table.left:
            width = min(WIDTH_OF_NAMES, max(len(heading), *(len(row[i]) for row in rows), 0))
            drawn.add_column(shown(heading), overflow="fold", min_width=width)
        else:
            drawn.add_column(shown(heading), justify="right", overflow="fold")
    for row in rows:
        drawn.add_row(*map(shown, row))
    least = Measurement.get(console, console.options.update(width=WIDEST), drawn).minimum
    console.print(drawn, width=max(console.width, least), crop=False, soft_wrap=least > console.width)  # nothing is cut
    if table.note:
        console.print(shown(table.note))


def print_responses(rows: Iterable[Row], key: str | None, console: Console) -> None:
    """Responses with their tokens coloured by a score (without a `key` the first that each has), and the most strongly
    shaded tokens of each with their values. A question stands once over the responses to it.
    """
    for question, responses in groupby(rows, key=lambda row: row.get("question")):
        console.print()
        if question:
            console.print(shown(str(question), "italic"))
        for row in responses:
            _print_response(row, next((one for one in scores_of(row) if key in (None, one.key)), None), console)


def _print_response(row: Row, score: Score | None, console: Console) -> None:
    shades = shades_of(row, score)
    styles: dict[str, str] = {}  # of a category's names
    if isinstance(score, Category):
        names = dict.fromkeys([*score.values[score.plain :], *(shade.name for shade in shades if shade.name)])
        styles = {name: NAMES[i % len(NAMES)] for i, name in enumerate(names)}
    console.print(shown(heading_of(row), "bold"))
    is_plain = console.no_color or console.color_system is None
    console.print(_marked(row, shades) if is_plain else _coloured(row, shades, styles))
    if isinstance(score, Category):
        legend = Text(f"{score.label}: ")
        for name, style in styles.items():
            tokens = sum(shade.name == name for shade in shades)
            legend.append_text(shown(f" {name} ", style)).append(f" {tokens}  ")
        console.print(legend)
    elif score is not None and (table := _strongest(row, DROP if score.key == "success" else score)).rows:
        print_table(table, console)


def _coloured(row: Row, shades: Sequence[Shade], styles: Mapping[str, str]) -> Text:
    """The response, the critical token bold and underlined."""
    text = Text()
    for t, (token, shade) in enumerate(zip(spelled_of(row), shades, strict=True)):
        style = styles[shade.name] if shade.name else (BELOW if shade.below else LEVELS)[shade.strength // 2]
        text.append_text(shown(token, f"{style} bold underline" if t == row.get("critical_index") else style))
    return text


def _marked(row: Row, shades: Sequence[Shade]) -> Text:
    """The response, strongly shaded tokens in brackets and the critical one in two; names before their tokens."""
    marks = [shade.name or ("strong" if shade.strength // 2 >= MARKED else "") for shade in shades]
    if row.get("critical_index") is not None:
        marks[row["critical_index"]] = "critical"
    parts = []
    for mark, run in groupby(zip(marks, spelled_of(row), strict=True), key=lambda pair: pair[0]):
        words = "".join(token for _, token in run)
        own = {"": words, "strong": f"[{words}]", "critical": f"[[{words}]]"}
        parts.append(own.get(mark, f"[{mark}: {words}]"))
    return shown("".join(parts))


def _strongest(row: Row, score: ShownScore) -> Table:
    """The most strongly shaded tokens with their values, in the order of the text."""
    values, spelled = values_of(row, score.key), spelled_of(row)
    seen = [t for t, shade in enumerate(shades_of(row, score)) if shade.strength // 2]
    top = sorted(seen, key=lambda t: -abs(values[t] - score.light))[:STRONGEST]
    rows = [(repr(spelled[t]), str(t), f"{values[t]:.3f}") for t in sorted(top)]
    return Table("", ("token", "position", score.label), rows)
