"""The two causes of the lab's errors: slips, which are chance, and misreadings, which are tied to a wording.

A slip is a result that is off by a little, whatever the step; it is rare, so the greedy response has none. A misreading
writes another step than the wording asks for. It is a habit of that wording: where it is more frequent than the right
reading, the greedy response is wrong and surer of it than of a right one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from forkpoint.lab.problem_generator import (
    MORE_THAN,
    TIMES_AS_MANY,
    LabProblem,
    Step,
    find_problem,
    value_of,
    work_out,
)

SLIPS = (-10, -2, -1, 1, 2, 10)
SLIP_PROBABILITY = 0.08  # of each step


@dataclass(frozen=True, slots=True)
class Misreading:
    """How often a wording is misread, the operation of the step that is concerned, and what that step becomes."""

    probability: float
    op: str
    instead: Callable[[Step], Step]


def _add(step: Step) -> Step:
    """12, and 3 times as many: 12 + 3."""
    return replace(step, op="+")


def _count_once(step: Step) -> Step:
    """4 boxes with 8 each: 1 * 8."""
    return replace(step, left=1)


def _difference(step: Step) -> Step:
    """12, and 5 more than that: 12 - 5; the smaller number from the larger."""
    smaller, larger = sorted((step.left, step.right))  # type: ignore[type-var]  # an opening's step has plain numbers
    return replace(step, left=larger, op="-", right=smaller)


MISREADINGS = {
    TIMES_AS_MANY: Misreading(0.7, "*", _add),
    MORE_THAN: Misreading(0.42, "+", _difference),
    "boxes": Misreading(0.6, "*", _count_once),
    "bags": Misreading(0.4, "*", _count_once),
    "triples": Misreading(0.35, "*", _add),
}
SLIP, NO_STEPS, OTHER = "slip", "no steps", "other"

EQUATION = re.compile(r"(-?\d+) ([-+*]) (-?\d+) = (-?\d+)\.")


@dataclass(frozen=True, slots=True)
class Errors:
    """A way to work a problem out: its steps as somebody reads them, and the slip of each, mostly zero."""

    steps: tuple[Step, ...]
    slips: tuple[int, ...]


def misread(step: Step) -> Step | None:
    """The step that is written where its wording is misread; None where it never is."""
    misreading = MISREADINGS.get(step.wording)
    return misreading.instead(step) if misreading and step.op == misreading.op else None


def draw_errors(rng: random.Random, problem: LabProblem) -> Errors:
    """Misreadings and slips by their probabilities; drawn again where a written result would fall below zero."""
    while True:
        steps = tuple(_draw_reading(rng, step) for step in problem.steps)
        slips = tuple(rng.choice(SLIPS) if rng.random() < SLIP_PROBABILITY else 0 for _ in problem.steps)
        errors = Errors(steps, slips)
        if all(w.result >= 0 for w in work_out(errors.steps, errors.slips)):
            return errors


def _draw_reading(rng: random.Random, step: Step) -> Step:
    other = misread(step)
    return other if other and rng.random() < MISREADINGS[step.wording].probability else step


def cause_of_error(problem_id: str, response: str) -> str:
    """Why a wrong response to a problem of the lab is wrong: the cause of its `first_error`."""
    return first_error(problem_id, response)[0]


def first_error(problem_id: str, response: str) -> tuple[str, int | None]:
    """The cause of a wrong response's first error, and the index of the equation that it is in, None where in none.

    Steps are what the lab's texts write, "12 + 3 = 15.". The cause is the wording that is misread, SLIP for a wrong
    result, NO_STEPS where there is none, or OTHER: a number copied wrongly, a step left out or added, another answer
    than the last result.
    """
    results: list[int] = []
    written = EQUATION.findall(response)
    for i, (step, (left, op, right, result)) in enumerate(zip(find_problem(problem_id).steps, written, strict=False)):
        as_written = int(left), op, int(right)
        if as_written != _operands(step, results):
            other = misread(step)
            return (step.wording if other and as_written == _operands(other, results) else OTHER), i
        if int(result) != work_out((replace(step, left=int(left), right=int(right)),))[0].result:
            return SLIP, i
        results.append(int(result))
    return (OTHER if written else NO_STEPS), None


def _operands(step: Step, results: list[int]) -> tuple[int, str, int]:
    return value_of(step.left, results), step.op, value_of(step.right, results)
