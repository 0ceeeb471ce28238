"""Where in a text an answer that is already known stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from forkpoint.tasks.answers import answer_key
from forkpoint.tasks.extract import extract
from forkpoint.tasks.numerals import number_span, numerals, plain
from forkpoint.types import AnswerKind, Span


def find_answer(text: str, value: str, kind: AnswerKind, options: Sequence[str] = ()) -> Span | None:
    """The last place of `text` that gives the answer `value`, however it is spelt there; None where none does.

    That is where the text's own answer stands if it is the same one, else, for numbers, the last equal number.
    """
    key = answer_key(value, kind)
    return next((span for span in _candidates(text, kind, options) if answer_key(span.value, kind) == key), None)


def _candidates(text: str, kind: AnswerKind, options: Sequence[str]) -> Iterator[Span]:
    own = extract(text, kind, options)
    if own is not None:
        yield own
    if kind == "number":
        yield from reversed([number_span(found) for found in numerals(plain(text))])
