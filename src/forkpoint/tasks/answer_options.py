"""Reading the letter of a multiple-choice answer.

A letter is taken where it is marked: "(B)", "[B]", "B)", "B.", "B:", "option B", "b) 21.5" and "B - 22" at the start of
a line, or alone on its line. In a statement of the answer a bare capital or an option's own text will do. Articles,
variables, events ("P(A)", "(A ∩ B)"), options restated as a list or ruled out ("not (A)") are never the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from string import ascii_uppercase
from typing import Literal

from forkpoint.tasks.numerals import number_key
from forkpoint.tasks.statements import Statement, trimmed
from forkpoint.types import Span

_LETTER = re.compile(r"(?<![A-Za-z0-9_\\'’^])[A-Za-z](?![A-Za-z0-9_'’^])")
_SHELL = (
    r"\\(?:text|textbf|mathrm|mathbf)\b|[\s$(){}\[\]*\"'`.:,;\\/]|<\w+>"
    r"|\b(?:the|option|choice|letter)\b(?=\W+\w)"
)
_ALONE = re.compile(rf"(?:{_SHELL})*+(?P<letter>[A-Za-z])(?:[\s$(){{}}\[\]*\"'`.:,;!\\]|</?\w+>)*", re.IGNORECASE)
_NAMED_BEFORE = re.compile(r"\b(?:option|choice|letter)\s*\W?$", re.IGNORECASE)
_OPERATORS = tuple("+-*/=^<>×÷|∩∪")
_TEXT_FOLLOWS = re.compile(r"\s[-–—:]\s*(?![A-Za-z]\b)\S|\)\s|\)$|\.\d")
_RULED_OUT_BEFORE = re.compile(
    r"(?i)\b(?:not|isn't|n't\sbe|cannot\sbe|nor|neither|than|unlike|except|out|eliminates?|excludes?|rejects?)\s(?:option\s|choice\s)?[(\[*\"'$\\]*$"
)
_RULED_OUT_AFTER = re.compile(
    r"(?i)[)\]*\"'$\\]*\s(?:(?:is|are|was|would\sbe|gives|seems|can)\s?(?:not|n't|too|wrong|incorrect|false|less|greater|smaller|larger|out|impossible)"
    r"|(?:isn't|cannot|can't|doesn't|does\snot|fails)\b)"
)
_BECAUSE = re.compile(r"\b(?:because|since)\b", re.IGNORECASE)
_SAID_BEFORE = re.compile(
    r"(?i)(?:^|[^\w\s]|\b(?:is|be|was|so|thus|hence|therefore|with|pick|choose|select|matches|to\sbe|equal\sto|corresponds\sto|answer|think|only|(?:it|that)'s))\s*$"
)
MIN_LIST = 3  # letters in a row that make a list of options, not a choice

Marking = Literal["marked", "bare", "no"]


def stated_option(text: str, stated: Statement, options: Sequence[str] = ()) -> Span | None:
    """The option that a statement names: by its text, by a marked letter, or by its first bare capital."""
    letters, start, end = ascii_uppercase[: len(options)] or "ABCDE", stated.start, stated.end
    if stated.evidence == "postfix":
        for last, marking in list(_letters(text, start, end, letters).items())[-1:]:
            if (marking != "no" or last.start == start) and not re.search(r"\w", text[last.end : end]):
                return last
        return None
    for stretch_end in (stated.line_end, end):
        if whole := _whole(text, start, stretch_end, letters, options):
            return whole
    markings = _letters(text, start, end, letters, stated=True)
    allowed = [letter for letter in markings if markings[letter] != "no"]
    if stated.evidence == "heading" and _lists(allowed):  # the options restated under a heading
        return None
    marked = [letter for letter in allowed if markings[letter] == "marked"]
    return next(iter(marked or allowed), None)


def bare_option(text: str, options: Sequence[str] = ()) -> Span | None:
    """The last letter marked as an option that is neither ruled out nor part of a list of options."""
    letters = ascii_uppercase[: len(options)] or "ABCDE"
    marked = [span for span, marking in _letters(text, 0, len(text), letters).items() if marking == "marked"]
    out = {*_lists(marked), *_reasons(text, marked)}
    if chosen := [letter for letter in marked if letter not in out]:
        return chosen[-1]
    end = len(text.rstrip())
    last_line = text.rfind("\n", 0, end) + 1
    return _whole(text, 0, len(text), letters, options) or _whole(text, last_line, end, letters, options)


def _reasons(text: str, marked: Sequence[Span]) -> Iterator[Span]:
    """The letters that a sentence gives as reasons for another: the (A) of "(C), because (A) is too small"."""
    reason = False
    for letter, following in pairwise(marked):
        between = text[letter.start : following.start]
        reason = not re.search(r"[.!?]\s|\n", between) and (reason or bool(_BECAUSE.search(between)))
        if reason:
            yield following


def option_key(text: str) -> str:
    """An option's text without case, spaces, currency and percent signs, and with its number in one form."""
    if len(text) > 1000:
        return ""
    short = re.sub(r"[\s$%*`]|\\text\b|[{}\\]", "", text).rstrip(".").casefold()
    return number_key(short.replace("−", "-").replace("–", "-"))


def _whole(text: str, start: int, end: int, letters: str, options: Sequence[str]) -> Span | None:
    """The option where the stretch is its text or nothing but a letter ("c", "**(B)**", "\\text{D}")."""
    alone = _ALONE.fullmatch(text, start, end)
    if alone and alone["letter"].upper() in letters:
        return Span(*alone.span("letter"), alone["letter"].upper())
    key = option_key(text[start:end])
    matching = [i for i, option in enumerate(options) if key and option_key(option) == key]
    span = trimmed(text, start, end)  # where two options read alike, their text names neither
    return Span(span.start, span.end, chr(ord("A") + matching[0])) if span and len(matching) == 1 else None


def _lists(letters: Sequence[Span]) -> set[Span]:
    """The letters that follow one another from A on: options restated, of which none is chosen."""
    listed: set[Span] = set()
    run: list[Span] = []
    for letter in letters:
        follows = letter.value == ascii_uppercase[len(run) : len(run) + 1]
        run = [*run, letter] if follows else [letter] if letter.value == "A" else []
        listed.update(run if len(run) >= MIN_LIST else ())
    return listed


def _letters(text: str, start: int, end: int, letters: str, *, stated: bool = False) -> dict[Span, Marking]:
    """How each option's letter is marked that stands alone in a stretch; `stated`: it is the statement of an answer."""
    markings: dict[Span, Marking] = {}
    for match in _LETTER.finditer(text, start, end):
        letter = match.group().upper()
        if letter in letters:
            before, after = text[max(start, match.start() - 24) : match.start()], text[match.end() : end][:24]
            first = stated and match.start() == start
            marking = _marking(before, match.group(), after, first)
            if marking != "no" and (_RULED_OUT_BEFORE.search(before) or _RULED_OUT_AFTER.match(after)):
                marking = "no"
            markings[Span(*match.span(), letter)] = marking
    return markings


def _marking(before: str, letter: str, after: str, first: bool) -> Marking:
    """How a letter is marked, by the few characters on each side of it; `first`: a statement begins with it."""
    opened = re.search(r"(?:\(|\[|\\text\{)\\?\s?$", before)
    closed = re.match(r"\s?(?:\)|\]|\\\)|\}\))", after)
    if opened and closed:
        function = before[: opened.start()].removesuffix("\\")[-1:].isalnum()  # f(a), P(A)
        return "no" if function else "marked"
    line_start = re.search(r"(?:^|\n)[^\w\n(\[]*$", before)
    if closed and before.count("(") > before.count(")"):  # (A ∩ B), (from A to B)
        return "no"
    if (first or line_start) and _TEXT_FOLLOWS.match(after):  # "b) 21.5", "B - 22"
        return "marked"
    operand = before.rstrip().removesuffix("**").endswith(_OPERATORS)
    if letter.islower() or opened or (not line_start and operand) or after.lstrip().startswith(_OPERATORS):
        return "no"
    if before and not before[-1].isspace() and before[-1] not in "*\"'{$:#`>":
        return "no"
    if letter == "A" and after.startswith(":") and re.search(r"\n\s*$", before):  # a base model's next "Q: ... A:"
        return "no"
    if closed or _NAMED_BEFORE.search(before):
        return "marked"
    if re.match(r"[.:](?:\s|\*|$)", after) and (line_start or _SAID_BEFORE.search(before)):  # not "than machine B."
        return "marked"
    if line_start and re.match(r"[\s*`]*(?:\n|$)", after):
        return "marked"
    if letter in "AI" and re.match(r"\s+[a-z]", after):  # an article, a pronoun
        return "no"
    return "bare" if re.match(r"[\s,;.:*)\]}$\"'`<]|$", after) else "no"
