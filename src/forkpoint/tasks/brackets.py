r"""The brackets of LaTeX: every argument in braces, and the outer shape of a cleaned answer.

`braced` makes \frac{1}{2} of \frac12 and x^{1/2} of x^(1/2), without other groups or white space. `shape` tells apart a
list, a set, a tuple, a matrix, a ratio and a single expression (a leaf).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

WORD_SPACE = r"\text{ }"  # stands where white space kept two numbers apart
MAX_NESTING = 30  # deepest nesting of brackets that algebra is asked about
_TOKEN = re.compile(r"\s*(?:\\[A-Za-z]+|\\.|[0-9]+(?:\.[0-9]+)?|\S)", re.DOTALL)  # with the white space before it
_RAW = ("\\text", "\\begin", "\\end", "\\mathbb", "\\mathcal", "\\overline", "\\bar", "\\vec", "\\hat", "\\tilde",
        "\\overrightarrow", "\\widehat", "\\dot", "\\ddot")  # fmt: skip
_MATRIX = re.compile(r"(.*?)\\begin\{([pvV]?)matrix\}(.*)\\end\{\2matrix\}", re.DOTALL)
_CLOCK = re.compile(r"[0-9]{1,2}:[0-9]{2}")
OPENING, CLOSING = {"(", "[", "{"}, {")", "]", "}"}


def braced(text: str) -> str:
    """The text with each argument in braces; what is not well-formed comes back as it is."""
    with contextlib.suppress(RecursionError):  # ^^^^ and \\sqrt\\sqrt\\sqrt without end stay as they are
        return _sequence(_TOKEN.findall(text)[::-1]) if well_formed(text) else text
    return text


def well_formed(text: str) -> bool:
    """Whether the braces pair off and brackets nest no deeper than any real answer's do."""
    braces = depth = 0
    for token in re.finditer(r"\\.|[()\[\]{}]", text):
        mark = token.group()
        braces += (mark == "{") - (mark == "}")
        depth += (mark in "([{") - (mark in ")]}")
        if braces < 0 or depth > MAX_NESTING:
            return False
    return braces == 0


def in_braces(text: str) -> bool:
    """Whether one pair of braces holds the whole text."""
    depth = 0
    for token in re.finditer(r"\\.|[{}]", text):
        depth += (token[0] == "{") - (token[0] == "}")
        if depth == 0:
            return token.end() == len(text) > 1 and text[0] == "{"
    return False


def _sequence(stack: list[str], closing: str = "") -> str:
    """What stands on the stack (the next token last) up to `closing`."""
    text = ""
    while stack and (token := stack.pop()).lstrip() != closing:
        piece = _piece(token.lstrip(), stack)
        if token[0].isspace() and re.match(r"[0-9.]", piece) and re.search(r"[0-9.]$", text):
            text += WORD_SPACE
        text += " " + piece if piece[:1].isalpha() and re.search(r"\\[A-Za-z]+$", text) else piece
    return text


def _piece(token: str, stack: list[str]) -> str:
    if token == "{":
        inner = _sequence(stack, "}")
        if "," in inner:  # a set, as plain text has it
            return rf"\{{{inner}\}}"
        return inner if re.fullmatch(r"[A-Za-z]?", inner) else f"({inner})"
    if token in ("\\frac", "\\binom"):
        top = _argument(stack, digits=False)
        return f"{token}{{{top}}}{{{_argument(stack, digits=False)}}}"
    if token in ("\\sqrt", "\\pmod"):
        if stack and stack[-1].lstrip() == "[":
            stack.pop()
            token += f"[{_sequence(stack, ']')}]"
        return f"{token}{{{_argument(stack)}}}"
    if token in "^_":
        return f"{token}{{{_argument(stack)}}}"
    return token + _raw_group(stack) if token in _RAW else token


def _argument(stack: list[str], digits: bool = True) -> str:
    """The argument of a command, without its braces; `digits`: 10 is one argument, as in 2^10."""
    if not stack:
        return ""
    token = stack.pop().lstrip()
    if token == "{":
        return _sequence(stack, "}")
    if token == "(" and digits and (inner := _parenthesised(stack)) is not None:
        return inner
    if token in "+-" and digits:
        return token + _argument(stack)
    if token[0].isdigit() and len(token) > 1 and not digits:
        stack.append(token[1:])
        return token[0]
    return _piece(token, stack)


def _parenthesised(stack: list[str]) -> str | None:
    """What stands up to the parenthesis that closes an opened one, None where none does."""
    depth = 1
    for n, token in enumerate(reversed(stack)):
        depth += (token.lstrip() == "(") - (token.lstrip() == ")")
        if depth == 0:
            inner = stack[len(stack) - n :]
            del stack[len(stack) - n - 1 :]
            return _sequence(inner)
    return None


def _raw_group(stack: list[str]) -> str:
    text, depth = "", 0
    while stack and (depth or (not text and stack[-1].lstrip() == "{")):
        token = stack.pop()
        depth += (token.lstrip() == "{") - (token.lstrip() == "}")
        text += token
    return text.lstrip()


class AnswerShape(NamedTuple):
    """`kind` is "tuple", "set", "matrix", "ratio" or "leaf"; `brackets` tell apart tuples, and matrices by columns."""

    kind: str
    brackets: str
    items: Sequence[str]


def shape(text: str) -> AnswerShape:
    """The outer shape of a cleaned answer. A bare list is a set; "a \\pm b" stands for two items."""
    if matrix := _MATRIX.fullmatch(text):
        factor, kind, body = matrix.groups()
        rows = [row.split("&") for row in body.removesuffix("\\\\").split("\\\\")]
        entries = [f"({factor})({entry})" if factor else entry for row in rows for entry in row]
        columns = ",".join(str(len(row)) for row in rows)
        return AnswerShape("matrix", kind.strip("p") + columns, entries)  # v and V: determinants are no matrices
    items = split_top(text, ",", ";", r"\land", r"\lor")
    inner, opening, closing = bracketed(text)
    coordinates = split_top(inner, ",")
    if opening == r"\{" and closing == r"\}":
        items = split_top(inner, ",", ";")
    elif len(items) == 1 < len(coordinates) and opening in ("(", "[") and r"\pm" not in text:
        return AnswerShape("tuple", opening + closing, coordinates)
    signed = [variant.strip() for item in items for variant in signs(item)]
    if len(signed) > 1 or opening == r"\{":
        return AnswerShape("set", "", signed)
    terms = [text] if _CLOCK.fullmatch(text) else split_top(text, ":")
    return AnswerShape("ratio" if len(terms) > 1 else "leaf", "", terms)


def split_top(text: str, *separators: str) -> list[str]:
    """Split where a separator stands outside of all brackets (an interval's may be of two kinds)."""
    parts, start = [], 0
    for token, depth in _depths(text):
        if token[0] in separators and depth == 0:
            parts.append(text[start : token.start()])
            start = token.end()
    return [*parts, text[start:]]


def _depths(text: str) -> Iterator[tuple[re.Match[str], int]]:
    """The commands, brackets and separators, and how many brackets are open behind each."""
    depth = 0
    for token in re.finditer(r"\\[A-Za-z]+|\\.|[()\[\]{}]|[,;:=]", text):
        mark = token[0].removeprefix("\\")
        depth += (mark in OPENING) - (mark in CLOSING)
        yield token, depth


def bracketed(text: str) -> tuple[str, str, str]:
    """Content and brackets where one pair encloses the whole, else the text and no brackets."""
    opening = re.match(r"\(|\[|\\\{", text)
    closing = re.search(r"(?:\)|\]|\\\})$", text)
    if not opening or not closing or len(text) < 2:
        return text, "", ""
    if any(depth == 0 and token.end() < len(text) for token, depth in _depths(text)):
        return text, "", ""
    return text[opening.end() : closing.start()], opening[0], closing[0]


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
