r"""Every argument of LaTeX in braces, no other group, no white space: \frac12 is \frac{1}{2}, x^(1/2) is x^{1/2}."""

from __future__ import annotations

import contextlib
import re

WORD_SPACE = r"\text{ }"
"""Stands where white space kept two numbers apart."""
MAX_NESTING = 30
"""Deepest nesting of brackets that algebra is asked about."""
_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\s+|[0-9]+(?:\.[0-9]+)?|.", re.DOTALL)
_RAW = ("\\text", "\\begin", "\\end", "\\mathbb", "\\mathcal", "\\overline", "\\bar", "\\vec", "\\hat", "\\tilde",
        "\\overrightarrow", "\\widehat", "\\dot", "\\ddot")  # fmt: skip


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
    text, gap = "", False
    while stack and (token := stack.pop()) != closing:
        if token.isspace():
            gap = True
            continue
        piece = _piece(token, stack)
        if gap and re.match(r"[0-9.]", piece) and re.search(r"[0-9.]$", text):
            text += WORD_SPACE
        text += " " + piece if piece[:1].isalpha() and re.search(r"\\[A-Za-z]+$", text) else piece
        gap = False
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
        _skip_space(stack)
        if stack and stack[-1] == "[":
            stack.pop()
            token += f"[{_sequence(stack, ']')}]"
        return f"{token}{{{_argument(stack)}}}"
    if token in "^_":
        return f"{token}{{{_argument(stack)}}}"
    return token + _raw_group(stack) if token in _RAW else token


def _argument(stack: list[str], digits: bool = True) -> str:
    """The argument of a command, without its braces; `digits`: 10 is one argument, as in 2^10."""
    _skip_space(stack)
    if not stack:
        return ""
    token = stack.pop()
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


def _skip_space(stack: list[str]) -> None:
    while stack and stack[-1].isspace():
        stack.pop()


def _parenthesised(stack: list[str]) -> str | None:
    """What stands up to the parenthesis that closes an opened one, None where none does."""
    depth = 1
    for n, token in enumerate(reversed(stack)):
        depth += (token == "(") - (token == ")")
        if depth == 0:
            inner = stack[len(stack) - n :]
            del stack[len(stack) - n - 1 :]
            return _sequence(inner)
    return None


def _raw_group(stack: list[str]) -> str:
    _skip_space(stack)
    text, depth = "", 0
    while stack and (depth or (not text and stack[-1] == "{")):
        token = stack.pop()
        depth += (token == "{") - (token == "}")
        text += token
    return text
