"""Loading: what each task makes of its rows, and one clear sentence for all that a file can have wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from forkpoint.tasks import TASKS, load_problems
from forkpoint.types import Problem, UserError


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


MATRIX = "\\begin{pmatrix} 1 \\\\\n2 \\end{pmatrix}"
THREE = {"question": "?", "options": ["10", "20", "30"]}
MATH_GOLD = "line 1: column 'answer' should be a mathematical answer"
SENTENCE = "We square both sides and then collect the terms, which gives us the number 12 in the end."
ROWS = [  # (task, kind, row, the problem or the part of its error)
    ("gsm8k", None, {"question": "How many?", "answer": "<<1+1=2>>\n#### 1,234"},
     Problem("gsm8k/test/0", "How many?", "1234", "number")),
    ("gsm8k", None, {"question": "?", "answer": "it is 5"}, "should end in '#### NUMBER', got 'it is 5'"),
    ("gsm8k", None, {"problem": "?", "answer": "#### 5"}, "no column 'question', it has 'problem', 'answer'"),
    ("math500", None, {"problem": "Find.", "answer": r"\frac{1}{2}", "unique_id": "test/1"},
     Problem("test/1", "Find.", r"\frac{1}{2}", "math")),
    ("math500", None, {"question": "?", "answer": "5"}, "no column 'problem'"),
    ("aqua", None, {"question": "?", "options": ["A)5(x + 1)", "B)B)69", "C) 7"], "correct": "B"},
     Problem("aqua/test/0", "?", "B", "option", ("5(x + 1)", "69", "7"))),
    ("aqua", None, {"question": "?", "options": "A)1", "correct": "A"}, "list of strings, got a string"),
    ("aqua", None, {"question": "?", "options": ["A)1", 2], "correct": "A"}, "item 2 should be a string, got a number"),
    ("aqua", None, {"question": "?", "options": ["A)1", "B)2"], "correct": "C"}, "a letter from A to B, an option"),
    ("jsonl", None, {"question": "?", "answer": 1.5, "id": 7}, Problem("7", "?", "1.5", "number")),
    ("jsonl", None, {"question": "?", "answer": "#### 1,000"}, Problem("a/0", "?", "1000", "number")),
    ("jsonl", "yesno", {"question": "?", "answer": True}, Problem("a/0", "?", "yes", "yesno")),
    ("jsonl", "yesno", {"question": "?", "answer": "No"}, Problem("a/0", "?", "no", "yesno")),
    ("jsonl", "option", THREE | {"answer": 1}, "B"),  # MMLU's index
    ("jsonl", "option", THREE | {"answer": 20}, "B"),  # out of range: a text
    ("jsonl", "option", THREE | {"answer": "20"}, "B"),
    ("jsonl", "option", {"question": "?", "answer": 1, "options": ["0", "1", "2"]}, "B"),  # both readings agree
    ("jsonl", "option", {"question": "?", "answer": 1, "options": ["1", "2", "3"]}, "one option and the index"),
    ("jsonl", "option", THREE | {"answer": 7}, "a letter from A to C"),
    ("jsonl", "option", THREE | {"answer": "1"}, "a letter from A to C"),
    ("jsonl", "math", {"question": "?", "answer": r"\text{none}"}, Problem("a/0", "?", r"\text{none}", "math")),
    ("jsonl", "math", {"question": "?", "answer": MATRIX}, Problem("a/0", "?", MATRIX, "math")),
    ("jsonl", "math", {"question": "?", "answer": r"So $1 + 2$ is $\boxed{3}$."}, Problem("a/0", "?", "3", "math")),
    ("jsonl", "math", {"question": "?", "answer": "Double it.\nThe answer is $2x$"}, Problem("a/0", "?", "2x", "math")),
    ("jsonl", "math", {"question": "?", "answer": "Add them.\n#### 5"}, Problem("a/0", "?", "5", "math")),
    ("jsonl", "math", {"question": "?", "answer": SENTENCE}, MATH_GOLD),
]  # fmt: skip


@pytest.mark.parametrize(("task", "kind", "row", "expected"), ROWS)
def test_a_row_becomes_a_problem(task: str, kind: Any, row: Any, expected: Any, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", row)
    options = {"options_column": "options"} if kind == "option" else {}
    if isinstance(expected, Problem) or len(expected) == 1:
        (problem,) = load_problems(task, data=data, kind=kind, **options)
        assert expected in (problem, problem.answer)
    else:
        with pytest.raises(UserError, match="a.jsonl line 1: .*" + expected.removeprefix("line 1: ")):
            load_problems(task, data=data, kind=kind, **options)


GOOD = '{"question": "?", "answer": "1"}\n'


def test_columns_by_name_and_rows_beyond_the_limit_are_not_looked_at(tmp_path: Path) -> None:
    data = write(tmp_path / "mine.jsonl", {"q": "Which?", "a": "three", "c": ["two", "three"]}, "oops")
    columns = {"question_column": "q", "answer_column": "a", "options_column": "c"}
    problems = load_problems("jsonl", data=data, kind="option", limit=1, **columns)
    assert problems == [Problem("mine/0", "Which?", "B", "option", ("two", "three"))]
    with pytest.raises(UserError, match="line 2"):
        load_problems("jsonl", data=data, kind="option", limit=2, **columns)


def test_blank_lines_a_byte_order_mark_and_separators_inside_strings(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    row = json.dumps({"question": "one\u2028two?", "answer": "1"}, ensure_ascii=False)
    file.write_bytes(b"\xef\xbb\xbf" + row.encode() + b"\r\n\n" + row.encode())
    assert [p.question for p in load_problems("jsonl", data=str(file))] == ["one\u2028two?"] * 2


@pytest.mark.parametrize(("content", "message"), [
    (GOOD * 6 + '{"question": "?"', r"FILE line 7: not valid JSON \(.* at column \d+\)"),
    (GOOD + "[1]\n", "FILE line 2: expected a JSON object, got a list"),
    (GOOD + "null\n", "FILE line 2: expected a JSON object, got null"),
    ('{"question": "?", "anwser": "1"}', "FILE line 1: no column 'answer'.* 'question', 'anwser'.* 'anwser'"),
    ("{}", "FILE line 1: no column 'question', it has none"),
    ('{"question": 5, "answer": "1"}', "FILE line 1: column 'question' should be a string, got a number"),
    ('{"question": " ", "answer": "1"}', "FILE line 1: column 'question' is empty"),
    ('{"question": "?", "answer": ["1"]}', "FILE line 1: column 'answer' should be a string, got a list"),
    ('{"question": "?", "answer": "one"}', "FILE line 1: column 'answer' should be a number, got 'one'"),
    ('{"question": "\\ud800", "answer": "1"}', "FILE line 1: column 'question' holds half a character"),
    (GOOD.replace("}", ', "id": "a"}') * 2, "FILE line 2: the id 'a' is already that of FILE line 1"),
    (GOOD.encode() + b'{"question": "caf\xe9", "answer": "1"}\n', r"FILE line 2: not UTF-8 \(byte 18 of the line\)"),
    ("[" * 100_000, "FILE line 1: not valid JSON"),
    ('{"question": "?", "answer": ' + "1" * 5000 + "}", "FILE line 1: not valid JSON"),
    ("\n\n", "FILE holds no problems"),
])  # fmt: skip
def test_bad_files(content: str | bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match="^" + message.replace("FILE", str(file))) as raised:
        load_problems("jsonl", data=str(file))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("task", "options", "message"), [
    ("gsm8", {}, "'gsm8k'"),
    ("zzz", {}, "gsm8k, math500"),
    ("jsonl", {}, "--data FILE"),
    ("lab", {"data": "x.jsonl"}, "--data"),
    ("gsm8k", {"limit": 0}, "at least 1, got 0"),
    ("gsm8k", {"kind": "math"}, "of kind 'number', not 'math'"),
    ("jsonl", {"data": "nothing.jsonl"}, r"nothing\.jsonl: there is no such file"),
    ("gsm8k", {"data": str(Path(__file__).parent)}, "cannot read .*FoundError"),
])  # fmt: skip
def test_wrong_usage(task: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_problems(task, **options)


def test_the_lab_is_asked_with_the_split_limit_and_seed() -> None:
    train = load_problems("lab", limit=3, seed=5, split="train")
    assert len(train) == 3
    assert train != load_problems("lab", limit=3, seed=6, split="train")
    assert train[0].question != load_problems("lab", limit=3, seed=5)[0].question


def test_the_hub_is_read_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(path: str, *, name: str | None, split: str, **_: Any) -> list[dict[str, str]]:
        assert (path, name, split) == ("openai/gsm8k", "main", "train")
        return [{"question": "?", "answer": "#### 5"}]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert load_problems("gsm8k", split="train") == [Problem("gsm8k/train/0", "?", "5", "number")]


@pytest.mark.parametrize("task", ["gsm8k", "math500", "aqua"])
def test_an_unreachable_hub_says_to_pass_data(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    hub = TASKS[task].hub
    assert hub
    with pytest.raises(UserError, match=f"{hub[0]}, .*no route to host; .*--data FILE$"):
        load_problems(task)
