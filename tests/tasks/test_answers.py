"""The golden table of equivalence: what is the same answer and what is not."""

from __future__ import annotations

import pytest

from forkpoint.tasks import answer_key, same_answer
from forkpoint.tasks.answers import asks_percentage, compare_math
from forkpoint.types import AnswerKind

SAME = [
    (r"\frac{1}{2}", "0.5"),
    (r"\frac{1}{2}", r"\dfrac12"),
    (r"\frac{1}{2}", "1/2"),
    (r"\frac 59", r"\frac{5}{9}"),
    (r"\frac9{19}", "9/19"),
    (r"1\frac{4}{5}", r"\frac95"),
    (r"137 \frac{1}{2}", "137.5"),
    (".35625", "0.35625"),
    (".0000672", r"6.72 \times 10^{-5}"),
    ("2", "2.0"),
    ("42", "42."),
    ("-50", "−50"),
    ("16", "2^4"),
    ("58,500", "58500"),
    (r"10,\!080", "10080"),
    (r"11,\! 111,\! 111,\! 100", "11{,}111{,}111{,}100"),
    (r"\$32,\!348", "32,348"),
    (r"\$18.90", "18.90 dollars"),
    # degrees and units say nothing more than the question did
    (r"90^\circ", "90"),
    ("90", "90°"),
    (r"\frac{270}7\text{ degrees}", r"\frac{270}{7}^{\circ}"),
    ("5", r"5 \text{ cm}"),
    ("5", "5 cm"),
    (r"864 \mbox{ inches}^2", r"864\text{ in}^2"),
    (r"15\mbox{ cm}^2", "15"),
    (r"5.4 \text{ cents}", "5.4"),
    # names
    ("x=5", "5"),
    ("5", "x = 5"),
    (r"x \in [-2,7]", "[-2,7]"),
    ("y = 2x + 3", "2x+3"),
    ("(15,-29)", "(x,y) = (15,-29)"),
    # several answers, in any order
    ("1,-2", "-2, 1"),
    ("1,-2", r"\{-2,1\}"),
    ("1,-2", "1 and -2"),
    ("1,-2", r"x = 1 \text{ or } x = -2"),
    (r"1 \pm \sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}"),
    (r"\{1\pm\sqrt{5},-2\}", r"-2, 1-\sqrt5, 1+\sqrt{5}"),
    # points, intervals, matrices, bases
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \pi/2)"),
    ("(3,4]", r"\left(3,4\right]"),
    ("(3,4]", r"3 < x \le 4"),
    (r"(2,\infty)", "x > 2"),
    (r"x \in [-2,7]", r"-2 \le x \le 7"),
    (r"(-\infty, 2) \cup (3, \infty)", r"(3,\infty)\cup(-\infty,2)"),
    (r"\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}", r"\begin{bmatrix} -\frac13 \\ \frac{2}{3} \end{bmatrix}"),
    (r"\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}", r"\begin{pmatrix}-1&0\\0&-1\end{pmatrix}"),
    ("52_8", "52_{8}"),
    # words
    (r"\text{Evelyn}", "Evelyn"),
    (r"\text{east}", "East"),
    (r"\text{(C)}", "C"),
    (r"\text{(C)}", r"\text{C}"),
    # algebra
    ("p - q", "-q+p"),
    ("6 - 5i", "-5i+6"),
    ("(a+5)(b+2)", "ab+2a+5b+10"),
    ("5x - 7y + 11z + 4 = 0", "10x-14y+22z+8=0"),
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"),
    (r"11\sqrt2", r"\sqrt{242}"),
    (r"\cot x", r"\frac{\cos x}{\sin x}"),
    (r"18+2\pi", r"2(\pi+9)"),
    (r"\sqrt{53}", "sqrt(53)"),
    (r"12\pi", "12pi"),
    # percent is a factor of 1/100
    ("10%", r"10\%"),
    ("0.1", "10%"),
]

DIFFERENT = [
    ("10", "10%"),
    ("10%", "10"),
    ("5", "6"),
    ("2", "-2"),
    ("5", "five"),
    ("5", ""),
    ("90", "9"),
    ("1000", "1,00"),
    (r"\frac{1}{3}", "0.33"),
    (r"\sqrt{2}", "1.414"),
    (r"\pi", "3.14"),
    (r"\frac{1}{0}", "1"),
    ("0", r"\frac{1}{0}"),
    ("(1,3)", r"\{1,3\}"),
    ("(1,3)", "1,3"),
    ("(1,3)", "[1,3]"),
    ("(1,3)", "(3,1)"),
    ("(3,4]", "[3,4)"),
    (r"(2,\infty)", r"x \ge 2"),
    ("(0,9) \\cup (9,36)", "(0,36)"),
    ("1,-2", "1"),
    ("1", "1,-2"),
    (r"1\pm\sqrt{19}", r"1+\sqrt{19}"),
    (r"\{1,2\}", r"\{1,2,3\}"),
    ("(2,3)", "2"),
    ("52_8", "52"),
    ("52_8", "42"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}"),
    ("x=5", "y=5"),
    ("x", "y"),
    ("3", "x"),
    ("x^2", "2x"),
    ("p-q", "q-p"),
    ("6-5i", "6+5i"),
    ("y=2x+3", "y=2x+4"),
    (r"\text{east}", "seat"),
    ("east", "seat"),
    (r"\text{(C)}", "D"),
]


@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_same(gold: str, answer: str) -> None:
    verdict = compare_math(gold, answer)
    assert verdict.same, verdict


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different(gold: str, answer: str) -> None:
    verdict = compare_math(gold, answer)
    assert not verdict.same
    assert verdict.error is None


PERCENTAGE = "By what percent does the area decrease?"


@pytest.mark.parametrize(
    ("question", "gold", "answer", "same"),
    [
        (PERCENTAGE, "10", r"10\%", True),
        (PERCENTAGE, r"10\%", "10", True),
        (PERCENTAGE, "10", "0.1", False),
        ("A price of $50 rises by 10 percent. What is it now?", "55", r"55\%", False),
        ("What is the probability?", r"\frac{1}{10}", r"10\%", True),
        ("What is the probability?", "10", r"10\%", False),
    ],
)
def test_percent_sign(question: str, gold: str, answer: str, same: bool) -> None:
    assert compare_math(gold, answer, question=question).same is same


@pytest.mark.parametrize(
    ("question", "asks"),
    [
        (PERCENTAGE, True),
        ("Find the rate. Express your answer as a percentage, without the percent sign.", True),
        ("What percentage of 2.5 is 1.5?", True),
        ("The table shows the percent of riders. For which grade is it closest to $135\\%$?", False),
        ("It grew by 20 percent. How many are there?", False),
        ("", False),
    ],
)
def test_which_questions_ask_for_a_percentage(question: str, asks: bool) -> None:
    assert asks_percentage(question) is asks


@pytest.mark.parametrize(
    ("kind", "a", "b"),
    [
        ("number", "1,000", "1000.0"),
        ("number", "0.5", "1/2"),
        ("number", "$18", "18.00"),
        ("option", "(b)", "B"),
        ("yesno", "Yes.", "yes"),
        ("math", r"\dfrac{1}{2}", "0.5"),
        ("math", "1,000", "1000"),
        ("math", r"\left(1, 2\right)", "(1,2)"),
        ("math", r"\text{east}", r"\text{East}"),
    ],
)
def test_plainly_equal_answers_have_one_key(kind: AnswerKind, a: str, b: str) -> None:
    assert answer_key(a, kind) == answer_key(b, kind)
    assert same_answer(a, b, kind)


def test_keys_tell_percent_and_brackets_apart() -> None:
    assert answer_key("10%", "math") != answer_key("10", "math")
    assert answer_key("(1,3)", "math") != answer_key("[1,3]", "math")


def test_equal_keys_of_golden_answers_are_equal_answers() -> None:
    for gold, answer in DIFFERENT:
        assert answer_key(gold, "math") != answer_key(answer, "math")


def test_same_answer_needs_more_than_a_key() -> None:
    assert answer_key("x+1", "math") != answer_key("1+x", "math")
    assert same_answer("x+1", "1+x", "math")
    assert not same_answer("x+1", "1-x", "math")
