"""Hostile responses: none crashes the grader, none takes longer than the deadline."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor

from forkpoint.tasks import grade_response
from forkpoint.tasks.workers import MAX_WORKERS, compare
from forkpoint.types import AnswerKind, Grade, Problem

COUNT = 2000
DEADLINE = 1.0
SLACK = 6.0
"""Seconds on top for starting a new process on a busy machine, which the deadline does not count."""

SOUP = [
    r"\frac",
    r"{",
    r"}",
    r"(",
    r")",
    r"[",
    r"]",
    r"\{",
    r"\}",
    r"^",
    r"_",
    r"\sqrt",
    r"\left",
    r"\right",
    r".",
    r",",
    r";",
    r"!",
    r"%",
    r"$",
    r"$$",
    r"&",
    r"\\",
    r"\boxed{",
    r"\text{",
    r"\pm",
    r"\cup",
    r"\infty",
    r"\int",
    r"\sum",
    r"\lim",
    r"\log",
    r"\sin",
    r"\binom",
    r"\begin{pmatrix}",
    r"\end{pmatrix}",
    r"\in",
    r"\circ",
    r"\cdot",
    r"\times",
    r"=",
    r"<",
    r">",
    r"\le",
    r"+",
    r"-",
    r"*",
    r"/",
    r"|",
    r"0",
    r"1",
    r"2",
    r"7",
    r"99",
    r"1,000",
    r"x",
    r"y",
    r"i",
    r"e",
    r"\pi",
]
PROBLEMS: dict[AnswerKind, Problem] = {
    "number": Problem("1", "How many?", "42", "number"),
    "math": Problem("2", "Compute it.", r"\frac{3}{4}", "math"),
    "option": Problem("3", "Which one?", "B", "option", ("1", "2", "3")),
    "yesno": Problem("4", "Is it?", "no", "yesno"),
}


def _soup(rng: random.Random) -> str:
    return " ".join(rng.choices(SOUP, k=rng.randint(1, 60)))


def _huge_number(rng: random.Random) -> str:
    digits = "".join(rng.choices("0123456789", k=rng.choice([30, 300, 5_000, 1_000_000])))
    return rng.choice(["{}", "1/{}", "0.{}", "{}%", r"\frac{{{}}}{{3}}", "1e{}", "{}!"]).format(digits)


def _nested(rng: random.Random) -> str:
    depth = rng.choice([5, 25, 100, 3_000, 100_000])
    opening, closing = rng.choice(
        [("(", ")"), ("{", "}"), (r"\sqrt{", "}"), (r"\frac{1}{", "}"), ("x^{", "}"), ("[", "]")]
    )
    return opening * depth + "1" + closing * (depth - rng.choice([0, 0, 1]))


def _garbage(rng: random.Random) -> str:
    alphabet = [
        "\x00",
        "\ud800",
        "\udfff",
        "\u202e",
        "\n",
        "𝟜",
        "½",
        "١",
        "\\",
        "{",
        "}",
        "$",
        "\x1b[31m",
        "a",
        "7",
    ]
    return "".join(rng.choices(alphabet, k=rng.randint(1, 200)))


def _tower(rng: random.Random) -> str:
    base = rng.randint(2, 99)
    return rng.choice(
        ["{0}^{{{0}^{{{0}^{{{0}}}}}}}", "({0}!)!", r"\binom{{10^{{6}}}}{{{0}00}}", "{0}^{{10^{{9}}}}+x"]
    ).format(base)


def _algebra(rng: random.Random) -> str:
    terms = [f"{rng.randint(-9, 9)}*{rng.choice('xyz')}^{{{rng.randint(0, 6)}}}" for _ in range(rng.randint(1, 5))]
    return "+".join(terms)


def hostile_response(rng: random.Random) -> str:
    """One response: hostile text, bare or where an answer is looked for."""
    makers = [_soup, _huge_number, _nested, _garbage, _tower, _algebra]
    content = rng.choices(makers, weights=[10, 4, 5, 5, 0.4, 1])[0](rng)
    return rng.choice(
        ["{}", r"\boxed{{{}}}", r"\boxed{{{}", "The answer is {}.", "The answer is ${}$.", "#### {}"]
    ).format(content)


def test_hostile_responses() -> None:
    rng = random.Random(20240229)
    cases = [(hostile_response(rng), rng.choice(list(PROBLEMS.values()))) for _ in range(COUNT)]
    compare("x+1", "1+x", 30.0)

    def timed(case: tuple[str, Problem]) -> tuple[float, Grade]:
        started = time.perf_counter()
        grade = grade_response(*case, deadline=DEADLINE)
        return time.perf_counter() - started, grade

    with ThreadPoolExecutor(MAX_WORKERS) as threads:
        results = list(threads.map(timed, cases))
    for (seconds, grade), (response, problem) in zip(results, cases, strict=True):
        assert seconds < DEADLINE + SLACK, (seconds, problem.kind, response[:200])
        assert grade.error is None or not grade.correct
    assert sum(grade.error is not None for _, grade in results) < COUNT / 10
