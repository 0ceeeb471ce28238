"""Every gold answer of the real benchmarks is right against itself, and wrong when it is changed."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from forkpoint.tasks import grade_response
from forkpoint.tasks.answers import compare_math
from forkpoint.types import Problem

Load = Callable[[str], list[Problem]]

WAYS = {
    "number": [
        "The answer is {}.",
        "The answer is {}",
        "so we get\n#### {}",
        r"Thus $x = \boxed{{{}}}$.",
        "it is ${}$",
    ],
    "math": [
        "The answer is {}.",
        "The final answer is ${}$. I hope it is correct.",
        "so we get\n#### {}",
        r"Thus we have \[\boxed{{{}}}\]",
        "it is ${}$",
        "**Answer:** {}\n",
    ],
    "option": [
        "The answer is {}.",
        "The answer is ({}).",
        "Answer: {}",
        "({})",
        r"\boxed{{\text{{{}}}}}",
        "#### {}",
    ],
}


@pytest.mark.parametrize("task", ["gsm8k", "math500", "aqua"])
def test_every_gold_answer_is_right_in_every_way_of_writing_it(task: str, benchmark_problems: Load) -> None:
    for problem in benchmark_problems(task):
        for way in WAYS[problem.kind]:
            grade = grade_response(way.format(problem.answer), problem)
            assert grade.correct, (problem.id, way, grade)


@pytest.mark.parametrize("spelling", ["{:,}", "${:,}", "{}.00", "{} dollars", "{}%"])
def test_gsm8k_gold_answers_in_other_spellings(spelling: str, benchmark_problems: Load) -> None:
    for problem in benchmark_problems("gsm8k"):
        response = f"The answer is {spelling.format(int(problem.answer))}."
        assert grade_response(response, problem).correct, response


def _respelled(gold: str) -> str:
    """The gold answer as another writer may set it."""
    text = gold.replace(r"\frac", r"\dfrac").replace("pmatrix", "bmatrix")
    text = re.sub(r",\\! ?", ",", text)
    text = re.sub(r"(?<![A-Za-z])([(\[])", r"\\left\1", text)
    text = re.sub(r"([)\]])", r"\\right\1", text)
    return text.replace("^\\circ", "^{\\circ}").replace("+", " + ").replace("=", " = ")


def test_math_gold_answers_in_another_spelling(benchmark_problems: Load) -> None:
    for problem in benchmark_problems("math500"):
        response = rf"so \boxed{{{_respelled(problem.answer)}}}"
        grade = grade_response(response, problem)
        assert grade.correct, (problem.id, problem.answer, response, grade)


def test_algebra_agrees_with_the_math_gold_answers(benchmark_problems: Load) -> None:
    """No shortcut by spelling: algebra must cancel a term (in every eighth answer that is an expression)."""
    no_expression = re.compile(r"[=,_\[\]]|text|mbox|matrix|cup|circ|\$|pm|[0-9]\s*\\frac")
    golds = [p.answer for p in benchmark_problems("math500") if not no_expression.search(p.answer)]
    assert len(golds) > 400
    for gold in golds[::8]:
        verdict = compare_math(gold, f"{gold}+z-z")
        assert verdict.same, (gold, verdict)
        assert verdict.method == "math-verify"


def _changed(problem: Problem) -> list[str]:
    """Answers that are wrong, however they are read."""
    if problem.kind == "number":
        return [
            str(int(problem.answer) + 1),
            str(int(problem.answer) * 10),
            f"{problem.answer}.5",
            f"-{problem.answer}7",
        ]
    if problem.kind == "option":
        return [letter for letter in "ABCDE"[: len(problem.options)] if letter != problem.answer]
    wrong = [rf"\frac{{{problem.answer}}}{{13}}", rf"\sqrt{{7}}+{problem.answer}", "10007", "q"]
    return [] if "text" in problem.answer else wrong


@pytest.mark.parametrize("task", ["gsm8k", "aqua"])
def test_a_changed_answer_is_wrong(task: str, benchmark_problems: Load) -> None:
    for problem in benchmark_problems(task):
        for answer in _changed(problem):
            assert not grade_response(f"The answer is {answer}.", problem).correct, (problem, answer)


def test_a_changed_math_answer_is_wrong(benchmark_problems: Load) -> None:
    for problem in benchmark_problems("math500")[::5]:
        if problem.answer == "0":
            continue
        for answer in _changed(problem):
            grade = grade_response(rf"\boxed{{{answer}}}", problem)
            assert not grade.correct, (problem.id, problem.answer, answer)
            assert grade.error is None, (problem.id, answer, grade)
