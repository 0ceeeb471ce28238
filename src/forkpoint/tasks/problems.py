"""The tasks: where their problems come from, the Hub or a local file, and how a row becomes a `Problem`.

`TASKS` is the whole list; a new task is a function that reads one row and an entry there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from forkpoint.jsonl import Row, column, scalar, text, texts
from forkpoint.tasks.answers import answer_key
from forkpoint.tasks.data_sets import Rows, loaded_rows, read_source
from forkpoint.tasks.extract import extract
from forkpoint.tasks.numerals import canonical_number
from forkpoint.types import AnswerKind, Problem, UserError, nearest

RowReader = Callable[[Row, str, str], Problem]
"""(row, id, place) -> Problem; `place` says where the row stands, for errors."""
MOST_WORDS = 8  # of a bare mathematical answer, such as "no real solutions"; a longer text is a worked solution

_SOLUTION = re.compile(
    r"\\f?box(?:ed)?\s?\{|####|\banswers?\b.{0,3}\b(?:is|are)\b|\A(?!.*\\begin\{).*\n", re.IGNORECASE | re.DOTALL
)
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One task: `hub` is the data set's id on the Hub and its configuration, `read` turns one of its rows into a
    Problem, and `max_tokens` is a sensible length for a worked response."""

    summary: str
    kind: AnswerKind
    max_tokens: int
    hub: tuple[str, str | None] | None = None
    read: RowReader | None = None


def _gsm8k(row: Row, problem_id: str, place: str) -> Problem:
    r"""{"question": "How many eggs are left?", "answer": "She has 9 * 2 = <<9*2=18>>18.\n#### 18"}"""
    gold = text(row, "answer", place).rpartition("####")[2]
    number = canonical_number(gold)
    if number is None:
        raise UserError(f"{place}: column 'answer' should end in '#### NUMBER', got {gold.strip()[-60:]!r}")
    return Problem(problem_id, text(row, "question", place), number, "number")


def _math500(row: Row, problem_id: str, place: str) -> Problem:
    r"""{"problem": "Compute $\\dfrac{1}{2}+1$.", "answer": "\\frac{3}{2}", "unique_id": "test/algebra/1.json"}"""
    unique_id = text(row, "unique_id", place) if "unique_id" in row else problem_id
    return Problem(unique_id, text(row, "problem", place), text(row, "answer", place).strip(), "math")


def _aqua(row: Row, problem_id: str, place: str) -> Problem:
    """{"question": "How fast is the train?", "options": ["A)60 km/h", "B)75 km/h"], "correct": "B"}"""
    options = tuple(  # the data also has "A)A)5"
        re.sub(rf"^(?:{chr(ord('A') + i)}\s*\)\s*)+", "", option.strip())
        for i, option in enumerate(texts(row, "options", place))
    )
    letter = option_letter(text(row, "correct", place), options, place)
    return Problem(problem_id, text(row, "question", place), letter, "option", options)


TASKS: dict[str, TaskSpec] = {
    "gsm8k": TaskSpec("grade-school word problems", "number", 320, ("openai/gsm8k", "main"), _gsm8k),
    "math500": TaskSpec("500 competition problems", "math", 1024, ("HuggingFaceH4/MATH-500", None), _math500),
    "aqua": TaskSpec("multiple-choice algebra", "option", 400, ("deepmind/aqua_rat", "raw"), _aqua),
    "lab": TaskSpec("the embedded small world", "number", 160),
    "jsonl": TaskSpec("any JSON Lines file, its columns by name", "number", 512),
}


def load_problems(
    task: str,
    *,
    data: str | None = None,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    question_column: str = "question",
    answer_column: str = "answer",
    options_column: str | None = None,
    kind: AnswerKind | None = None,
) -> list[Problem]:
    """The first `limit` problems of a task, in the data's own order; rows behind them are not looked at.

    `data` is a file, a directory or a data set (`read_source`) in place of the task's own; `jsonl` needs it, and only
    `jsonl` uses the columns and `kind`. `seed` is the lab's. UserError (one sentence, with file and line) for anything
    wrong with the task's name, the file or a row.
    """
    spec = task_spec(task)
    if limit is not None and limit < 1:
        raise UserError(f"limit should be at least 1, got {limit}")
    if task == "lab":
        if data is not None:
            raise UserError("the task 'lab' makes its problems itself and reads no --data; use the task 'jsonl'")
        from forkpoint.lab.problem_generator import load_problems as lab_problems

        return lab_problems(split=split, limit=limit, seed=seed)
    if task == "jsonl":
        if data is None:
            raise UserError("the task 'jsonl' reads a local file: pass it with --data FILE")
        columns = (question_column, answer_column, options_column)
        read: RowReader = partial(_by_columns, columns, kind or spec.kind)
        prefix = Path(data).stem
    else:
        if kind not in (None, spec.kind):
            raise UserError(f"the answers of {task!r} are of kind {spec.kind!r}, not {kind!r}; use the task 'jsonl'")
        assert spec.read
        read, prefix = spec.read, f"{task}/{split}"
    rows = read_source(data, split=split) if data is not None else _hub_rows(spec, split)
    problems: dict[str, tuple[Problem, str]] = {}
    for i, (place, row) in enumerate(islice(rows, limit)):
        problem = read(row, f"{prefix}/{i}", place)
        if problem.id in problems:
            raise UserError(f"{place}: the id {problem.id!r} is already that of {problems[problem.id][1]}")
        problems[problem.id] = problem, place
    if not problems:
        raise UserError(f"{data or task} holds no problems")
    return [problem for problem, _ in problems.values()]


def task_spec(task: str) -> TaskSpec:
    """The entry of TASKS; a UserError that suggests the nearest name for an unknown task."""
    if task in TASKS:
        return TASKS[task]
    hint = nearest(task, TASKS, otherwise=f"the tasks are {', '.join(TASKS)}", cutoff=0.4)
    raise UserError(f"unknown task {task!r}: {hint}")


def _hub_rows(spec: TaskSpec, split: str) -> Rows:
    assert spec.hub
    name, subset = spec.hub
    try:
        return loaded_rows(name, split, subset)
    except UserError as error:
        raise UserError(f"{error}; pass a local copy with --data FILE") from None


def _by_columns(
    columns: tuple[str, str, str | None], kind: AnswerKind, row: Row, problem_id: str, place: str
) -> Problem:
    """The problem of a row with these columns, and an "id" column where there is one."""
    question, answer, options = columns
    choices = tuple(texts(row, options, place)) if options else ()
    problem_id = scalar(row, "id", place) if "id" in row else problem_id
    asked = text(row, question, place)
    if kind == "option":
        gold = option_letter(column(row, answer, place), choices, place)
    else:
        gold = _gold(scalar(row, answer, place).strip(), kind, answer, place)
    return Problem(problem_id, asked, gold, kind, choices)


def _gold(gold: str, kind: AnswerKind, answer_column: str, place: str) -> str:
    """The gold answer of a row in short form; a UserError where it is not of the kind that the task says."""
    if kind == "yesno":
        short = gold.lower() if gold.lower() in ("yes", "no") else None
    else:
        short = canonical_number(gold.rpartition("####")[2]) if kind == "number" else gold_value(gold, kind)
    if short is None:
        what = {
            "number": "a number",
            "yesno": "yes or no",
            "math": "a mathematical answer, or a solution that states its answer in a box or by 'the answer is'",
        }[kind]
        hint = " (other answers need another kind: math, option, yesno)" if kind == "number" else ""
        raise UserError(f"{place}: column {answer_column!r} should be {what}, got {gold[:60]!r}{hint}")
    return short


def gold_value(answer: str, kind: AnswerKind) -> str | None:
    """The gold answer, or the one that a worked solution states, in short form; None for one of another kind."""
    if kind == "number" and canonical_number(answer) is not None:
        return canonical_number(answer)
    if kind == "math" and not _SOLUTION.search(answer) and len(_WORD.findall(answer)) <= MOST_WORDS:
        return answer.strip() or None
    key = answer_key(answer, kind)
    if (kind == "option" and len(key) == 1 and key.isalpha()) or (kind == "yesno" and key in ("yes", "no")):
        return key
    # A text's last number is no gold answer: it has to be stated, and the end of the text ends the statement.
    span = extract(answer + "\n", kind, cut_off=True)
    return span.value if span else None


def option_letter(gold: Any, options: tuple[str, ...], place: str) -> str:
    """The gold option's letter, from the letter, the option's text, or its index from 0 (as MMLU has it)."""
    last = chr(ord("A") + (len(options) or 26) - 1)
    shown = str(gold).strip()
    letter = shown.strip("().").upper()
    if len(letter) == 1 and "A" <= letter <= last:
        return letter
    meant = {options.index(shown)} if options.count(shown) == 1 else set[int]()
    if isinstance(gold, int) and not isinstance(gold, bool) and 0 <= gold < len(options):
        meant.add(gold)
    if len(meant) > 1:
        raise UserError(f"{place}: {gold} is the text of one option and the index of another; give the letter")
    if not meant:
        wanted = f"a letter from A to {last}, an option's text or its index from 0"
        raise UserError(f"{place}: the right option should be {wanted}, got {shown[:60]!r}")
    return chr(ord("A") + meant.pop())
