"""Texts token by token in a terminal: in colours of the terminal's own theme, or with marks where it has none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.console import Console
from rich.text import Text

from forkpoint.report.content import Row, Table
from forkpoint.report.shades import Shade, heading_of, names_of, scores_of, shades_of, spelled_of, values_of
from forkpoint.report.shown_scores import SCORES, Category, ShownScore
from forkpoint.report.terminal import print_table, shown

LEVELS = ("", "yellow", "red", "black on yellow", "white on red")  # from no shade to the strongest
BELOW = ("", "cyan", "blue", "black on cyan", "white on blue")  # on the far side of a two-sided score
NAMES = ("black on magenta", "black on yellow", "white on blue", "black on green", "white on red", "black on cyan")
MARKED = 2  # the lowest level that is marked where there are no colours
STRONGEST = 8  # tokens that are listed under a text
DROP = next(score for score in SCORES if score.key == "drop")


def print_responses(rows: Iterable[Row], key: str | None, console: Console) -> None:
    """Responses with their tokens coloured by a score (without a `key` the first that each has), and the most strongly
    shaded tokens of each with their values. A question stands once over the responses to it.
    """
    for question, responses in groupby(rows, key=lambda row: row.get("question")):
        console.print()
        if question:
            console.print(shown(str(question), "italic"))
        for row in responses:
            _print(row, next((one for one in scores_of(row) if key in (None, one.key)), None), console)


def _print(row: Row, score: ShownScore | Category | None, console: Console) -> None:
    console.print(shown(heading_of(row), "bold"))
    styles = _styles(row, score)
    console.print(
        _marked(row, score, styles) if console.no_color or console.color_system is None else _coloured(row, styles)
    )
    if isinstance(score, Category):
        console.print(_legend(row, score))
    elif score is not None and (table := _strongest(row, DROP if score.key == "success" else score)).rows:
        print_table(table, console)


def _styles(row: Row, score: ShownScore | Category | None) -> list[str]:
    """A style a token."""
    if isinstance(score, ShownScore):
        return [_level(shade) for shade in shades_of(row, score)]
    if isinstance(score, Category):
        styles = _style_of_names(row, score)
        return ["" if name is None else styles[name] for name in names_of(row, score)]
    return [""] * len(row["tokens"])


def _level(shade: Shade) -> str:
    return (BELOW if shade.below else LEVELS)[shade.strength // 2]


def _style_of_names(row: Row, category: Category) -> dict[str, str]:
    names = dict.fromkeys([*category.values[category.plain :], *(name for name in names_of(row, category) if name)])
    return {name: NAMES[i % len(NAMES)] for i, name in enumerate(names)}


def _coloured(row: Row, styles: Sequence[str]) -> Text:
    """The response, the critical token bold and underlined."""
    text = Text()
    for t, (token, style) in enumerate(zip(spelled_of(row), styles, strict=True)):
        text.append_text(shown(token, f"{style} bold underline" if t == row.get("critical_index") else style))
    return text


def _marked(row: Row, score: ShownScore | Category | None, styles: Sequence[str]) -> Text:
    """The response, strongly shaded tokens in brackets and the critical one in two; names before their tokens."""
    names = names_of(row, score) if isinstance(score, Category) else [None] * len(styles)
    strong = {*LEVELS[MARKED:], *BELOW[MARKED:]}
    critical = row.get("critical_index")
    marks = [
        "critical" if t == critical else name or ("strong" if style in strong else "")
        for t, (name, style) in enumerate(zip(names, styles, strict=True))
    ]
    parts = []
    for mark, run in groupby(zip(marks, spelled_of(row), strict=True), key=lambda one: one[0]):
        words = "".join(token for _, token in run)
        own = {"": words, "strong": f"[{words}]", "critical": f"[[{words}]]"}
        parts.append(own.get(mark, f"[{mark}: {words}]"))
    return shown("".join(parts))


def _strongest(row: Row, score: ShownScore) -> Table:
    """The most strongly shaded tokens with their values, in the order of the text."""
    values, shades, spelled = values_of(row, score.key), shades_of(row, score), spelled_of(row)
    seen = [t for t, shade in enumerate(shades) if _level(shade)]
    top = sorted(seen, key=lambda t: -abs(values[t] - score.light))[:STRONGEST]
    rows = [(repr(spelled[t]), str(t), f"{values[t]:.3f}") for t in sorted(top)]
    return Table("", ("token", "position", score.label), rows)


def _legend(row: Row, category: Category) -> Text:
    legend = Text(f"{category.label}: ")
    names = names_of(row, category)
    for name, style in _style_of_names(row, category).items():
        legend.append_text(shown(f" {name} ", style)).append(f" {names.count(name)}  ")
    return legend
