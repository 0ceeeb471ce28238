r"""Sets of real numbers, said as inequalities, intervals, unions or what is left out.

x<2\lor x>3, (-\infty,2)\cup(3,\infty) and \mathbb{R}\setminus[2,3] are one set. Imports sympy, as `algebra` does.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import sympy

from forkpoint.tasks.algebra import parse, same_equation, same_value
from forkpoint.tasks.shapes import bracketed, split_top

_RANGE = re.compile(r"[<>]|\\(?:le|ge|ne|cup|cap|setminus)(?![A-Za-z])|\\mathbb\{R\}")
_RELATION = re.compile(r"\\(?:le|ge|ne)(?![A-Za-z])\s?|[<>]")
_VARIABLE = re.compile(r"(?:[A-Za-z]|\\[a-z]+)(?:_\{\w+\})?")
_MEMBER = re.compile(rf"({_VARIABLE.pattern})\\in ?(?=[\\(\[])")
_BUILDER = re.compile(r"\\\{(\w)(?:\\in ?\\mathbb\{R\})?[:|](.*)\\\}")
_FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", r"\ne": r"\ne"}


class Range(NamedTuple):
    """A set of reals, with the name of its variable where one is given."""

    name: str
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
    sides, others = _sides(gold), _sides(answer)
    if first or second or not sides or not others or sides[0] != others[0]:
        return False
    return same_equation(sides[1:], others[1:], positive=sides[0] != r"\ne")


def _sides(text: str) -> tuple[str, str, str] | None:
    """Operator (never > or \\ge), left and right side of a single relation."""
    parts, operators = _chain(text)
    if len(parts) != 2:
        return None
    operator = operators[0]
    return (_FLIPPED[operator], parts[1], parts[0]) if operator in (">", r"\ge") else (operator, parts[0], parts[1])


def _range(text: str) -> Range | None:
    try:
        return _read(text.strip())
    except (ValueError, TypeError, NotImplementedError, AttributeError, RecursionError):
        return None  # sympy's way to say that an end is not real or an inequality cannot be solved


def _read(text: str) -> Range | None:
    builder = _BUILDER.fullmatch(text)
    if builder:
        return _read(builder[2])
    for separators, combine in (((r"\lor",), sympy.Union), ((r"\land", ",", ";"), _listed)):
        parts = split_top(text, *separators)
        if len(parts) > 1:
            return _combined([_read(part.strip()) for part in parts], combine)
    member = _MEMBER.match(text)
    if member:
        inner = _read(text[member.end() :])
        return inner and Range(member[1], inner.reals)
    for separator, combine in ((r"\setminus", sympy.Complement), (r"\cup", sympy.Union), (r"\cap", sympy.Intersection)):
        parts = split_top(text, separator)
        if len(parts) > 1:
            return _combined([_read(part.strip()) for part in parts], combine)
    return _relation(text) if _RELATION.search(text) else _atom(text)


def _combined(ranges: list[Range | None], combine: Any) -> Range | None:
    read = [part for part in ranges if part]
    names = {part.name for part in read} - {""}
    if len(read) < len(ranges) or len(names) > 1:
        return None
    return Range("".join(names), combine(*(part.reals for part in read)))


def _listed(*sets: sympy.Set) -> sympy.Set:
    """x<2, x>3 can only mean either; x>2, x<3 only both."""
    both = sympy.Intersection(*sets)
    return sympy.Union(*sets) if both.is_empty else both


def _atom(text: str) -> Range | None:
    if text == r"\mathbb{R}":
        return Range("", sympy.S.Reals)
    if text == r"\emptyset":
        return Range("", sympy.S.EmptySet)
    inner, opening, closing = bracketed(text)
    ends = split_top(inner, ",")
    values = [parse(end) for end in ends]
    if any(not isinstance(value, sympy.Expr) for value in values):
        return None
    if opening == r"\{":
        return Range("", sympy.FiniteSet(*values))
    if opening in ("(", "[") and len(ends) == 2:
        return Range("", sympy.Interval(*values, opening == "(", closing == ")"))
    return None


def _chain(text: str) -> tuple[list[str], list[str]]:
    """The parts of a chain of relations, and the operators between them."""
    return _RELATION.split(text), [operator.strip() for operator in _RELATION.findall(text)]


def _relation(text: str) -> Range | None:
    parts, operators = _chain(text)
    names = [part for part in parts if _VARIABLE.fullmatch(part) and parse(part).is_Symbol]
    if not names and len(parts) == 2:
        return _solved(parts, operators[0])
    if len(names) != 1:
        return None
    place = parts.index(names[0])
    rays = [_ray(_FLIPPED[operators[n]], parts[n]) for n in range(place)]
    rays += [_ray(operators[n - 1], parts[n]) for n in range(place + 1, len(parts))]
    return Range(names[0], sympy.Intersection(*rays))


def _ray(operator: str, bound: str) -> sympy.Set:
    """The reals x with `x operator bound`."""
    end = parse(bound)
    if not isinstance(end, sympy.Expr):
        raise ValueError(bound)
    if operator == r"\ne":
        return sympy.Complement(sympy.S.Reals, sympy.FiniteSet(end))
    if operator in ("<", r"\le"):
        return sympy.Interval(-sympy.oo, end, True, operator == "<")
    return sympy.Interval(end, sympy.oo, operator == ">", True)


def _solved(parts: list[str], operator: str) -> Range | None:
    """The solutions of an inequality in one variable, such as |x-2|<3."""
    left, right = (parse(part) for part in parts)
    classes = {"<": sympy.Lt, ">": sympy.Gt, r"\le": sympy.Le, r"\ge": sympy.Ge, r"\ne": sympy.Ne}
    if not isinstance(left, sympy.Expr) or not isinstance(right, sympy.Expr):
        return None
    symbols = (left - right).free_symbols
    if len(symbols) != 1:
        return None
    return Range(str(*symbols), classes[operator](left, right).as_set())


def _same_set(first: sympy.Set, second: sympy.Set) -> bool:
    if first == second:
        return True
    pieces = [_pieces(first), _pieces(second)]
    if len(pieces[0]) != len(pieces[1]):
        return False
    return all(_same_piece(a, b) for a, b in zip(*pieces, strict=True))


def _pieces(reals: sympy.Set) -> list[sympy.Set]:
    """The disjoint pieces from left to right; each point of a finite set is one."""
    pieces = list(reals.args) if isinstance(reals, sympy.Union) else [reals]
    single = [piece for piece in pieces if not isinstance(piece, sympy.FiniteSet)]
    single += [sympy.FiniteSet(x) for piece in pieces if isinstance(piece, sympy.FiniteSet) for x in piece]
    if len(single) > 1:
        single.sort(key=lambda piece: (float(piece.inf), float(piece.sup)))
    return single


def _same_piece(first: sympy.Set, second: sympy.Set) -> bool:
    if isinstance(first, sympy.FiniteSet) and isinstance(second, sympy.FiniteSet):
        return bool(same_value(*first, *second))
    if not isinstance(first, sympy.Interval) or not isinstance(second, sympy.Interval):
        return False
    opened = first.left_open == second.left_open and first.right_open == second.right_open
    ends = ((first.start, second.start), (first.end, second.end))
    return bool(opened and all(a == b or same_value(a, b) for a, b in ends))
