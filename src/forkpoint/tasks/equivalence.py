"""Whether two normalised answers say the same, taken apart by their shape before any algebra is done.

Tuples, points and intervals compare bracket by bracket and in order; sets and bare lists in any order;
matrices entry by entry; unions part by part; "a \\pm b" stands for two answers. So (1,3) is neither {1,3} nor
[1,3], and "1,-2" is {-2,1}. What has no shape is a leaf, and `leaf` (computer algebra, given by the caller)
decides on it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from forkpoint.tasks.latex import rational

Leaf = Callable[[str, str], bool]

_MATRIX = re.compile(r"\\begin\{([pbvBV]?)matrix\}(.*)\\end\{\1matrix\}", re.DOTALL)
_BASE = re.compile(r"[0-9A-F.]+_\{[0-9]+\}")
_INEQUALITY = re.compile(r"[<>]|\\(?:le|ge|lt|gt)(?![A-Za-z])")
_NAME = re.compile(r"(\(?[A-Za-z](?:_\{\w\})?(?:,[A-Za-z])*\)?(?:\([A-Za-z]\))?)(?:=|\\in ?)(?=[^=]*$)")
_CLOSING = {"(": ")", "[": "]", "{": "}"}


class Shape(NamedTuple):
    """`kind` is "tuple", "set", "matrix", "union" or "leaf"; `brackets` tell apart tuples, and matrices by
    columns.
    """

    kind: str
    brackets: str
    items: Sequence[str]


def equivalent(gold: str, answer: str, leaf: Leaf) -> bool:
    """Whether two normalised answers are the same. `leaf(gold, answer)` decides on two single expressions."""
    gold, answer = _without_name(gold, answer)
    if gold == answer:
        return True
    gold_value, answer_value = rational(gold), rational(answer)
    if gold_value is not None and answer_value is not None:
        return gold_value == answer_value
    if _BASE.fullmatch(gold) or _BASE.fullmatch(answer):  # 52_8 is not 52, nor 42: the base was asked for
        return False
    gold_shape, answer_shape = shape(gold), shape(answer)
    if bool(_INEQUALITY.search(gold)) != bool(_INEQUALITY.search(answer)):  # x > 2 against (2, \infty)
        return leaf(gold, answer)
    if gold_shape.kind == answer_shape.kind == "leaf":
        return leaf(gold, answer)
    if gold_shape.kind in ("set", "union", "leaf") and answer_shape.kind in ("set", "union", "leaf"):
        kinds = {gold_shape.kind, answer_shape.kind}
        return kinds != {"set", "union"} and _same_in_any_order(gold_shape.items, answer_shape.items, leaf)
    if gold_shape[:2] != answer_shape[:2] or len(gold_shape.items) != len(answer_shape.items):
        return False
    return all(equivalent(a, b, leaf) for a, b in zip(gold_shape.items, answer_shape.items, strict=True))


def shape(text: str) -> Shape:
    """The outer shape of a normalised answer."""
    matrix = _MATRIX.fullmatch(text)
    if matrix:
        rows = [row.split("&") for row in matrix[2].removesuffix("\\\\").split("\\\\")]
        determinant = matrix[1] if matrix[1] in ("v", "V") else ""
        widths = ",".join(str(len(row)) for row in rows)
        return Shape("matrix", f"{determinant}{widths}", [entry for row in rows for entry in row])
    parts = split_top(text, r"\cup")
    if len(parts) > 1:
        return Shape("union", "", [part.strip() for part in parts])
    items = split_top(text, ",")
    if len(items) > 1 or _is_plus_minus(text):
        return Shape("set", "", [signed for item in items for signed in _signs(item)])
    inner, opening, closing = _bracketed(text)
    items = split_top(inner, ",")
    if opening == r"\{" and closing == r"\}":
        return Shape("set", "", [signed for item in items for signed in _signs(item)])
    if opening and len(items) > 1:
        return Shape("tuple", opening + closing, items)
    return Shape("leaf", "", [text])


def split_top(text: str, separator: str) -> list[str]:
    """Split where the separator stands outside of all brackets (an interval's may be of two kinds)."""
    parts, depth, start = [], 0, 0
    for token in re.finditer(rf"\\[A-Za-z]+|\\.|[()\[\]{{}}]|{re.escape(separator)}", text):
        mark = token.group().removeprefix("\\")
        depth += (mark in _CLOSING) - (mark in _CLOSING.values())
        if token.group() == separator and depth == 0:
            parts.append(text[start : token.start()])
            start = token.end()
    return [*parts, text[start:]]


def _bracketed(text: str) -> tuple[str, str, str]:
    """Content and brackets where one pair encloses the whole, else the text and no brackets."""
    opening = re.match(r"\(|\[|\\\{", text)
    closing = re.search(r"(?:\)|\]|\\\})$", text)
    if not opening or not closing or len(text) < 2:
        return text, "", ""
    depth = 0
    for token in re.finditer(r"[()\[\]{}]", text):
        depth += (token.group() in _CLOSING) - (token.group() in _CLOSING.values())
        if depth == 0 and token.end() < len(text):
            return text, "", ""
    return text[opening.end() : closing.start()], opening.group(), closing.group()


def _is_plus_minus(text: str) -> bool:
    return len(split_top(text, r"\pm")) == 2


def _signs(item: str) -> list[str]:
    """Both meanings of "a \\pm b"; the item itself where it has no such sign, or several."""
    parts = split_top(item, r"\pm")
    return [f"{parts[0]}{sign}{parts[1]}" for sign in "+-"] if len(parts) == 2 else [item]


def _same_in_any_order(gold: Sequence[str], answer: Sequence[str], leaf: Leaf) -> bool:
    """Whether the items pair off. Repeated items count once: {1, 1} is {1}."""
    return len(gold) <= 50 and len(answer) <= 50 and _covers(gold, answer, leaf) and _covers(answer, gold, leaf)


def _covers(items: Sequence[str], others: Sequence[str], leaf: Leaf) -> bool:
    return all(any(equivalent(item, other, leaf) for other in others) for item in items)


def _without_name(gold: str, answer: str) -> tuple[str, str]:
    """Take a leading "x=", "f(x)=", "(x,y)=" or "x\\in" away where just one has it, or both have the same."""
    gold_name, answer_name = _NAME.match(gold), _NAME.match(answer)
    if gold_name and answer_name and gold_name[1] != answer_name[1]:
        return gold, answer
    return gold[gold_name.end() if gold_name else 0 :], answer[answer_name.end() if answer_name else 0 :]
