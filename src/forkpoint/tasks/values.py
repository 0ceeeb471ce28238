"""What a statement of an answer says, or else the whole response: the value of each kind, and where it stands."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from forkpoint.tasks.answer_options import bare_option, stated_option
from forkpoint.tasks.numerals import number_span, numerals
from forkpoint.tasks.statements import HYPOTHESIS, Formulas, Statement, trimmed
from forkpoint.types import AnswerKind, Span

UNREADABLE = Span(0, 0, "")
"""A statement holds an answer that cannot be read, such as two numbers at once."""

_EQUALS = re.compile(
    r"(?<![<>!:\\])=(?!=)|\\approx(?![A-Za-z])|≈|(?<!\\)[()\[\]]|[,;:]\s|\b(?:if|when|with|given|as)\b"
)
_JOINT = {
    "", "and", "or", "&", "to", ":", "-", "+", "*", "/", "×", "·", "÷", "out of", "% of", "\\% of", "\\times", "\\cdot",
    "\\div",
}  # fmt: skip
_NO_UNIT = {
    "for", "in", "of", "with", "per", "from", "by", "at", "on", "after", "each", "than", "when", "if", "every", "over",
    "minus", "plus", "times", "is", "are", "was", "were", "until", "before", "not", "as",
}  # fmt: skip
_WRAPPING = re.compile(r"\\(?:text|mathrm|textbf|mbox)\s?\{|\\[,;:! ]|[{}$~]")
_NOT_COUNTED = re.compile(
    r"(?:(?:\A|\n)[ \t>*]*|\b(?P<noun>Step|Part|Case|Question|Problem|Equation|Method|Phase)\s\#?)$", re.IGNORECASE
)
_LIST_MARK = re.compile(r"[.):]\**\s+[^\W\d]")

_YES_NO = re.compile(r"(?<![A-Za-z])(?:yes|no)(?![A-Za-z])", re.IGNORECASE)
_NO_NOUN = re.compile(r"no\s+[a-z]", re.IGNORECASE)

_WORDS = re.compile(
    r"\\(?:text|mbox|mathrm|mathbf|textbf|operatorname|begin|end)\s?\{[^{}]*\}|\\[A-Za-z]+|(?P<word>[A-Za-z]{3,})"
)
_NAMES = {"and", "sin", "cos", "tan", "cot", "sec", "csc", "log", "exp", "sqrt", "arcsin", "arccos", "arctan", "inf"}
_COPULA = re.compile(r"\b(?:is|are|equals|be)\b(?:\s(?:equal\sto|approximately|about|exactly))?[\s:]*", re.IGNORECASE)
_LEADING_WORDS = re.compile(r"(?:(?:[A-Za-z][a-z]+|a)\s+)+(?=[-+\d(\[{\\$.√]|[A-Za-z]\s*[=<>(^])")
_CONDITION = re.compile(r"\b(?:at|when|where|if|for|with|since|because|from|using|by)\s[\s$\\(\[]*$", re.IGNORECASE)
_SIDE = re.compile(r"(?<![<>!:\\])=(?!=)|[()\[\]{}]")
_APART = re.compile(r"[,;$]|\\(?:text|quad|lor|land|implies)\b|\b(?:and|or)\b")  # "x = 3, y = 4" is no chain
_JOINED = re.compile(r"[\s$]*(?:,|,?\s?(?:and|or)\b|\\\)(?:,|,?\s?(?:and|or)\b)\s*\\\()[\s$]*")
_NAME = re.compile(r"\s*(?:([A-Za-z])\s*=)?")
_PERCENT = re.compile(r"\s?(?:\\?%|percent\b)")
_COMMAND = re.compile(r"\\(?:text\s?\{[^{}]*\}|[A-Za-z]+)")


def _number(text: str, stated: Statement) -> Span | None:
    """The number after the last "=" of an equation that is stated, else the first one.

    "The answer is 18 dollars for 9 eggs" means 18; "5 out of 36" and "3 hours 20 minutes" are UNREADABLE.
    """
    start, end = stated.start, stated.end
    if stated.evidence == "postfix":
        return _number_before(text, start, end)
    numbers = list(numerals(text, start, end))
    if not numbers or (stated.evidence == "hash" and not _leads(text, start, numbers[0])):
        return None
    equals = _last_equals(text, start, end, numbers[0].start())
    right, left = [m for m in numbers if m.start() >= equals], [m for m in numbers if m.end() <= equals]
    for side, floor in ((right, equals), (left, start)):
        if side and not _goes_on(text, side, stated):
            return number_span(side[0], floor, leading=True)
    return UNREADABLE


def _number_before(text: str, start: int, end: int) -> Span | None:
    """ "72 clips is the answer": the number that the statement ends with."""
    numbers = list(numerals(text, start, end))
    if not numbers or not re.fullmatch(r"[*$}%\\]*(?:\s[A-Za-z]+){0,2}[*\s]*", text[numbers[-1].end() : end]):
        return None
    return number_span(numbers[-1], start, leading=True)


def _leads(text: str, start: int, number: re.Match[str]) -> bool:
    """Whether a line behind "####" begins with the number, and is no heading such as "#### 2. Compute"."""
    before = re.fullmatch(r"(?:[\s$€£₹*\\({-]|[A-Za-z]\s?=)*", text[start : number.start()])
    return bool(before) and not _LIST_MARK.match(text, number.end())


def _last_equals(text: str, start: int, end: int, first: int) -> int:
    """End of the last "=" of the equation that the stretch (or its part from `first`) begins with, else `start`."""
    depth, last = 0, start
    for mark in _EQUALS.finditer(text, start, end):
        character = mark.group()
        depth += (character in "([") - (character in ")]")
        if character in ("=", "\\approx", "≈"):
            last = mark.end() if depth == 0 else last
        elif character not in "()[]" and depth == 0 and mark.start() > first:
            break
    return last


def _goes_on(text: str, numbers: Sequence[re.Match[str]], stated: Statement) -> bool:
    """Whether the first number is but a part: of "3 hours 20 minutes", "5 out of 36", "6 \\times 7", "2 or 3"."""
    between = text[numbers[0].end() : numbers[1].start()] if len(numbers) > 1 else "="
    if "=" in between:
        return False
    joint = _JOINT | ({","} if stated.evidence in ("box", "tag") else set())
    words = _WRAPPING.sub(" ", between).replace(",", " , ").lower().split()
    if words and words[0].rstrip(".").isalpha() and words[0] not in _NO_UNIT | joint and words[:2] != ["out", "of"]:
        words = words[1:]
    return " ".join(words) in joint


def _last_number(text: str) -> re.Match[str] | None:
    """The last number that does not count the steps ("3. Now", "Step 3:")."""
    for number in reversed(list(numerals(text))):
        before = _NOT_COUNTED.search(text, max(0, number.start() - 20), number.start())
        if not before or not (before["noun"] or _LIST_MARK.match(text, number.end())):
            return number
    return None


def _math(text: str, stated: Statement, formulas: Formulas) -> Span | None:
    """The content of a box or tag; of a sentence, the formula or number that it states."""
    start, end = stated.start, stated.end
    if stated.evidence in ("box", "tag"):
        return _last_side(text, trimmed(text, start, end))
    if stated.evidence == "hash" and _prose(text, start, end, formulas):
        return None
    if stated.evidence == "postfix":
        if (inside := formulas.within(start, end)) and not text[inside[-1][1] : end].strip(" $\\)]*"):
            return _last_side(text, trimmed(text, *inside[-1]))
        return _number_before(text, start, end)
    return _last_side(text, _of_sentence(text, start, end, formulas))


def _of_sentence(text: str, start: int, end: int, formulas: Formulas) -> Span | None:
    """ "The largest such $n$ is 34" -> 34; "$1$ and $-2$" as a whole; "east" as a word."""
    copulas = [c.end() for c in formulas.outside(_COPULA.finditer(text, start, end)) if c.end() < end]
    start = max(copulas, default=start)
    inside = formulas.within(start, end)
    if len(inside) == 1:
        a, b = inside[0]
        if not any(map(str.isdigit, text[start:a] + text[b:end])):
            return trimmed(text, a, b)
    if _prose(text, start, end, formulas):
        if leading := _LEADING_WORDS.match(text, start, end):
            start = leading.end()
        number = next(numerals(text, start, end), None)
        leads = number and not formulas.holds(number.start()) and not text[start : number.start()].strip(" -$\\*")
        if number and leads and _prose(text, number.end(), end, formulas):
            return _with_percent(text, number, start)
    return trimmed(text, start, end)


def _prose(text: str, start: int, end: int, formulas: Formulas) -> bool:
    """Whether there are ordinary words outside of formulas."""
    words = (match["word"] for match in formulas.outside(_WORDS.finditer(text, start, end)))
    return any(word and word.lower() not in _NAMES for word in words)


def _last_side(text: str, span: Span | None) -> Span | None:
    """Of "3 + 4 = 7" and "x = 3 + 4 = 7" the 7; an equation in letters, such as "y = 2x", as a whole."""
    if span is None:
        return None
    depth, sides = 0, [span.start]
    for mark in _SIDE.finditer(text, span.start, span.end):
        depth += (mark.group() in "([{") - (mark.group() in ")]}")
        sides += [mark.end()] if mark.group() == "=" and depth == 0 else []
    left = _COMMAND.sub("", text[span.start : sides[1] - 1]) if len(sides) > 1 else ""
    chain = len(sides) > 2 and not _APART.search(text, sides[1], sides[-1])
    if chain or (left.strip() and not re.search(r"[^\W\d_]", left)):
        return trimmed(text, sides[-1], span.end) or span
    return span


def _with_percent(text: str, number: re.Match[str], floor: int) -> Span:
    start = number_span(number, floor, leading=True).start
    end = (_PERCENT.match(text, number.end()) or number).end()
    return Span(start, end, text[start:end])


def _bare_math(text: str, formulas: Formulas) -> Span | None:
    """The last formula or number, whichever is later.

    A lone letter ("where $x$ is the price") and a condition ("attained at $x = 1$") are no answers beside others.
    """
    number = _last_number(text)
    values = [(a, b) for a, b in formulas.spans if re.search(r"[\d\\=+<>(\[]", text[a:b])]
    answers = [span for span in values if not _CONDITION.search(text, max(0, span[0] - 16), span[0])] or values
    answers = answers or ([] if number else formulas.spans)
    if answers and (number is None or number.end() <= (values or answers)[-1][1]):
        start, end = answers[-1]
        name = _NAME.match(text, start)
        for a, b in reversed(answers[-9:-1]):  # "$x = 3$ and $x = -2$" are one answer, "$x = 3$ and $y = 4$" two
            other = _NAME.match(text, a)
            if not _JOINED.fullmatch(text, b, start) or not name or not other or name[1] != other[1]:
                break
            start = a
        return _last_side(text, trimmed(text, start, end))
    return _with_percent(text, number, 0) if number else None


def _last_yes_no(text: str) -> re.Match[str] | None:
    """The last "yes" or "no" that is no article ("no doubt"), else the one that the response begins with."""
    answer, begin = None, len(text) - len(text.lstrip(" \t\n*_"))
    for word in _YES_NO.finditer(text):
        doubted = HYPOTHESIS.search(text, max(0, word.start() - 40), word.start())
        if word.start() == begin or not (doubted or _NO_NOUN.match(text, word.start())):
            answer = word
    return answer


def _yes_no(word: re.Match[str] | None) -> Span | None:
    return Span(*word.span(), word.group().lower()) if word else None


STATED: dict[AnswerKind, Callable[[str, Statement, Formulas, Sequence[str]], Span | None]] = {
    "number": lambda text, stated, *_: _number(text, stated),
    "math": lambda text, stated, formulas, _: _math(text, stated, formulas),
    "option": lambda text, stated, _, options: stated_option(text, stated, options),
    "yesno": lambda text, stated, *_: _yes_no(_YES_NO.search(text, stated.start, stated.end)),
}
"""The answer in a statement, None where it holds none of the kind."""
BARE: dict[AnswerKind, Callable[[str, Formulas, Sequence[str]], Span | None]] = {
    "number": lambda text, *_: number_span(number) if (number := _last_number(text)) else None,
    "math": lambda text, formulas, _: _bare_math(text, formulas),
    "option": lambda text, _, options: bare_option(text, options),
    "yesno": lambda text, *_: _yes_no(_last_yes_no(text)),
}
