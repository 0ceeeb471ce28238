"""Every gold answer of the real benchmarks is right against itself, and wrong when it is changed."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import combinations

import pytest

from forkpoint.tasks import grade_response
from forkpoint.tasks.answers import compare_math
from forkpoint.tasks.latex import clean, rational
from forkpoint.types import Problem

Load = Callable[[str], list[Problem]]

WAYS = {
    "number": ["The answer is {}.", "The answer is {}", "so we get\n#### {}", r"So $x = \boxed{{{}}}$.", "it is ${}$"],
    "math": [
        "The answer is {}.", "The final answer is ${}$. I hope it is correct.", "so we get\n#### {}",
        r"Thus we have \[\boxed{{{}}}\]", "it is ${}$", "**Answer:** {}\n",
    ],
    "option": ["The answer is {}.", "The answer is ({}).", "Answer: {}", "({})", r"\boxed{{\text{{{}}}}}", "#### {}"],
}  # fmt: skip


@pytest.mark.parametrize(("task", "count"), [("gsm8k", 1319), ("math500", 500), ("aqua", 254)])
def test_every_gold_answer_is_right_in_every_way_of_writing_it(task: str, count: int, benchmark_problems: Load) -> None:
    problems = benchmark_problems(task)
    assert len(problems) == count
    for problem in problems:
        for way in WAYS[problem.kind]:
            grade = grade_response(way.format(problem.answer), problem)
            assert grade.correct, (problem.id, way, grade)


MATH_SPELLINGS = [  # as other writers may set the same answer
    lambda gold: gold.replace(r"\frac", r"\dfrac").replace("pmatrix", "bmatrix").replace("^\\circ", "^{\\circ}"),
    lambda gold: re.sub(r"([)\]])", r"\\right\1", re.sub(r"(?<![A-Za-z])([(\[])", r"\\left\1", gold)),
    lambda gold: re.sub(r"(?<![\\{])([+=-])", r" \1 ", re.sub(r",\\! ?", ",", gold)),
    lambda gold: rf"\[ {gold} \]",
    lambda gold: rf"\boxed{{{gold}}}",
    lambda gold: rf"$\displaystyle {gold}$.",
    lambda gold: rf"{{\color{{blue}} {gold}}}",
    lambda gold: rf"= \mathbf{{{gold}}}",
    lambda gold: f"**{gold}**",
    lambda gold: gold.replace(r"\pi", "π").replace(r"\sqrt", "√").replace(r"\infty", "∞").replace(r"\cup", "∪"),
    lambda gold: re.sub(r"\\sqrt\{(\w+)\}", r" sqrt(\1)", gold).replace("^\\circ", "°"),
    lambda gold: gold + (r" \text{ units}" if re.fullmatch(r"[0-9]+|.*\\sqrt\{?[0-9]+\}?|.*\\pi", gold) else " "),
]


@pytest.mark.parametrize("spell", MATH_SPELLINGS)
def test_math_gold_answers_in_other_spellings(spell: Callable[[str], str], benchmark_problems: Load) -> None:
    for gold in {problem.answer for problem in benchmark_problems("math500")}:
        for pair in ((gold, spell(gold)), (spell(gold), gold)):
            assert compare_math(*pair).correct, pair


def test_different_math_gold_answers_are_not_equal(benchmark_problems: Load) -> None:
    """Of a hundred and more answers that are no plain number, any two; the pairs that are equal were read by eye."""
    golds = {clean(problem.answer): problem.answer for problem in benchmark_problems("math500")}
    golds = {text: gold for text, gold in golds.items() if rational(text) is None}
    equal = {(a, b) for a, b in combinations(sorted(golds.values()), 2) if compare_math(a, b).correct}
    assert equal == {("-2,1", "1,-2")}


def test_algebra_agrees_with_the_math_gold_answers(benchmark_problems: Load) -> None:
    """No shortcut by spelling: algebra must cancel a term (in every eighth answer that is an expression)."""
    no_expression = re.compile(r"[=,_\[\]]|text|mbox|matrix|cup|circ|\$|pm|[0-9]\s*\\frac")
    golds = [p.answer for p in benchmark_problems("math500") if not no_expression.search(p.answer)]
    assert len(golds) > 400
    for gold in golds[::8]:
        verdict = compare_math(gold, f"{gold}+z-z")
        assert (verdict.correct, verdict.method) == (True, "math-verify"), (gold, verdict)


def _changed(problem: Problem) -> list[str]:
    """Answers that are wrong, however they are read."""
    gold = problem.answer
    if problem.kind == "number":
        return [str(int(gold) + 1), str(int(gold) * 10), f"{gold}.5", f"-{gold}7"]
    if problem.kind == "option":
        return [letter for letter in "ABCDE"[: len(problem.options)] if letter != gold]
    return [] if "text" in gold or gold == "0" else [rf"\frac{{{gold}}}{{13}}", rf"\sqrt{{7}}+{gold}", "10007", "q"]


@pytest.mark.parametrize(("task", "step"), [("gsm8k", 1), ("aqua", 1), ("math500", 5)])
def test_a_changed_answer_is_wrong(task: str, step: int, benchmark_problems: Load) -> None:
    for problem in benchmark_problems(task)[::step]:
        for answer in _changed(problem):
            response = rf"\boxed{{{answer}}}" if task == "math500" else f"The answer is {answer}."
            grade = grade_response(response, problem)
            assert (grade.correct, grade.error) == (False, None), (problem, answer, grade)
