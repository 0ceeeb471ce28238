"""The exemplars teach no mistake: their arithmetic is right and our own extraction reads their answers."""

from __future__ import annotations

import re

import pytest

from forkpoint.tasks import grade_response
from forkpoint.tasks.exemplars import EXEMPLARS, Exemplar

ALL = [exemplar for exemplars in EXEMPLARS.values() for exemplar in exemplars]
EQUATION = re.compile(r"([0-9]+(?: [-+*/] [0-9]+)+) = ([0-9]+)")


@pytest.mark.parametrize("exemplar", ALL, ids=lambda exemplar: exemplar[0].question[:30])
def test_arithmetic_and_answer(exemplar: Exemplar) -> None:
    problem, solution = exemplar
    equations = EQUATION.findall(solution)
    assert equations
    assert len(equations) == len(re.findall(r"[-+*/] [0-9]+ = [0-9]", solution))
    for left, right in equations:
        assert eval(left) == int(right), (left, right)  # digits and operators only
    grade = grade_response(solution, problem)
    assert grade.correct, grade
    if problem.kind == "number":
        assert equations[-1][1] == problem.answer


def test_counts_and_variety() -> None:
    assert {kind: len(exemplars) for kind, exemplars in EXEMPLARS.items()} == {
        "number": 8,
        "math": 4,
        "option": 4,
        "yesno": 4,
    }
    assert {problem.answer for problem, _ in EXEMPLARS["option"]} == {"A", "B", "C", "D"}
    assert {problem.answer for problem, _ in EXEMPLARS["yesno"]} == {"yes", "no"}
    assert len({problem.question for problem, _ in ALL}) == len(ALL)


def test_the_option_that_is_right_is_the_one_the_solution_computes() -> None:
    for problem, solution in EXEMPLARS["option"]:
        result = EQUATION.findall(solution)[-1][1]
        assert re.match(rf"{result}\b", problem.options["ABCDE".index(problem.answer)])
