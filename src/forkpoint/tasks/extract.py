"""How an answer is read from a response: a pipeline of four steps.

1. `response_proper`: what of the text is said to the reader (no thinking, no run-on after the answer);
2. `statements`: where it states an answer, and by which evidence: a box, a tag, a marker ("the answer is"), "####";
3. the last statement that holds an answer of the wanted kind wins. One that holds an answer which cannot be read, such
   as a box that never closes or two numbers at once ("3 hours 20 minutes"), ends the search without an answer;
4. its value. Without any statement: the last answer of the wanted kind in the response, the bare one.

A response that was cut off has an answer only where it was stated before the cut. Knows nothing of gold answers; every
function is linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from forkpoint.tasks.numerals import plain
from forkpoint.tasks.response import response_proper
from forkpoint.tasks.statements import Formulas, statements
from forkpoint.tasks.values import BARE, STATED, Unreadable
from forkpoint.types import AnswerKind, Span, check_texts

MOST_READ = 100_000
"""Characters of a response proper that are read: the last ones."""

_EXPLAINED = re.compile(r"(\s*[^\n]{1,60}\n\s*)(?:\*\*)?(?:Explanation|Reason(?:ing)?|Justification)\b", re.IGNORECASE)


def extract(text: str, kind: AnswerKind, options: Sequence[str] = (), *, cut_off: bool = False) -> Span | None:
    """The answer of a response, None where there is none.

    `options` are the texts of a multiple-choice question; with them, an answer that is an option's text counts as that
    option's letter, and letters beyond the last option do not count. `value` is the short form: "1000" for "1,000", the
    capital letter of an option, "yes" or "no", the LaTeX of a mathematical answer. `cut_off`: the response ended at its
    length limit; then only an answer counts that was stated, and whose statement was over, before the cut.
    """
    check_texts("options", options)
    start, end = response_proper(text, kind)
    start = max(start, end - MOST_READ)
    cut_off = cut_off and end == len(text)  # a response proper that runs on into the next question was over
    span = _read(plain(text[start:end]), kind, options, cut_off)
    return span and Span(start + span.start, start + span.end, span.value)


def _read(text: str, kind: AnswerKind, options: Sequence[str], cut_off: bool) -> Span | None:
    formulas = Formulas(text)
    words: Span | None = None
    for statement in reversed(statements(text, kind, formulas)):
        if statement.evidence == "box" and statement.start == statement.end:  # it never closes
            return None
        if cut_off and not statement.closed:
            continue
        try:
            span = STATED[kind](text, statement, formulas, options)
        except Unreadable:
            return None
        if span is None:
            continue
        if kind != "math" or statement.evidence in ("box", "tag") or not span.value.replace(" ", "").isalpha():
            return span
        words = words or span  # "the answer is in dollars": only where nothing better is stated
    if words or cut_off:
        return words
    answer_first = _EXPLAINED.match(text)
    if answer_first and (span := BARE[kind](answer_first[1], Formulas(answer_first[1]), options)):
        return span
    return BARE[kind](text, formulas, options)
