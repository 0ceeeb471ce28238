"""The tasks: where their problems come from and how a row of their data becomes a `Problem`.

`TASKS` is the whole list; a new task is a function that reads one row and an entry there. Data comes from the
Hugging Face Hub, or from a local JSON Lines file in the same columns. Imports no data library until the Hub
is asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from forkpoint.jsonl import Row, column, scalar, text, texts
from forkpoint.tasks.data_sets import Rows, loaded_rows, read_source
from forkpoint.tasks.golds import gold_value, option_letter
from forkpoint.tasks.numerals import canonical_number
from forkpoint.types import AnswerKind, Problem, UserError

RowReader = Callable[[Row, str, str], Problem]
"""(row, id, place) -> Problem; `place` says where the row stands, for errors."""


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One task.

    `hub` is the data set's id on the Hub and its configuration, `read` turns one of its rows into a Problem,
    and `max_tokens` is a sensible length for a worked response.
    """

    summary: str
    kind: AnswerKind
    max_tokens: int
    hub: tuple[str, str | None] | None = None
    read: RowReader | None = None


def _gsm8k(row: Row, problem_id: str, place: str) -> Problem:
    gold = text(row, "answer", place).rpartition("####")[2]
    number = canonical_number(gold)
    if number is None:
        raise UserError(f"{place}: column 'answer' should end in '#### NUMBER', got {gold.strip()[-60:]!r}")
    return Problem(problem_id, text(row, "question", place), number, "number")


def _math500(row: Row, problem_id: str, place: str) -> Problem:
    unique_id = text(row, "unique_id", place) if "unique_id" in row else problem_id
    return Problem(unique_id, text(row, "problem", place), text(row, "answer", place).strip(), "math")


def _aqua(row: Row, problem_id: str, place: str) -> Problem:
    options = []
    for i, option in enumerate(texts(row, "options", place)):
        letter = chr(ord("A") + i)
        options.append(re.sub(rf"^(?:{letter}\s*\)\s*)+", "", option.strip()))  # "A)5", and in the data also "A)A)5"
    letter = option_letter(text(row, "correct", place), tuple(options), place)
    return Problem(problem_id, text(row, "question", place), letter, "option", tuple(options))


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
    """The first `limit` problems of a task, in the data's own order.

    `data` is a file, a directory or a data set (`read_source`) to read in place of the task's own; `jsonl` needs it,
    and only `jsonl` uses the columns and `kind`. `seed` is the lab's. Rows behind the limit are not looked at. Raises
    UserError (one sentence, with file and line) for anything wrong with the task's name, the file or a row.
    """
    spec = task_spec(task)
    if limit is not None and limit < 1:
        raise UserError(f"limit should be at least 1, got {limit}")
    if task == "lab":
        return _lab(data, split, limit, seed)
    if task == "jsonl":
        if data is None:
            raise UserError("the task 'jsonl' reads a local file: pass it with --data FILE")
        reader = _jsonl_reader(question_column, answer_column, options_column, kind or spec.kind)
        problems = _read_all(read_source(data, split=split), reader, Path(data).stem, limit)
    else:
        if kind not in (None, spec.kind):
            raise UserError(f"the answers of {task!r} are of kind {spec.kind!r}, not {kind!r}; use the task 'jsonl'")
        assert spec.hub is not None
        assert spec.read is not None
        rows = _hub_rows(*spec.hub, split) if data is None else read_source(data, split=split)
        problems = _read_all(rows, spec.read, f"{task}/{split}", limit)
    if not problems:
        raise UserError(f"{data or task} holds no problems")
    return problems


def task_spec(task: str) -> TaskSpec:
    """The entry of TASKS; a UserError that suggests the nearest name for an unknown task."""
    if task in TASKS:
        return TASKS[task]
    near = get_close_matches(task, TASKS, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"the tasks are {', '.join(TASKS)}"
    raise UserError(f"unknown task {task!r}: {hint}")


def _read_all(rows: Rows, read: RowReader, prefix: str, limit: int | None) -> list[Problem]:
    problems: list[Problem] = []
    places: dict[str, str] = {}
    for i, (place, row) in enumerate(islice(rows, limit)):
        problem = read(row, f"{prefix}/{i}", place)
        if problem.id in places:
            raise UserError(f"{place}: the id {problem.id!r} is already that of {places[problem.id]}")
        places[problem.id] = place
        problems.append(problem)
    return problems


def _jsonl_reader(question: str, answer: str, options: str | None, kind: AnswerKind) -> RowReader:
    """A reader of rows with these columns, and an "id" column where there is one."""

    def read(row: Row, problem_id: str, place: str) -> Problem:
        choices = tuple(texts(row, options, place)) if options else ()
        if "id" in row:
            problem_id = scalar(row, "id", place)
        asked = text(row, question, place)
        gold = column(row, answer, place) if kind == "option" else scalar(row, answer, place)
        short = option_letter(gold, choices, place) if kind == "option" else _gold(gold.strip(), kind, answer, place)
        return Problem(problem_id, asked, short, kind, choices)

    return read


def _gold(gold: str, kind: AnswerKind, answer_column: str, place: str) -> str:
    """The gold answer of a row in short form; a UserError where it is not of the kind that the task says."""
    if kind == "yesno":
        short = gold.lower() if gold.lower() in ("yes", "no") else None
    elif kind == "number":
        short = canonical_number(gold.rpartition("####")[2])
    else:
        short = gold_value(gold, kind)
    if short is None:
        what = {
            "number": "a number",
            "yesno": "yes or no",
            "math": "a mathematical answer, or a solution that states its answer in a box or by 'the answer is'",
        }[kind]
        hint = " (other answers need another kind: math, option, yesno)" if kind == "number" else ""
        raise UserError(f"{place}: column {answer_column!r} should be {what}, got {gold[:60]!r}{hint}")
    return short


def _lab(data: str | None, split: str, limit: int | None, seed: int) -> list[Problem]:
    if data is not None:
        raise UserError("the task 'lab' makes its own problems and reads no --data; for a file use the task 'jsonl'")
    from forkpoint.lab.problem_generator import load_problems as lab_problems

    problems: list[Problem] = lab_problems(split=split, limit=limit, seed=seed)
    if not problems:
        raise UserError("lab holds no problems")
    return problems


def _hub_rows(name: str, subset: str | None, split: str) -> Rows:
    try:
        return loaded_rows(name, name, split, subset, None)
    except UserError as error:
        raise UserError(f"{error}; pass a local copy with --data FILE") from None
