"""When two answers are the same: numbers exactly, options and yes/no by name, mathematics by spelling, value, algebra.

The percent sign of a mathematical answer is a factor of 1/100: "10%" is 0.1 and not 10, unless the question itself asks
for a percentage (MATH-500 writes those gold answers without the sign): then it is 10 and not 0.1. A number of kind
"number" has no unit, since GSM8K's gold answers have none: "25%" is 25, as "$25" is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain

from forkpoint.tasks import workers
from forkpoint.tasks.brackets import well_formed
from forkpoint.tasks.extract import extract
from forkpoint.tasks.latex import clean, rational, spoken
from forkpoint.tasks.numerals import number_key, number_span, numerals, plain
from forkpoint.types import AnswerKind, Grade, Span

DEADLINE = 5.0  # seconds that the comparison of two mathematical answers may take
MAX_LENGTH = 1000  # characters of a mathematical answer; a longer one is compared as text only

_SENTENCE = re.compile(r"[^.?!\n]+(?:\.(?=\S)[^.?!\n]*)*[.?!]?")
_ASKING = re.compile(
    r"(?i)\?|\b(?:what|which|how|find|compute|determine|calculate|express|give|enter|write|answer|round|evaluate|estimate)\b"
)
_PERCENT_WORD = re.compile(r"(?<![0-9}$])(?<![0-9}$] )\bpercent(?:age)?\b", re.IGNORECASE)


def answer_key(value: str, kind: AnswerKind) -> str:
    """A string that is equal for answers that are plainly the same: 1,000 and 1000.0, but not yet x+1 and 1+x."""
    if kind == "number":
        return number_key(value)
    if kind in ("option", "yesno"):
        key = value.strip(" \t\n().:*$").casefold()
        return key.upper() if kind == "option" else key
    if len(value) > MAX_LENGTH:
        return value.strip()
    text = clean(value)
    if (number := rational(text)) is not None:
        return str(number)
    option = re.fullmatch(r"(\\text\{)?\(([A-Z])\)(?(1)\})", text)
    return option[2] if option else spoken(text)


def same_answer(a: str, b: str, kind: AnswerKind, *, question: str = "", deadline: float = DEADLINE) -> bool:
    """Whether two answers of a kind are the same; False where `deadline` seconds do not tell."""
    if kind == "math":
        return compare_math(a, b, question=question, deadline=deadline).correct
    return answer_key(a, kind) == answer_key(b, kind)


def compare_math(gold: str, answer: str, *, question: str = "", deadline: float = DEADLINE) -> Grade:
    """The verdict on a mathematical answer, both in LaTeX or plain text. Never raises for any input."""
    if gold.strip() == answer.strip() or max(len(gold), len(answer)) > MAX_LENGTH:
        return Grade(gold.strip() == answer.strip(), answer, "string")
    percent = "" if asks_percentage(question) else "/100"
    first, second = clean(gold, percent=percent), clean(answer, percent=percent)
    if first == second or not first or not second:
        return Grade(bool(first) and first == second, answer, "string")
    values = rational(first), rational(second)
    if None not in values:
        return Grade(values[0] == values[1], answer, "number")
    if not well_formed(first) or not well_formed(second):
        return Grade(False, answer, "string")
    same, error = _by_algebra(first, second, deadline)
    return Grade(same, answer, "math-verify", error)


# Failures are remembered too: a model gives its hostile answers more than once.
_by_algebra = lru_cache(maxsize=10_000)(workers.POOL.compare)


def asks_percentage(question: str) -> bool:
    """Whether a sentence that asks for something speaks of a percentage, and not just of "10 percent"."""
    sentences = _SENTENCE.findall(question[:20_000])
    return any(_ASKING.search(sentence) and _PERCENT_WORD.search(sentence) for sentence in sentences)


def find_answer(text: str, value: str, kind: AnswerKind, options: Sequence[str] = ()) -> Span | None:
    """Where `text` gives the answer `value`, however spelt: as its own answer or, for a number, last; else None."""
    own = extract(text, kind, options)
    numbers = reversed(list(numerals(plain(text)))) if kind == "number" else ()
    places = chain([own] if own else [], map(number_span, numbers))
    key = answer_key(value, kind)
    return next((span for span in places if answer_key(span.value, kind) == key), None)
