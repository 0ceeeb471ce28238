"""Verdicts on whole responses."""

from __future__ import annotations

import subprocess
import sys

import pytest

import forkpoint
from forkpoint.tasks import grade, grade_response
from forkpoint.types import Grade, Problem, UserError

TRAPS = [  # (task, response, gold, correct)
    ("gsm8k", "The answer is 18", "18", True),  # nothing follows the number
    ("gsm8k", "The answer is 18.", "18", True),
    ("gsm8k", "#### 1,000", "1000", True),
    ("gsm8k", "She makes $18.00 every day.", "18", True),
    ("gsm8k", "The answer is 18.5", "18", False),
    ("gsm8k", "The answer is -3.", "3", False),
    ("gsm8k", "The answer is 18.", "It is 9*2=18.\n#### 18", True),  # the gold answer as the data set has it
    ("math500", r"\boxed{\frac{14}{3}}", r"\frac{14}{3}", True),
    ("math500", r"\boxed{3} but in the end \boxed{4}", "4", True),
    ("math500", r"\boxed{4} but in the end \boxed{3}", "4", False),
    ("math500", r"\boxed{3} and \boxed{4}", "3,4", False),  # several boxes are no set
    ("math500", r"\boxed{4}, I mean \boxed{\frac{4}{", "4", False),  # cut off: no answer
    ("math500", r"\boxed{10\%}", "10", False),
    ("math500", r"\boxed{\{1,3\}}", "(1,3)", False),
    ("math500", r"\boxed{(1,3)}", "(1,3)", True),
    ("math500", r"\boxed{x=5}", "5", True),
    ("aqua", "A car needs 3 hours, so (B).", "B", True),
    ("aqua", "A car needs 3 hours.", "A", False),
    ("aqua", "The answer is (a).", "A", True),
]


@pytest.mark.parametrize(("task", "response", "gold", "correct"), TRAPS)
def test_traps(task: str, response: str, gold: str, correct: bool) -> None:
    verdict = grade(response, gold, task)
    assert verdict.correct is correct
    assert verdict.error is None


def test_the_parts_of_a_verdict() -> None:
    assert grade("It is 1,000.", "1000") == Grade(True, "1000", "number")
    assert grade("no idea", "1000") == Grade(False, None, "none")
    assert grade(r"\boxed{x+1}", "1+x", "math500") == Grade(True, "x+1", "math-verify")
    assert grade(r"\boxed{\text{East}}", r"\text{east}", "math500").method == "string"
    assert grade("(C)", "C", "aqua") == Grade(True, "C", "option")
    yes = Problem("1", "Is it?", "yes", "yesno")
    assert grade_response("Well, yes.", yes) == Grade(True, "yes", "yesno")


def test_the_question_decides_about_the_percent_sign() -> None:
    asked = Problem("1", "What percentage is it?", "10", "math")
    assert grade_response(r"\boxed{10\%}", asked).correct
    assert not grade_response(r"\boxed{10\%}", Problem("2", "How many are there?", "10", "math")).correct


def test_an_options_text_is_graded() -> None:
    problem = Problem("1", "How long?", "B", "option", ("12 minutes", "24 minutes"))
    assert grade_response("The answer is 24 minutes.", problem).correct
    assert not grade_response("The answer is 12 minutes.", problem).correct


def test_a_question_in_millions_is_answered_in_millions() -> None:
    asked = Problem("1", "How much is left, in millions of dollars?", "4", "number")
    assert grade_response("32 - 28 = $4 million", asked).correct
    assert grade_response("There is 4 left.", asked).correct
    assert not grade_response("There is $5 million left.", asked).correct
    assert not grade_response("$4 million", Problem("2", "How many cars?", "4", "number")).correct


def test_public_name() -> None:
    assert forkpoint.grade is grade


def test_unknown_task_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown task 'gsm9k': did you mean 'gsm8k'"):
        grade("1", "1", "gsm9k")


@pytest.mark.parametrize(("gold", "task"), [("none", "gsm8k"), ("", "math500"), ("Z9", "aqua")])
def test_a_gold_answer_of_another_kind(gold: str, task: str) -> None:
    with pytest.raises(UserError, match="the gold answer"):
        grade("The answer is 1", gold, task)


def test_a_bad_gold_answer_in_a_problem_is_reported_not_raised() -> None:
    verdict = grade_response("It is 1", Problem("1", "?", "one", "number"))
    assert not verdict.correct
    assert verdict.error is not None


def test_importing_the_room_imports_no_heavy_library() -> None:
    code = (
        "import sys, forkpoint.tasks; "
        "print(sorted({'torch', 'transformers', 'datasets', 'sympy', 'math_verify'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
