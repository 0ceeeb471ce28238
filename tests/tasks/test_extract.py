"""The golden table of extraction, and what must hold for every text."""

from __future__ import annotations

import time

import pytest
from extraction_cases import CASES
from hypothesis import given
from hypothesis import strategies as st

from forkpoint.tasks import extract
from forkpoint.types import AnswerKind


@pytest.mark.parametrize(("kind", "text", "value", "covered"), CASES)
def test_golden_table(kind: AnswerKind, text: str, value: str | None, covered: str) -> None:
    span = extract(text, kind)
    assert (span and (span.value, text[span.start : span.end])) == (value and (value, covered))


OPTIONS = ("12 minutes", "24 minutes", "Rs. 697.50", "$61", "D/(M-3)", "None of these")


@pytest.mark.parametrize(("text", "letter", "options"), [
    ("The answer is 24 minutes.", "B", OPTIONS), ("The answer is Rs. 697.50. Done", "C", OPTIONS),
    ("Answer: 61", "D", OPTIONS), ("The answer is D/(M-3).", "E", OPTIONS), ("none of these", "F", OPTIONS),
    (r"\boxed{\text{None of these}}", "F", OPTIONS), ("The answer is (A) 24 minutes", "A", OPTIONS),
    ("The answer is 24", None, OPTIONS),
    ("Answer: 8.75", None, ("8.75", "8.79", "8.75")),  # two options are alike
    ("Answer: 8.79", "B", ("8.75", "8.79", "8.75")),
    ("The answer is (C).", None, ("1", "2")),  # a letter beyond the last option
])  # fmt: skip
def test_an_options_text_names_the_option(text: str, letter: str | None, options: tuple[str, ...]) -> None:
    span = extract(text, "option", options)
    assert (span and span.value) == letter


KINDS: list[AnswerKind] = ["number", "math", "option", "yesno"]
PIECES = [
    "\\boxed{", "}", "{", "$", "$$", "\\(", "\\]", "The answer is ", "####", "\n", "\\", "-", "1,000", "3/4", "(B)",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=25).map("".join), st.sampled_from(KINDS))
def test_a_span_lies_in_its_text(text: str, kind: AnswerKind) -> None:
    span = extract(text, kind)
    if span is not None:
        assert 0 <= span.start < span.end <= len(text)
        assert span.value
        if kind == "math" and "\\boxed{" in text:
            assert text[span.start : span.end] == span.value


REPEATED = [
    "9", "1,000,", "\\boxed{", "{", "$", "\\(", "\\[", "#### ", "The answer is ", "answer for ", "\n", " ", "A ", "(A",
    "1/", "1 ", "-", "1. ", "= ", "no x ",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("piece", REPEATED)
def test_reading_is_linear_in_the_length(piece: str, kind: AnswerKind) -> None:
    text = piece * (200_000 // len(piece))
    started = time.process_time()
    extract(text, kind)
    assert time.process_time() - started < 5  # a quadratic reader would take minutes
