"""The verdict on a response: its answer, read and compared with the gold answer.

No response raises; only algebra takes time, at most the deadline. Works from any thread.
"""

from __future__ import annotations

import re

from forkpoint.tasks.answers import DEADLINE, answer_key, compare_math
from forkpoint.tasks.extract import extract
from forkpoint.tasks.numerals import SCALES, parse_number
from forkpoint.tasks.problems import gold_value, task_spec
from forkpoint.types import Grade, Problem, Span, UserError


def grade_response(response: str, problem: Problem, *, cut_off: bool = False, deadline: float = DEADLINE) -> Grade:
    """Whether a response answers the problem correctly; `error` where algebra fails or passes `deadline` seconds.

    One that was `cut_off` at its length limit has an answer only where it was stated before.
    """
    return grade_span(response, extract(response, problem.kind, problem.options, cut_off=cut_off), problem, deadline)


def grade_span(response: str, span: Span | None, problem: Problem, deadline: float = DEADLINE) -> Grade:
    """The verdict on a response whose answer `extract` has read: `span`, None where it has none."""
    if span is None:
        return Grade(False, None, "none")
    gold = gold_value(problem.answer, problem.kind)
    if gold is None:
        return Grade(
            False, span.value, problem.kind, f"the gold answer {problem.answer[:80]!r} is not a {problem.kind}"
        )
    if problem.kind == "math":
        return compare_math(gold, span.value, question=problem.question, deadline=deadline)
    same = answer_key(gold, problem.kind) == answer_key(span.value, problem.kind)
    if problem.kind == "number" and not same:
        same = _in_the_unit_of(problem.question, gold, response[span.start : span.end], span.value)
    return Grade(same, span.value, problem.kind)


def _in_the_unit_of(question: str, gold: str, spelling: str, value: str) -> bool:
    """Whether "4 million" is the gold answer 4 of a question that counts in millions, as some of GSM8K's do."""
    scale = next((word for word in SCALES if word in spelling.lower()), None)
    full = parse_number(value)
    if scale is None or full is None or not re.search(rf"\b{scale}", question, re.IGNORECASE):
        return False
    return bool(full / 10 ** SCALES[scale] == parse_number(gold))


def grade(response: str, gold: str, task: str = "gsm8k") -> Grade:
    """Whether a response gives the gold answer, read and compared as the answers of `task` are.

    `task` is a name of `TASKS`, such as "gsm8k" (a number), "math500" (mathematics) or "aqua" (a letter). The gold
    answer may be bare ("18") or as the data set has it ("... #### 18"). UserError where it is not of the task's kind.
    """
    kind = task_spec(task).kind
    if gold_value(gold, kind) is None:
        article = {"option": "an option", "math": "a mathematical answer"}.get(kind, f"a {kind}")
        raise UserError(f"the gold answer {gold[:80]!r} is not {article}")
    return grade_response(response, Problem(id="", question="", answer=gold, kind=kind))
