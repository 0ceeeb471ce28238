"""Verdicts on whole responses."""

from __future__ import annotations

import subprocess
import sys

import pytest
from verdict_cases import CASES

from forkpoint.tasks import extract, grade, grade_response, task_spec
from forkpoint.types import Grade, Problem, UserError


@pytest.mark.parametrize(("task", "response", "gold", "correct"), CASES)
def test_verdict(task: str, response: str, gold: str, correct: bool) -> None:
    kind = "yesno" if task == "yesno" else task_spec(task).kind
    verdict = grade_response(response, Problem("1", "?", gold, kind))
    assert (verdict.correct, verdict.error) == (correct, None), verdict


MILLIONS = Problem("1", "How much is left, in millions of dollars?", "4", "number")
TIME = Problem("1", "How long?", "B", "option", ("12 minutes", "24 minutes"))


@pytest.mark.parametrize(("response", "problem", "correct"), [
    (r"\boxed{10\%}", Problem("1", "What percentage is it?", "10", "math"), True),
    (r"\boxed{10\%}", Problem("2", "How many are there?", "10", "math"), False),
    ("The answer is 24 minutes.", TIME, True), ("The answer is 12 minutes.", TIME, False),
    ("32 - 28 = $4 million", MILLIONS, True), ("There is 4 left.", MILLIONS, True),
    ("There is $5 million left.", MILLIONS, False),
    ("$4 million", Problem("2", "How many cars?", "4", "number"), False),
])  # fmt: skip
def test_the_question_and_the_options_decide(response: str, problem: Problem, correct: bool) -> None:
    assert grade_response(response, problem).correct is correct


def test_the_parts_of_a_verdict() -> None:
    assert grade("It is 1,000.", "1000") == Grade(True, "1000", "number")
    assert grade("no idea", "1000") == Grade(False, None, "none")
    assert grade(r"\boxed{x+1}", "1+x", "math500") == Grade(True, "x+1", "math-verify")
    assert grade(r"\boxed{\text{East}}", r"\text{east}", "math500").method == "string"
    assert grade("(C)", "C", "aqua") == Grade(True, "C", "option")
    assert grade_response("Well, yes.", Problem("1", "Is it?", "yes", "yesno")) == Grade(True, "yes", "yesno")
    verdict = grade_response("It is 1", Problem("1", "?", "one", "number"))  # a bad gold answer
    assert not verdict.correct
    assert verdict.error is not None


@pytest.mark.parametrize(("gold", "task"), [("none", "gsm8k"), ("", "math500"), ("Z9", "aqua"), ("1", "gsm9k")])
def test_a_gold_answer_of_another_kind_and_an_unknown_task(gold: str, task: str) -> None:
    with pytest.raises(UserError, match="'gsm8k'" if task == "gsm9k" else "the gold answer"):
        grade("The answer is 1", gold, task)


CUT_OFF = [  # (kind, text of a response that ended at its length limit, its answer)
    ("number", "1. She has 5 bags.\n2. Each holds 4", None),
    ("number", "The answer is 12", None),  # of 12, 125 and 12.5 nobody knows
    ("number", "The answer is 12. Let me check: 3", "12"), ("number", r"So \boxed{12}", "12"),
    ("number", r"So \boxed{12", None), ("number", "#### 12\nLet me", "12"),
    ("number", "<think>The answer is 12. But", None), ("math", "So $x = 3", None),
    ("math", r"The answer is $\frac{1}{2}$. To see", r"\frac{1}{2}"), ("option", "It may be (B), but", None),
    ("option", "The answer is (B). The others", "B"), ("yesno", "Yes, I think", None),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text", "value"), CUT_OFF)
def test_a_response_that_was_cut_off_has_only_a_stated_answer(kind: str, text: str, value: str | None) -> None:
    span = extract(text, kind, cut_off=True)  # type: ignore[arg-type]
    assert (span and span.value) == value


def test_importing_the_room_imports_no_heavy_library() -> None:
    heavy = "{'torch', 'transformers', 'datasets', 'sympy', 'math_verify'}"
    code = f"import sys, forkpoint.tasks; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
