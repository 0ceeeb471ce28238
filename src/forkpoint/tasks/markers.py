"""The signs that an answer is near: boxes, "the answer is", formula delimiters.

Knows LaTeX delimiters and a few English phrases; knows nothing of kinds of answers. Every function is linear
in the length of the text, whatever is in it.
"""

from __future__ import annotations

import re

from forkpoint.types import Span

_MARKER = re.compile(
    r"""
    (?<!\#)\#{4}(?!\#)(?=[^\n]{0,200}\s*\Z)                      # on the last line; elsewhere it is a heading
    | \b(?:answers?|correct[ ](?:option|choice))\b (?:[ ](?:to|for|of)[ ][^.,:\n0-9]{1,60}?)? (?:\*\*)?
      \s{0,3} (?:is|are|=|:|will[ ]be|would[ ]be|must[ ]be)(?![A-Za-z]) (?:\*\*)? (?:\s{0,3}:)?
    """,
    re.IGNORECASE | re.VERBOSE,
)
_BOX = re.compile(r"\\f?box(?:ed)?\s?(?:\{|(?![A-Za-z]))")
_SENTENCE_END = re.compile(r"(?<!\\)(?<!Rs)[.!?](?=\s|\*|$)|\n|,?\s(?:because|since|which)\b")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_MATH_TOKEN = re.compile(r"\\[()\[\]]|\\.|\$\$|\$|\n\s*\n", re.DOTALL)
_CLOSERS = {"$": "$", "$$": "$$", r"\(": r"\)", r"\[": r"\]"}


def find_box(text: str) -> tuple[int, int] | None:
    """Start and end of the content of the last box, None where there is none.

    A last box that never closes gives the empty stretch at its opening. Escaped braces do not count, as in
    ``\\boxed{\\{1, 2\\}}``.
    """
    box = last_match(_BOX, text, 0, len(text))
    if box is None:
        return None
    depth, start = 1, box.end()
    if box.group().endswith("{"):
        for brace in _BRACE.finditer(text, start):
            depth += {"{": 1, "}": -1}.get(brace.group(), 0)
            if depth == 0:
                return start, brace.start()
    return start, start


def math_segments(text: str) -> list[tuple[int, int]]:
    """Start and end of the content of each ``$...$``, ``$$...$$``, ``\\(...\\)`` and ``\\[...\\]``."""
    segments = []
    opener, start = "", 0
    for token in _MATH_TOKEN.finditer(text):
        mark = token.group()
        if opener and mark == _CLOSERS[opener]:
            segments.append((start, token.start()))
            opener = ""
        elif mark.startswith("\n"):  # no formula runs over a blank line: an unpaired $ ends here
            opener = ""
        elif not opener and mark in _CLOSERS:
            opener, start = mark, token.end()
    return segments


def after_marker(text: str) -> tuple[int, int, int] | None:
    """Start of what follows the last marker, the end of that sentence, and the end of that line.

    A full stop inside a formula ends no sentence.
    """
    marker = last_match(_MARKER, text, 0, len(text))
    if marker is None:
        return None
    rest = text[marker.end() :].lstrip(" \t\r\n*:")
    start = len(text) - len(rest)
    line = rest.partition("\n")[0]
    formulas = iter(math_segments(rest))
    formula_start, formula_end = next(formulas, (len(text), len(text)))
    for stop in _SENTENCE_END.finditer(rest):
        while formula_end <= stop.start():
            formula_start, formula_end = next(formulas, (len(text), len(text)))
        if stop.start() < formula_start:
            return start, start + stop.start(), start + max(len(line), stop.start())
    return start, len(text), len(text)


def last_match(pattern: re.Pattern[str], text: str, start: int, end: int) -> re.Match[str] | None:
    """The last match of `pattern` within text[start:end]."""
    last = None
    for match in pattern.finditer(text, start, end):
        last = match
    return last


def trimmed(text: str, start: int, end: int) -> Span | None:
    """The span without surrounding white space and emphasis; None where nothing is left."""
    content = text[start:end]
    left = len(content) - len(content.lstrip(" \t\r\n*"))
    value = content.strip(" \t\r\n*")
    return Span(start + left, start + left + len(value), value) if value else None
