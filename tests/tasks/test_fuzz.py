"""Hostile responses: none crashes the grader, none takes longer than the deadline."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor

from forkpoint.tasks import grade_response
from forkpoint.tasks.workers import MAX_WORKERS, POOL
from forkpoint.types import Grade, Problem

COUNT = 2000
DEADLINE = 1.0
SLACK = 6.0
"""Seconds on top for starting a new process on a busy machine, which the deadline does not count."""

SYMBOLS = (
    r"\frac { } ( ) [ ] \{ \} ^ _ \sqrt \left \right . , ; ! % $ $$ & \\ \boxed{ \text{ \pm \cup \infty \int \sum \lim"
    r" \log \sin \binom \begin{pmatrix} \end{pmatrix} \in \circ \cdot \times = < > \le + - * / | 0 1 2 7 99 1,000 x y i"
    r" e \pi"
)
SOUP = SYMBOLS.split()
GARBAGE = ["\x00", "\ud800", "\udfff", "\u202e", "\n", *"𝟜½١\\{}$", "\x1b[31m", *"a7"]
NUMBERS = ["{}", "1/{}", "0.{}", "{}%", r"\frac{{{}}}{{3}}", "1e{}", "{}!"]
BRACKETS = [("(", ")"), ("{", "}"), (r"\sqrt{", "}"), (r"\frac{1}{", "}"), ("x^{", "}"), ("[", "]")]
TOWERS = ["{0}^{{{0}^{{{0}^{{{0}}}}}}}", "({0}!)!", r"\binom{{10^{{6}}}}{{{0}00}}", "{0}^{{10^{{9}}}}+x"]
PLACES = ["{}", r"\boxed{{{}}}", r"\boxed{{{}", "The answer is {}.", "The answer is ${}$.", "#### {}"]
PROBLEMS = [
    Problem("1", "How many?", "42", "number"), Problem("2", "Compute it.", r"\frac{3}{4}", "math"),
    Problem("3", "Which one?", "B", "option", ("1", "2", "3")), Problem("4", "Is it?", "no", "yesno"),
]  # fmt: skip


def _huge_number(rng: random.Random) -> str:
    digits = "".join(rng.choices("0123456789", k=rng.choice([30, 300, 5_000, 1_000_000])))
    return rng.choice(NUMBERS).format(digits)


def _nested(rng: random.Random) -> str:
    depth = rng.choice([5, 25, 100, 3_000, 100_000])
    opening, closing = rng.choice(BRACKETS)
    return opening * depth + "1" + closing * (depth - rng.choice([0, 0, 1]))


def _polynomial(rng: random.Random) -> str:
    terms = (f"{rng.randint(-9, 9)}*{rng.choice('xyz')}^{{{rng.randint(0, 6)}}}" for _ in range(rng.randint(1, 5)))
    return "+".join(terms)


MAKERS = {  # of hostile text, and how often each is drawn
    lambda rng: " ".join(rng.choices(SOUP, k=rng.randint(1, 60))): 10,
    _huge_number: 4,
    _nested: 5,
    lambda rng: "".join(rng.choices(GARBAGE, k=rng.randint(1, 200))): 5,
    lambda rng: rng.choice(TOWERS).format(rng.randint(2, 99)): 0.4,
    _polynomial: 1,
}


def hostile_response(rng: random.Random) -> str:
    """One response: hostile text, bare or where an answer is looked for."""
    content = rng.choices(list(MAKERS), weights=MAKERS.values())[0](rng)
    return rng.choice(PLACES).format(content)


def test_hostile_responses() -> None:
    rng = random.Random(20240229)
    cases = [(hostile_response(rng), rng.choice(PROBLEMS)) for _ in range(COUNT)]
    POOL.compare("x+1", "1+x", 30.0)

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
