r"""Sets of real numbers, said as inequalities, intervals, unions or what is left out.

x<2\lor x>3, (-\infty,2)\cup(3,\infty) and \mathbb{R}\setminus[2,3] are one set. Imports sympy, as `algebra` does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import sympy

from forkpoint.tasks.algebra import parse, same_equation, same_value
from forkpoint.tasks.brackets import bracketed, split_top

_RANGE = re.compile(r"[<>]|\\(?:le|ge|ne|cup|cap|setminus)(?![A-Za-z])|\\mathbb\{R\}")
_RELATION = re.compile(r"(\\(?:le|ge|ne)(?![A-Za-z])|[<>])\s?")
_VARIABLE = re.compile(r"(?:[A-Za-z]|\\[a-z]+)(?:_\{\w+\})?")
_MEMBER = re.compile(rf"({_VARIABLE.pattern})\\in ?(?=[\\(\[])")
_BUILDER = re.compile(r"\\\{(\w)(?:\\in ?\\mathbb\{R\})?[:|](.*)\\\}")
_FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", r"\ne": r"\ne"}


class Range(NamedTuple):
    name: str  # of its variable, "" where it has none
    reals: sympy.Set


def is_range(text: str) -> bool:
    """Whether an answer speaks of a set of reals by a relation, a set operation or ℝ; a bare (1,2) does not."""
    return bool(_RANGE.search(text))


def same_range(gold: str, answer: str) -> bool:
    """Whether two answers, at least one of them a range, are the same set, or the same inequality of many variables."""
    first, second = _range(gold), _range(answer)
    if first and second:
        names = {first.name, second.name} - {""}
        return len(names) < 2 and _same_set(first.reals, second.reals)
    relations = [_RELATION.split(text) for text in (gold, answer)]
    if first or second or any(len(relation) != 3 for relation in relations):
        return False
    (left, operator, right), other = relations
    if other[1] != operator:  # 2>x is x<2
        other = [other[2], _FLIPPED[other[1]], other[0]]
    return other[1] == operator and same_equation((left, right), other[::2], positive=operator != r"\ne")


def _range(text: str) -> Range | None:
    try:
        return _read(text)
    except (ValueError, TypeError, NotImplementedError, AttributeError, RecursionError):
        return None  # sympy's way to say that an end is not real or an inequality cannot be solved


def _read(text: str) -> Range | None:
    text = text.strip()
    if builder := _BUILDER.fullmatch(text):
        return _read(builder[2])
    for separators, combine in _OPERATIONS:
        parts = split_top(text, *separators)
        if len(parts) > 1:
            ranges = [part for part in map(_read, parts) if part]
            names = {part.name for part in ranges} - {""}
            if len(ranges) < len(parts) or len(names) > 1:
                return None
            return Range("".join(names), combine(*(part.reals for part in ranges)))
        if combine is _listed and (member := _MEMBER.match(text)):  # x\in binds less than \cup does
            inner = _read(text[member.end() :])
            return inner and Range(member[1], inner.reals)
    return _relation(text) if _RELATION.search(text) else _atom(text)


def _listed(*sets: sympy.Set) -> sympy.Set:
    """x<2, x>3 can only mean either; x>2, x<3 only both."""
    both = sympy.Intersection(*sets)
    return sympy.Union(*sets) if both.is_empty else both


_OPERATIONS: list[tuple[tuple[str, ...], Callable[..., sympy.Set]]] = [  # the one that binds least first
    ((r"\lor",), sympy.Union),
    ((r"\land", ",", ";"), _listed),
    ((r"\setminus",), sympy.Complement),
    ((r"\cup",), sympy.Union),
    ((r"\cap",), sympy.Intersection),
]


def _atom(text: str) -> Range | None:
    if text in (r"\mathbb{R}", r"\emptyset"):
        return Range("", sympy.S.Reals if "R" in text else sympy.S.EmptySet)
    inner, opening, closing = bracketed(text)
    values = [_expression(end) for end in split_top(inner, ",")]
    if opening == r"\{":
        return Range("", sympy.FiniteSet(*values))
    if opening in ("(", "[") and len(values) == 2:
        return Range("", sympy.Interval(*values, opening == "(", closing == ")"))
    return None


def _expression(text: str) -> sympy.Expr:
    parsed = parse(text)
    if not isinstance(parsed, sympy.Expr):
        raise TypeError(text)
    return parsed


def _relation(text: str) -> Range | None:
    """The solutions of an inequality, or of a chain of them around one variable, such as 2<x\\le3."""
    chain = _RELATION.split(text)
    parts, operators = chain[::2], chain[1::2]
    names = [part for part in parts if _VARIABLE.fullmatch(part) and parse(part).is_Symbol]
    if not names and len(parts) == 2:  # in one variable, such as |x-2|<3
        left, right = map(_expression, parts)
        sign = {r"\le": "<=", r"\ge": ">=", r"\ne": "!="}.get(operators[0], operators[0])
        symbols = (left - right).free_symbols
        return Range(str(*symbols), sympy.Rel(left, right, sign).as_set()) if len(symbols) == 1 else None
    if len(names) != 1:
        return None
    place = parts.index(names[0])
    rays = [_ray(_FLIPPED[operators[n]], parts[n]) for n in range(place)]
    rays += [_ray(operators[n - 1], parts[n]) for n in range(place + 1, len(parts))]
    return Range(names[0], sympy.Intersection(*rays))


def _ray(operator: str, bound: str) -> sympy.Set:
    """The reals x with `x operator bound`."""
    end = _expression(bound)
    if operator == r"\ne":
        return sympy.Complement(sympy.S.Reals, sympy.FiniteSet(end))
    if operator in ("<", r"\le"):
        return sympy.Interval(-sympy.oo, end, True, operator == "<")
    return sympy.Interval(end, sympy.oo, operator == ">", True)


def _same_set(first: sympy.Set, second: sympy.Set) -> bool:
    if first == second:
        return True
    a, b = _pieces(first), _pieces(second)
    return len(a) == len(b) and all(map(_same_piece, a, b))


def _pieces(reals: sympy.Set) -> list[sympy.Set]:
    """The disjoint pieces from left to right; each point of a finite set is one."""
    pieces = list[sympy.Set]()
    for part in reals.args if isinstance(reals, sympy.Union) else [reals]:
        pieces += map(sympy.FiniteSet, part) if isinstance(part, sympy.FiniteSet) else [part]
    return sorted(pieces, key=lambda piece: (float(piece.inf), float(piece.sup))) if len(pieces) > 1 else pieces


def _same_piece(first: sympy.Set, second: sympy.Set) -> bool:
    if isinstance(first, sympy.FiniteSet) and isinstance(second, sympy.FiniteSet):
        return bool(same_value(*first, *second))
    if not isinstance(first, sympy.Interval) or not isinstance(second, sympy.Interval):
        return False
    same_kind = (first.left_open, first.right_open) == (second.left_open, second.right_open)
    ends = ((first.start, second.start), (first.end, second.end))
    return same_kind and all(a == b or same_value(a, b) for a, b in ends)
