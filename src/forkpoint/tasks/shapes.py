r"""The outer shape of a cleaned answer: a list, a set, a tuple, a matrix, a ratio, or a single expression (a leaf)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

_MATRIX = re.compile(r"(.*?)\\begin\{([pvV]?)matrix\}(.*)\\end\{\2matrix\}", re.DOTALL)
_CLOCK = re.compile(r"[0-9]{1,2}:[0-9]{2}")
OPENING, CLOSING = {"(", "[", "{"}, {")", "]", "}"}


class AnswerShape(NamedTuple):
    """`kind` is "tuple", "set", "matrix", "ratio" or "leaf"; `brackets` tell apart tuples, and matrices by columns."""

    kind: str
    brackets: str
    items: Sequence[str]


def shape(text: str) -> AnswerShape:
    """The outer shape of a cleaned answer. A bare list is a set; "a \\pm b" stands for two items."""
    if matrix := _MATRIX.fullmatch(text):
        return _matrix(*matrix.groups())
    items = split_top(text, ",", ";", r"\land", r"\lor")
    inner, opening, closing = bracketed(text)
    if opening == r"\{" and closing == r"\}":
        items = split_top(inner, ",", ";")
    elif len(items) == 1 and opening in ("(", "[") and len(split_top(inner, ",")) > 1 and r"\pm" not in text:
        return AnswerShape("tuple", opening + closing, split_top(inner, ","))
    signed = [variant.strip() for item in items for variant in signs(item)]
    if len(signed) > 1 or opening == r"\{":
        return AnswerShape("set", "", signed)
    parts = split_top(text, ":")
    if len(parts) > 1 and not _CLOCK.fullmatch(text):
        return AnswerShape("ratio", "", parts)
    return AnswerShape("leaf", "", [text])


def _matrix(factor: str, kind: str, body: str) -> AnswerShape:
    """Entries row by row, times a number in front. Determinants are no matrices."""
    rows = [row.split("&") for row in body.removesuffix("\\\\").split("\\\\")]
    entries = [f"({factor})({entry})" if factor else entry for row in rows for entry in row]
    determinant = kind if kind in ("v", "V") else ""
    return AnswerShape("matrix", determinant + ",".join(str(len(row)) for row in rows), entries)


def split_top(text: str, *separators: str) -> list[str]:
    """Split where a separator stands outside of all brackets (an interval's may be of two kinds)."""
    parts, depth, start = [], 0, 0
    for token in re.finditer(r"\\[A-Za-z]+|\\.|[()\[\]{}]|[,;:=]", text):
        mark = token.group().removeprefix("\\")
        depth += (mark in OPENING) - (mark in CLOSING)
        if token.group() in separators and depth == 0:
            parts.append(text[start : token.start()])
            start = token.end()
    return [*parts, text[start:]]


def bracketed(text: str) -> tuple[str, str, str]:
    """Content and brackets where one pair encloses the whole, else the text and no brackets."""
    opening = re.match(r"\(|\[|\\\{", text)
    closing = re.search(r"(?:\)|\]|\\\})$", text)
    if not opening or not closing or len(text) < 2:
        return text, "", ""
    depth = 0
    for token in re.finditer(r"[()\[\]{}]", text):
        depth += (token.group() in OPENING) - (token.group() in CLOSING)
        if depth == 0 and token.end() < len(text):
            return text, "", ""
    return text[opening.end() : closing.start()], opening.group(), closing.group()


def signs(item: str) -> list[str]:
    r"""Every meaning of a text with \pm: with \mp the signs go together, without it each is free."""
    places = re.split(r"(\\[pm]m)(?![A-Za-z])\s?", item)
    marks = places[1::2]
    if not marks or len(marks) > 4:
        return [item]
    together = r"\mp" in marks
    choices = [(sign,) * len(marks) for sign in "+-"] if together else product("+-", repeat=len(marks))
    meanings = []
    for choice in choices:
        chosen = [sign if mark == r"\pm" else "+-"[sign == "+"] for sign, mark in zip(choice, marks, strict=True)]
        meanings.append(places[0] + "".join(map("".join, zip(chosen, places[2::2], strict=True))))
    return meanings
