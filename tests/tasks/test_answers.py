"""The golden table of equivalence: what is the same answer and what is not."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest
from equivalence_cases import CASES
from hypothesis import given, settings
from hypothesis import strategies as st

from forkpoint.tasks import answer_key, same_answer
from forkpoint.tasks.answers import compare_math
from forkpoint.types import AnswerKind


@pytest.mark.parametrize(("gold", "equal", "other"), CASES)
def test_golden_table_in_both_directions(gold: str, equal: list[str], other: list[str]) -> None:
    for answers, same in ((equal, True), (other, False)):
        for answer in answers:
            for pair in ((gold, answer), (answer, gold)):
                verdict = compare_math(*pair, deadline=20)
                assert verdict.correct is same, (pair, verdict)
                assert verdict.error is None


PERCENTAGE = "By what percent does the area decrease?"


@pytest.mark.parametrize(("question", "gold", "answer", "same"), [
    (PERCENTAGE, "10", r"10\%", True),
    (PERCENTAGE, r"10\%", "10", True),
    (PERCENTAGE, "10", "0.1", False),
    ("Find the rate. Express your answer as a percentage, without the percent sign.", "10", r"10\%", True),
    ("What percentage of 2.5 is 1.5?", "60", r"60\%", True),
    ("The table shows the percent of riders. For which grade is it closest to $135\\%$?", "6", r"6\%", False),
    ("A price of $50 rises by 10 percent. What is it now?", "55", r"55\%", False),
    ("It grew by 20 percent. How many are there?", "10", r"10\%", False),
    ("What is the probability?", r"\frac{1}{10}", r"10\%", True),
    ("", "10", r"10\%", False),
])  # fmt: skip
def test_percent_sign(question: str, gold: str, answer: str, same: bool) -> None:
    assert compare_math(gold, answer, question=question).correct is same


@pytest.mark.parametrize(("kind", "a", "b"), [
    ("number", "1,000", "1000.0"), ("number", "0.5", "1/2"), ("number", "$18", "18.00"), ("option", "(b)", "B"),
    ("yesno", "Yes.", "yes"), ("math", r"\dfrac{1}{2}", "0.5"), ("math", "1,000", "1000"),
    ("math", r"\left(1, 2\right)", "(1,2)"), ("math", r"\text{east}", r"\text{East}"),
])  # fmt: skip
def test_plainly_equal_answers_have_one_key(kind: AnswerKind, a: str, b: str) -> None:
    assert answer_key(a, kind) == answer_key(b, kind)
    assert same_answer(a, b, kind)


def test_equal_keys_are_equal_answers() -> None:
    for gold, _, other in CASES:
        for answer in other:
            assert answer_key(gold, "math") != answer_key(answer, "math"), (gold, answer)
    assert answer_key("x+1", "math") != answer_key("1+x", "math")  # and more than a key makes the same answer
    assert same_answer("x+1", "1+x", "math")
    assert not same_answer("x+1", "1-x", "math")


PROPERTY = settings(max_examples=60, deadline=None)
TEXTS = sorted({text for gold, equal, other in CASES for text in (gold, *equal, *other)})
SPELLINGS: list[Callable[[int, int], str]] = [  # of digits * 10^power
    lambda digits, power: f"{Decimal(digits).scaleb(power):f}",
    lambda digits, power: rf"{digits}\times 10^{{{power}}}",
    lambda digits, power: f"{digits}e{power}",
    lambda digits, power: rf"{digits}\cdot 10^{power}",
    lambda digits, power: rf"{digits}\cdot 10^{{{power}}}",
    lambda digits, power: rf"\frac{{{digits}}}{{10^{{{-power}}}}}",
    lambda digits, power: rf"\sqrt[3]{{{digits**3}\cdot 10^{{{3 * power}}}}}" if digits > 0 else f"{digits}e{power}",
]
NUMBERS = (st.integers(-(10**6), 10**6).filter(bool), st.integers(-40, 40))


@PROPERTY
@given(st.sampled_from(TEXTS), st.sampled_from(TEXTS))
def test_symmetric(a: str, b: str) -> None:
    assert compare_math(a, b, deadline=20).correct is compare_math(b, a, deadline=20).correct


@PROPERTY
@given(*NUMBERS, st.sampled_from(SPELLINGS), st.sampled_from(SPELLINGS))
def test_one_number_in_two_spellings(
    digits: int, power: int, spell: Callable[[int, int], str], other: Callable[[int, int], str]
) -> None:
    assert compare_math(spell(digits, power), other(digits, power), deadline=20).correct


@PROPERTY
@given(*NUMBERS, st.sampled_from(SPELLINGS), st.sampled_from(SPELLINGS), st.integers(2, 10**6), st.sampled_from("+-*0"))
def test_numbers_that_differ_by_more_than_a_billionth_are_never_equal(
    digits: int, power: int, spell: Callable[[int, int], str], other: Callable[[int, int], str], step: int, how: str
) -> None:
    near = digits * 10**9 + (step if how == "+" else -step) * digits  # relative difference step / 10^9
    number, wrong = spell(digits, power), {"*": other(digits * step, power), "0": "0"}.get(how, other(near, power - 9))
    assert not compare_math(number, wrong, deadline=20).correct
    assert not compare_math(rf"\pi({number})", rf"\pi({wrong})", deadline=20).correct
    assert not compare_math(number, other(-digits, power), deadline=20).correct


LETTERS = st.sampled_from("abcdhkmnpqrstvwxyz")


@PROPERTY
@given(LETTERS, LETTERS, st.sampled_from(["{a}{b}", "3{a}^2", "{b}-{a}", r"\frac{{{b}}}{{{a}}}", r"\sqrt{{{a}}}+{b}",
       "y={a}", "({a},{b})", "{a}<2", r"\{{{a},{b}\}}", "2^{a}", r"\sin {a}", "{a}_1", "{a}"]))  # fmt: skip
def test_a_change_of_case_is_another_answer(a: str, b: str, form: str) -> None:
    gold = form.format(a=a, b="7" if a == b else b)
    changed = form.format(a=a.upper(), b="7" if a == b else b)
    assert not compare_math(gold, changed, deadline=20).correct


@PROPERTY
@given(
    st.integers(1, 999),
    st.integers(1, 10**5).filter(lambda n: not 100 <= n <= 999),  # "70 000" is one number
    st.sampled_from([" ", r"\ ", "  ", r"\text{ and }", " hours ", r"\text{ hours }", " out of ", r"\text{ or }", ", ",
                     " : ", r"\text{ }", r"\,", r"\text{ ft }", " ft ", ";", r"\quad ", r"\text{ to }", " cm and "]),
)  # fmt: skip
def test_nothing_is_glued(a: int, b: int, between: str) -> None:
    assert not compare_math(f"{a}{b}", f"{a}{between}{b}", deadline=20).correct
    assert not compare_math(f"{a}{b}", f"{a}{between}{b} minutes", deadline=20).correct
