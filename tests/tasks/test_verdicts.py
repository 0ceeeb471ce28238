"""The verdicts of `verdict_cases`, each of which was found by thought."""

from __future__ import annotations

import pytest
from verdict_cases import CASES

from forkpoint.tasks import extract, grade_response, task_spec
from forkpoint.types import Problem


@pytest.mark.parametrize(("task", "response", "gold", "correct"), CASES)
def test_verdict(task: str, response: str, gold: str, correct: bool) -> None:
    kind = "yesno" if task == "yesno" else task_spec(task).kind
    verdict = grade_response(response, Problem("1", "?", gold, kind))
    assert verdict.correct is correct, verdict
    assert verdict.error is None


def test_a_third_of_the_cases_are_wrong_answers_that_look_right() -> None:
    assert sum(not correct for *_, correct in CASES) >= len(CASES) / 3


CUT_OFF = [  # (kind, text of a response that ended at its length limit, its answer)
    ("number", "1. She has 5 bags.\n2. Each holds 4", None),
    ("number", "The answer is 12", None),  # of 12, 125 and 12.5 nobody knows
    ("number", "The answer is 12. Let me check: 3", "12"),
    ("number", r"So \boxed{12}", "12"),
    ("number", r"So \boxed{12", None),
    ("number", "#### 12\nLet me", "12"),
    ("number", "<think>The answer is 12. But", None),
    ("math", "So $x = 3", None),
    ("math", r"The answer is $\frac{1}{2}$. To see", r"\frac{1}{2}"),
    ("option", "It may be (B), but", None),
    ("option", "The answer is (B). The others", "B"),
    ("yesno", "Yes, I think", None),
]


@pytest.mark.parametrize(("kind", "text", "value"), CUT_OFF)
def test_a_response_that_was_cut_off_has_only_a_stated_answer(kind: str, text: str, value: str | None) -> None:
    found = extract(text, kind, cut_off=True)  # type: ignore[arg-type]
    assert (found and found.value) == value
