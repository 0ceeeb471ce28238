"""What the page of a run consists of, as plain data: the browser, the terminal and notebooks show the same.

Cells and sentences are finished text, as the helpers below write numbers. Nothing here is markup.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from forkpoint.jsonl import Row


@dataclass(frozen=True, slots=True)
class Link:
    """A cell that leads to a file, by its address relative to the page."""

    text: str
    address: str


Column = str | Callable[[Row], str | Link]
"""A template that a row's values fill, or a function of the row."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table with a row of headings and a `note` beneath; the first `left` columns hold words, the others numbers.

    One that is `folded` is closed in a page, and left out in a terminal.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Link]]
    left: int = 1
    note: str = ""
    folded: bool = False

    @classmethod
    def of(cls, title: str, rows: Iterable[Row], columns: Mapping[str, Column], **more: Any) -> Table:
        """A row of cells for each row, by the columns' headings."""
        makers = [make.format_map if isinstance(make, str) else make for make in columns.values()]
        return cls(title, tuple(columns), [tuple(make(row) for make in makers) for row in rows], **more)


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart, which `svg` draws as an <svg> element; a `wide` one has several panels. A terminal shows none."""

    title: str
    svg: Callable[[], str]
    note: str = ""
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Tokens:
    """Texts for the token viewer: rows as `forkpoint.report.viewer` documents them, read from `file` of the run.

    A row is called `one`, several are `many`; a group of rows, where there are any, `entry` and `entries`.
    """

    rows: Callable[[], Iterator[Row]]
    file: str
    one: str = "response"
    many: str = "responses"
    entry: str = ""
    entries: str = ""

    @classmethod
    def of(cls, run: Path | None, file: str, rows: Callable[[Path], Iterator[Row]], *names: str) -> Tokens | None:
        """The texts in a file of a run; None without a run, or where it has no such file."""
        return cls(partial(rows, run / file), file, *names) if run and (run / file).is_file() else None


@dataclass(frozen=True, slots=True)
class Page:
    """All that a page says of a run: a title, sentences that sum it up, tables and charts, texts token by token."""

    title: str
    lines: Sequence[str] = ()
    sections: Sequence[Table | Chart] = ()
    tokens: Tokens | None = None

    def _repr_html_(self) -> str:
        from forkpoint.report.notebook import page_html

        return page_html(self)


def percents(interval: Sequence[float]) -> str:
    """An interval of shares: 12.3 to 45.6."""
    return " to ".join(f"{100 * end:.1f}" for end in interval)


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many decimals; nothing where there is none."""
    return "" if value is None else f"{value:z,.{digits}f}"


def cut_off_hint(*counts: tuple[str, int, int], option: str = "--max-tokens") -> list[str]:
    """A sentence where more than a tenth of the responses hit the length limit, of (name, so many, of how many)."""
    many = [f"{name}{cut_off:,} of {n:,} responses" for name, cut_off, n in counts if cut_off > 0.1 * n]
    return [f"cut off at the length limit: {'; '.join(many)}; raise {option}"] if many else []
