"""Where in a text the answer stands, and what it is.

`extract` gives the character span of the LAST answer in a text. It reads, in this order,

1. the last ``\\boxed{...}``. A last box that is empty, has no answer of the wanted kind in it, or never
   closes is an extraction failure: an earlier box, or a number in front of it, is never taken instead;
2. what follows the last "####", "answer is", "answer:" and the like, up to the end of that sentence;
3. the last answer of the wanted kind in the text.

In 2 a number is the one after the last "=" of the sentence, else its first ("The answer is 18 dollars for 9
eggs" means 18). Knows nothing of gold answers; every function is linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from forkpoint.tasks.markers import after_marker, find_box, last_match, math_segments, trimmed
from forkpoint.tasks.numerals import NUMBER, canonical_match
from forkpoint.tasks.options import extract_option
from forkpoint.types import AnswerKind, Span

_YES_NO = re.compile(r"(?<![A-Za-z])(?:yes|no)(?![A-Za-z])", re.IGNORECASE)


def extract(text: str, kind: AnswerKind, options: Sequence[str] = ()) -> Span | None:
    """The last answer in `text`, None where there is none.

    `options` are the texts of a multiple-choice question; with them, an answer that is an option's text
    counts as that option's letter, and letters beyond the last option do not count. `value` is the short
    form: "1000" for "1,000", the capital letter of an option, "yes" or "no", the box content of a
    mathematical answer.
    """
    if kind == "number":
        return _number(text)
    if kind == "math":
        return _math(text)
    if kind == "option":
        return extract_option(text, options)
    return _yes_no(text)


# --- numbers and yes/no -------------------------------------------------------------------------------------


def _number(text: str) -> Span | None:
    box = find_box(text)
    if box is not None:
        found = last_match(NUMBER, text, *box)
        return number_span(found) if found else None
    after = after_marker(text)
    if after is not None:
        start, end, line_end = after
        equals = text.rfind("=", start, end)
        for low, high in ((equals + 1, end), (start, end), (start, line_end)):
            found = NUMBER.search(text, low, high) if low else None
            if found:
                return number_span(found)
    found = last_match(NUMBER, text, 0, len(text))
    return number_span(found) if found else None


def number_span(found: re.Match[str]) -> Span:
    signed = found["sign"] or found["far_sign"]
    return Span(found.start() if signed else found.start("body"), found.end(), canonical_match(found))


def _yes_no(text: str) -> Span | None:
    box, after = find_box(text), after_marker(text)
    if box is not None:
        found = last_match(_YES_NO, text, *box)
    else:
        found = _YES_NO.search(text, after[0], after[1]) if after else None
        found = found or last_match(_YES_NO, text, 0, len(text))
    return Span(found.start(), found.end(), found.group().lower()) if found else None


# --- mathematics --------------------------------------------------------------------------------------------


def _math(text: str) -> Span | None:
    box = find_box(text)
    if box is not None:
        return trimmed(text, *box)
    after = after_marker(text)
    if after is not None:
        start, end, _ = after
        segments = [(a + start, b + start) for a, b in math_segments(text[start:end])]
        if len(segments) == 1 and not _has_digit(text[start : segments[0][0]] + text[segments[0][1] : end]):
            start, end = segments[0]
        span = trimmed(text, start, end)
        if span:
            return span
    segments = math_segments(text)
    number = last_match(NUMBER, text, 0, len(text))
    if segments and (number is None or number.end() <= segments[-1][1]):
        return trimmed(text, *segments[-1])
    return number_span(number) if number else None


def _has_digit(text: str) -> bool:
    return any(character.isdigit() for character in text)
