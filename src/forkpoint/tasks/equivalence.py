r"""Whether two cleaned answers say the same, taken apart by their shape before any algebra is done.

Tuples compare in order, brackets included; sets, bare lists and "a \pm b" in any order; matrices entry by entry; ratios
up to a factor; inequalities and intervals as sets of reals. So (1,3) is neither {1,3} nor [1,3], and "1,-2" is {-2,1}.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from forkpoint.tasks.algebra import same_equation, same_expression
from forkpoint.tasks.brackets import shape, split_top
from forkpoint.tasks.intervals import is_range, same_range
from forkpoint.tasks.latex import rational, spoken

_BASE = re.compile(r"[0-9A-F.]+_\{[0-9]+\}")
_OPTION = re.compile(r"(?:\\text\{)?\(?([A-Ja-j])\)?(?:\})?")
_LETTERED = re.compile(r"(?:\\text\{)?\(?([A-Ja-j])[).:](?![-+*/^,_=<>]|\\(?:cdot|times|cup|in|l))(?!.*[A-J][).]).+")
_NAME = re.compile(
    r"\\text\{[^{}]*\}|\\frac\{d\w\}\{d\w\}|(?:\\(?:angle|triangle) ?)?[A-Z]{1,3}|\|\w+\||\(?[A-Za-z](?:,[A-Za-z])*\)?"
    r"|(?:[A-Za-z]|\\[a-z]+ ?)'*(?:_\{\w+\})?(?:\^\{-1\})?(?:\([^()=]*\))?"
)
_LETTERS = re.compile(r"(?:\\(?:angle|triangle|overline|overrightarrow)(?:\{| ?))?[A-Za-z]{2,}\}?")


def equivalent(gold: str, answer: str) -> bool:
    """Whether two cleaned answers are the same."""
    if gold == answer or _same_option(gold, answer):
        return True
    if is_range(gold) or is_range(answer):
        return same_range(gold, answer)
    if r"\emptyset" in (gold, answer):
        return False
    gold, answer = _without_names(gold, answer)
    values = rational(gold), rational(answer)
    if gold == answer or None not in values:
        return gold == answer or values[0] == values[1]
    if _BASE.fullmatch(gold) or _BASE.fullmatch(answer):  # 52_8 is not 52, nor 42: the base was asked for
        return False
    return _same_shape(gold, answer)


def _same_shape(gold: str, answer: str) -> bool:
    first, second = shape(gold), shape(answer)
    kinds = {first.kind, second.kind}
    if kinds == {"leaf"}:
        return _same_leaf(gold, answer)
    if kinds <= {"set", "leaf"}:
        return _same_in_any_order(first.items, second.items)
    if kinds == {"set", "tuple"} and 1 in (len(first.items), len(second.items)):  # \{(1,2)\} is (1,2)
        parts = ((first.items, answer), (second.items, gold))
        return any(len(items) == 1 and equivalent(items[0], whole) for items, whole in parts)
    if kinds == {"set", "tuple"}:
        pair = [_assignments(text) or text for text in (gold, answer)]
        return pair != [gold, answer] and _same_shape(*pair)
    if kinds <= {"ratio", "leaf"}:  # a fraction is the ratio to 1
        return _same_ratio(*([*part.items, "1"] if part.kind == "leaf" else part.items for part in (first, second)))
    if first[:2] != second[:2] or len(first.items) != len(second.items):
        return False
    return all(equivalent(a, b) for a, b in zip(first.items, second.items, strict=True))


def _same_leaf(gold: str, answer: str) -> bool:
    if r"\text" in gold or r"\text" in answer:
        return spoken(gold).casefold() == spoken(answer).casefold()
    if r"\approx" in gold + answer:  # what is said to be near is named twice: either may be meant
        sides = [split_top(text, r"\approx") for text in (gold, answer)]
        if max(map(len, sides)) > 1:
            return any(equivalent(a, b) for a in sides[0] for b in sides[1])
    if ":" in gold + answer or any(_LETTERS.fullmatch(text) and text != text.lower() for text in (gold, answer)):
        return False  # 8:30, ABC
    first, second = split_top(gold, "="), split_top(answer, "=")
    if len(first) == len(second) == 2:
        return same_equation(first, second)
    if len(first) == len(second) == 1:
        return same_expression(gold, answer)
    constant = not re.search(r"(?<!\\)(?<![A-Za-z])[A-Za-z]", f"{gold}={answer}")
    return constant and all(same_expression(first[0], side) for side in first + second)  # 2+3=5 is 5


def _same_option(gold: str, answer: str) -> bool:
    r"""\text{(B)} is B, "(B)" and "B) east"."""
    if not any(re.fullmatch(r"\\text\{\([A-J]\)\}|[A-J]", text) for text in (gold, answer)):
        return False
    first, second = (_OPTION.fullmatch(text) or _LETTERED.fullmatch(text) for text in (gold, answer))
    if not first or not second:
        return False
    any_case = r"\text{(" in gold + answer
    return first[1] == second[1] or (any_case and first[1].upper() == second[1].upper())


def _same_in_any_order(gold: Sequence[str], answer: Sequence[str]) -> bool:
    """Whether the items pair off. Repeated items count once: {1, 1} is {1}."""
    if max(len(gold), len(answer)) > 50:
        return False
    pairs = ((gold, answer), (answer, gold))
    return all(any(equivalent(item, match) for match in items) for wanted, items in pairs for item in wanted)


def _same_ratio(gold: Sequence[str], answer: Sequence[str]) -> bool:
    if len(gold) != len(answer):
        return False
    pairs = zip(gold[1:], answer[1:], strict=True)
    return all(same_expression(f"({a})({answer[0]})", f"({b})({gold[0]})") for a, b in pairs)


def _assignments(text: str) -> str | None:
    """x=1,y=2 as the point (1,2), in the order of the letters."""
    pairs = [split_top(item.strip(), "=") for item in split_top(text, ",", r"\land")]
    if not all(len(pair) == 2 and re.fullmatch("[A-Za-z]", pair[0]) for pair in pairs):
        return None
    values = dict(sorted(pairs))
    return f"({','.join(values.values())})" if len(values) == len(pairs) > 1 else None


def _without_names(gold: str, answer: str) -> tuple[str, str]:
    """Take a leading "x=", "f(x)=", "(x,y)=" or "x\\in" away where just one has it, or both have the same."""
    (gold_name, gold_value), (answer_name, answer_value) = _named(gold), _named(answer)
    if gold_name and answer_name:
        return (gold_value, answer_value) if gold_name == answer_name else (gold, answer)
    if gold_name and ("=" not in answer or gold_value.startswith((r"\{", "("))):
        return gold_value, answer
    if answer_name and ("=" not in gold or answer_value.startswith((r"\{", "("))):
        return gold, answer_value
    return gold, answer


def _named(text: str) -> tuple[str, str]:
    """Name and value of "x=2", "A=\\pi r^2=4\\pi" and "5=x"; no name where there is none."""
    for sign in (r"\in", "=", r"\approx"):
        parts = [part.strip() for part in split_top(text, sign)]
        if len(parts) < 2 or any(len(split_top(part, ",", ";", r"\land", r"\lor")) > 1 for part in parts[:-1]):
            continue
        if _NAME.fullmatch(parts[0]) and "=" not in parts[-1]:
            return "y" if parts[0] == "f(x)" else parts[0], parts[-1]
        if sign == "=" and len(parts) == 2 and _NAME.fullmatch(parts[1]):
            return parts[1], parts[0]
    return "", text
