"""The golden table of extraction, and what must hold for every text."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkpoint.tasks import extract
from forkpoint.types import AnswerKind

# (kind, text, value, the characters that the span covers); None: there is no answer
GOLDEN: list[tuple[AnswerKind, str, str | None, str]] = [
    # numbers: nothing needs to follow them, punctuation and units do not belong to them
    ("number", "The answer is 42", "42", "42"),
    ("number", "so it is 42.", "42", "42"),
    ("number", "#### 18", "18", "18"),
    ("number", "she has 1,000", "1000", "1,000"),
    ("number", "5 apples", "5", "5"),
    ("number", "It costs $18.00.", "18", "18.00"),
    ("number", "x = -5", "-5", "-5"),
    ("number", "a change of −5 degrees", "-5", "−5"),
    ("number", "x = - 5", "-5", "- 5"),
    ("number", "a loss of -$5.", "-5", "-$5"),
    ("number", "pages 10-3", "3", "3"),
    ("number", "ages 3–5", "5", "5"),
    ("number", "3/4 of it", "3/4", "3/4"),
    ("number", "2 1/2 cups", "5/2", "2 1/2"),
    ("number", "25%", "25", "25"),
    ("number", ".5", "0.5", ".5"),
    ("number", "Rs.400", "400", "400"),
    ("number", "50 m^2", "50", "50"),
    ("number", "50 cm^{2}", "50", "50"),
    ("number", "7 kg of CO2", "7", "7"),
    ("number", "first 3, then 4, so 7 in all", "7", "7"),
    ("number", "eight", None, ""),
    ("number", "", None, ""),
    # a marker outranks later numbers; in its sentence the result of an equation counts, else the first number
    ("number", "The answer is 18 dollars for 9 eggs. I used 3 steps.", "18", "18"),
    ("number", "The answer is 9 * 2 = 18 dollars.", "18", "18"),
    ("number", "The final answer is:\n\n42", "42", "42"),
    ("number", "**Answer:** 7", "7", "7"),
    ("number", "The answer to the question is 7, not 8", "7", "7"),
    ("number", "The answer is 3. No, the answer is 4.", "4", "4"),
    ("number", "5 + 3 = 8. The answer is eight.", "8", "8"),
    ("number", "#### Step 2\nAdd 3 and 4 to get 7 in all", "7", "7"),
    # boxes: the last one, and nothing else
    ("number", r"\boxed{5} then \boxed{7}", "7", "7"),
    ("number", r"\boxed{1,234}", "1234", "1,234"),
    ("number", r"\boxed{5} then \boxed{7", None, ""),
    ("number", r"so 5. \boxed{}", "5", "5"),  # a box that states nothing of the kind is passed over
    ("number", r"so 5. \boxed{\text{five}}", "5", "5"),
    ("number", r"\boxed{\frac{1}{2}}", "1/2", r"\frac{1}{2}"),
    # mathematics
    ("math", r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", r"\frac{1}{2}"),
    ("math", r"\boxed{1} or \boxed{ 2 }", "2", "2"),
    ("math", r"\boxed{1} or \boxed{2", None, ""),
    ("math", r"\boxed{1} or \boxed{\frac{2}{3}", None, ""),
    ("math", r"\boxed{\{1,2\}}", r"\{1,2\}", r"\{1,2\}"),
    ("math", r"\boxed{\left\{1\right.}", r"\left\{1\right.", r"\left\{1\right."),
    ("math", r"\fbox{3}", "3", "3"),
    ("math", r"\boxed{\boxed{5}}", "5", "5"),
    ("math", "\\boxed{}", None, ""),
    ("math", r"The answer is $\frac{1}{2}$.", r"\frac{1}{2}", r"\frac{1}{2}"),
    ("math", r"The answer is \frac{1}{2}.", r"\frac{1}{2}", r"\frac{1}{2}"),
    ("math", r"The answer is 11,\! 111,\! 100.", r"11,\! 111,\! 100", r"11,\! 111,\! 100"),
    ("math", "The answer is $1$ and $-2$.", "$1$ and $-2$", "$1$ and $-2$"),
    ("math", "The answer is 3.21.", "3.21", "3.21"),
    ("math", "The final answer is $42$. I hope it is correct.", "42", "42"),
    ("math", "The answer is 5, because 2 + 3 = 5", "5", "5"),
    ("math", r"#### 1 \pm \sqrt{19}", r"1 \pm \sqrt{19}", r"1 \pm \sqrt{19}"),
    ("math", "so $x=5$", "x=5", "x=5"),
    ("math", r"Thus \[ x = 3 \] holds", "x = 3", "x = 3"),
    ("math", r"that is \(\pi\)", r"\pi", r"\pi"),
    ("math", "where $x$ is the price. So 42", "42", "42"),
    ("math", "it costs $18", "18", "18"),
    ("math", "no idea", None, ""),
    # options
    ("option", "(B)", "B", "B"),
    ("option", "B)", "B", "B"),
    ("option", "B.", "B", "B"),
    ("option", "B", "B", "B"),
    ("option", "c", "C", "c"),
    ("option", "Answer: B", "B", "B"),
    ("option", "Answer: B) 55 seconds", "B", "B"),
    ("option", "**Answer: (E) 42**", "E", "E"),
    ("option", "the answer is (c)", "C", "c"),
    ("option", "the answer is c.", "C", "c"),
    ("option", "the answer is B, as shown", "B", "B"),
    ("option", "The answer is **B**", "B", "B"),
    ("option", "The correct option is C because it fits", "C", "C"),
    ("option", "So option D is right.", "D", "D"),
    ("option", r"\boxed{\text{(D)}}", "D", "D"),
    ("option", r"\boxed{B}", "B", "B"),
    ("option", r"(A) seems right. \boxed{C", None, ""),
    ("option", "(A) is wrong and so is (B), hence\nC", "C", "C"),
    ("option", "The answer is (B), not (A).", "B", "B"),
    ("option", "A car drives on", None, ""),
    ("option", "The answer is A car", None, ""),
    ("option", "The answer is a car", None, ""),
    ("option", "where f(a) is D/(M-3)", None, ""),
    ("option", "(F)", None, ""),
    ("option", "I cannot say.\nQ: How many?\nA: The answer is", None, ""),
    ("option", "It is (C).\nQ: How many?\nA: Five.", "C", "C"),
    # yes and no
    ("yesno", "Yes, no, yes", "yes", "yes"),
    ("yesno", "So it is NO.", "no", "NO"),
    ("yesno", "The answer is yes. There is no doubt.", "yes", "yes"),
    ("yesno", "I know nothing of eyes", None, ""),
]


@pytest.mark.parametrize(("kind", "text", "value", "covered"), GOLDEN)
def test_golden_table(kind: AnswerKind, text: str, value: str | None, covered: str) -> None:
    span = extract(text, kind)
    assert (span and (span.value, text[span.start : span.end])) == (value and (value, covered))


OPTIONS = ("12 minutes", "24 minutes", "Rs. 697.50", "$61", "D/(M-3)", "None of these")


@pytest.mark.parametrize(("text", "letter", "options"), [
    ("The answer is 24 minutes.", "B", OPTIONS),
    ("The answer is Rs. 697.50. Done", "C", OPTIONS),
    ("Answer: 61", "D", OPTIONS),
    ("The answer is D/(M-3).", "E", OPTIONS),
    (r"\boxed{\text{None of these}}", "F", OPTIONS),
    ("none of these", "F", OPTIONS),
    ("The answer is (A) 24 minutes", "A", OPTIONS),
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
