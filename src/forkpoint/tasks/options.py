"""Reading the letter of a multiple-choice answer.

A letter is taken where it is marked as an option ("(B)", "(b)", "[B]", "B)", "B.", "B:", "option B", "B"
alone on its line); after a final-answer marker a bare capital will do ("the answer is B, as shown"), and so
will an option's own text. Articles, variables and the "A:" of a next "Q: ... A:" are never options: "A car ...",
"f(a)", "D/(M-3)".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal

from forkpoint.tasks.markers import after_marker, find_box, trimmed
from forkpoint.tasks.numerals import number_key
from forkpoint.types import Span

_LETTER = re.compile(r"(?<![A-Za-z0-9_\\'’^])[A-Za-z](?![A-Za-z0-9_'’^])")
_SHELL = r"[\s$(){}\[\]*\"'.:,\\]|\\(?:text|textbf|mathrm|mathbf)\b|\b(?:option|choice|letter)\b"
_ALONE = re.compile(rf"(?:{_SHELL})*+(?P<letter>[A-Za-z])[\s$(){{}}\[\]*\"'.:,]*", re.IGNORECASE)
_NAMED_BEFORE = re.compile(r"\b(?:option|choice|letter)\s*\W?$", re.IGNORECASE)
_OPERATORS = tuple("+-*/=^<>−×÷|")

Marking = Literal["marked", "bare", "no"]


def extract_option(text: str, options: Sequence[str] = ()) -> Span | None:
    """The last option named in `text`: where, and its capital letter (of A to E where no `options` are
    given).
    """
    letters = "".join(chr(ord("A") + i) for i in range(min(len(options), 26))) or "ABCDE"
    box = find_box(text)
    if box is not None:
        return _in_stretch(text, *box, letters, options)
    after = after_marker(text)
    if after is not None:
        start, end, line_end = after
        span = _by_text(text, start, line_end, options) or _in_stretch(text, start, end, letters, options)
        if span:
            return span
    marked = [span for span, marking in _letters(text, 0, len(text), letters) if marking == "marked"]
    return marked[-1] if marked else _whole(text, 0, len(text), letters, options)


def option_key(text: str) -> str:
    """An option's text without case, spaces, currency and percent signs, and with its number in one form."""
    if len(text) > 1000:
        return ""
    short = re.sub(r"[\s$%*]|\\text\b|[{}\\]", "", text).rstrip(".").casefold()
    return number_key(short.replace("−", "-").replace("–", "-"))


def _in_stretch(text: str, start: int, end: int, letters: str, options: Sequence[str]) -> Span | None:
    """The option that the stretch is, or else the first one marked in it, or else its first bare capital."""
    whole = _whole(text, start, end, letters, options)
    if whole:
        return whole
    found = list(_letters(text, start, end, letters))
    for wanted in ("marked", "bare"):
        for span, marking in found:
            if marking == wanted:
                return span
    return None


def _whole(text: str, start: int, end: int, letters: str, options: Sequence[str]) -> Span | None:
    """The option where the stretch is its text or nothing but a letter ("c", "**(B)**", "\\text{D}")."""
    found = _ALONE.fullmatch(text, start, end)
    if found and found["letter"].upper() in letters:
        return Span(found.start("letter"), found.end("letter"), found["letter"].upper())
    return _by_text(text, start, end, options)


def _by_text(text: str, start: int, end: int, options: Sequence[str]) -> Span | None:
    """The one option whose text the stretch is. Where two options read alike, their text names neither."""
    key = option_key(text[start:end])
    matching = [i for i, option in enumerate(options) if key and option_key(option) == key]
    span = trimmed(text, start, end)
    return Span(span.start, span.end, chr(ord("A") + matching[0])) if span and len(matching) == 1 else None


def _letters(text: str, start: int, end: int, letters: str) -> Iterator[tuple[Span, Marking]]:
    for found in _LETTER.finditer(text, start, end):
        letter = found.group().upper()
        if letter in letters:
            before = text[max(start, found.start() - 16) : found.start()]
            yield (
                Span(found.start(), found.end(), letter),
                _marking(before, found.group(), text[found.end() : end][:16]),
            )


def _marking(before: str, letter: str, after: str) -> Marking:
    """How a letter that stands alone is marked, judged by the few characters on each side of it."""
    opened = before.rstrip(" ").endswith(("(", "["))
    closed = after.lstrip(" ").startswith((")", "]"))
    if opened and closed:
        function = before.rstrip(" ")[:-1][-1:].isalnum()  # f(a), P(A)
        return "no" if function else "marked"
    if letter.islower() or opened or before.rstrip().endswith(_OPERATORS) or after.lstrip().startswith(_OPERATORS):
        return "no"
    if before and not before[-1].isspace() and before[-1] not in "*\"'{$:#":
        return "no"
    if letter == "A" and after.startswith(":") and re.search(r"\n\s*$", before):  # a base model's next "Q: ... A:"
        return "no"
    if closed or re.match(r"[.:](?:\s|\*|$)", after) or _NAMED_BEFORE.search(before):
        return "marked"
    if re.search(r"(?:^|\n)[\s*]*$", before) and re.match(r"[\s*]*(?:\n|$)", after):
        return "marked"
    if letter in "AI" and re.match(r"\s+[a-z]", after):  # an article, a pronoun
        return "no"
    return "bare" if re.match(r"[\s,;.:*)\]}$\"']|$", after) else "no"
