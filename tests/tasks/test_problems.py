"""Loading: what each task makes of its rows, and one clear sentence for all that a file can have wrong."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forkpoint.tasks import TASKS, load_problems
from forkpoint.types import Problem, UserError


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_gsm8k_rows(tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", {"question": "How many?", "answer": "<<1+1=2>>\n#### 1,234"})
    assert load_problems("gsm8k", data=data) == [Problem("gsm8k/test/0", "How many?", "1234", "number")]


def test_math500_rows(tmp_path: Path) -> None:
    data = write(
        tmp_path / "a.jsonl",
        {"problem": "Find.", "answer": r"\frac{1}{2}", "unique_id": "test/algebra/1.json"},
    )
    assert load_problems("math500", data=data) == [Problem("test/algebra/1.json", "Find.", r"\frac{1}{2}", "math")]


def test_aqua_rows(tmp_path: Path) -> None:
    row = {"question": "Which?", "options": ["A)5(x + 1)", "B)B)69", "C) 7"], "correct": "B"}
    data = write(tmp_path / "a.jsonl", row)
    assert load_problems("aqua", data=data) == [
        Problem("aqua/test/0", "Which?", "B", "option", ("5(x + 1)", "69", "7"))
    ]


def test_jsonl_columns_and_kinds(tmp_path: Path) -> None:
    data = write(
        tmp_path / "mine.jsonl",
        {"q": "Which?", "a": "three", "c": ["two", "three"]},
        {"q": "?", "a": "A", "c": ["x"]},
    )
    loaded = load_problems(
        "jsonl", data=data, question_column="q", answer_column="a", options_column="c", kind="option"
    )
    assert loaded[0] == Problem("mine/0", "Which?", "B", "option", ("two", "three"))
    assert loaded[1].answer == "A"


OPTION_GOLDS = [  # options, gold, the right letter or the error
    (["10", "20", "30"], 1, "B"),  # MMLU's index
    (["10", "20", "30"], 20, "B"),  # out of range: a text
    (["10", "20", "30"], "20", "B"),
    (["0", "1", "2"], 1, "B"),  # both readings agree
    (["1", "2", "3"], 1, "the text of one option and the index of another"),
    (["10", "20"], 7, "a letter from A to B"),
    (["10", "20"], "1", "a letter from A to B"),
]


@pytest.mark.parametrize(("options", "gold", "expected"), OPTION_GOLDS)
def test_an_options_gold(options: list[str], gold: Any, expected: str, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", {"question": "?", "answer": gold, "options": options})
    if len(expected) == 1:
        (problem,) = load_problems("jsonl", data=data, kind="option", options_column="options")
        assert problem.answer == expected
    else:
        with pytest.raises(UserError, match=expected):
            load_problems("jsonl", data=data, kind="option", options_column="options")


MATH_GOLDS = [  # the column, the gold answer or None where it has to be refused
    (r"\frac{14}{3}", r"\frac{14}{3}"),
    (r"\text{no real solution}", r"\text{no real solution}"),
    ("\\begin{pmatrix} 1 \\\\\n2 \\end{pmatrix}", "\\begin{pmatrix} 1 \\\\\n2 \\end{pmatrix}"),
    (r"We add $1 + 2$ to get $\boxed{3}$.", "3"),
    ("First we double it.\nThe answer is $2x$.", "2x"),
    ("Add them.\n#### 5", "5"),
    ("We square both sides and then collect the terms, which gives us the number 12 in the end.", None),
]


@pytest.mark.parametrize(("column", "gold"), MATH_GOLDS)
def test_a_solution_as_a_math_gold(column: str, gold: str | None, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", {"question": "?", "answer": column})
    if gold is not None:
        assert load_problems("jsonl", data=data, kind="math")[0].answer == gold
    else:
        with pytest.raises(UserError, match="line 1: column 'answer' should be a mathematical answer"):
            load_problems("jsonl", data=data, kind="math")


def test_jsonl_answers_that_are_no_strings(tmp_path: Path) -> None:
    numbers = write(
        tmp_path / "n.jsonl",
        {"question": "?", "answer": 1.5, "id": 7},
        {"question": "?", "answer": "#### 1,000"},
    )
    assert [(p.id, p.answer) for p in load_problems("jsonl", data=numbers)] == [("7", "1.5"), ("n/1", "1000")]
    truths = write(tmp_path / "t.jsonl", {"question": "?", "answer": True}, {"question": "?", "answer": "No"})
    assert [p.answer for p in load_problems("jsonl", data=truths, kind="yesno")] == ["yes", "no"]


def test_limit_takes_the_first(tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", *({"question": f"{i}?", "answer": str(i)} for i in range(5)))
    assert [p.answer for p in load_problems("jsonl", data=data, limit=2)] == ["0", "1"]
    assert len(load_problems("jsonl", data=data, limit=99)) == 5


def test_blank_lines_a_byte_order_mark_and_separators_inside_strings(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    row = json.dumps({"question": "one\u2028two?", "answer": "1"}, ensure_ascii=False)
    file.write_bytes(b"\xef\xbb\xbf" + row.encode() + b"\r\n\n" + row.encode())
    assert [p.question for p in load_problems("jsonl", data=str(file))] == ["one\u2028two?"] * 2


GOOD = '{"question": "?", "answer": "1"}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD * 6 + '{"question": "?"', r"FILE line 7: not valid JSON \(.* at column \d+\)"),
        (GOOD + "[1]\n", "FILE line 2: expected a JSON object, got a list"),
        (GOOD + "null\n", "FILE line 2: expected a JSON object, got null"),
        (
            '{"question": "?", "anwser": "1"}',
            "FILE line 1: no column 'answer', it has 'question', 'anwser'; did you mean 'anwser'",
        ),
        ("{}", "FILE line 1: no column 'question', it has none"),
        ('{"question": 5, "answer": "1"}', "FILE line 1: column 'question' should be a string, got a number"),
        ('{"question": null, "answer": "1"}', "FILE line 1: column 'question' should be a string, got null"),
        ('{"question": " ", "answer": "1"}', "FILE line 1: column 'question' is empty"),
        ('{"question": "?", "answer": ["1"]}', "FILE line 1: column 'answer' should be a string, got a list"),
        ('{"question": "?", "answer": "one"}', "FILE line 1: column 'answer' should be a number, got 'one'"),
        ('{"question": "\\ud800", "answer": "1"}', "FILE line 1: column 'question' holds half a character"),
        (GOOD.replace("}", ', "id": "a"}') * 2, "FILE line 2: the id 'a' is already that of FILE line 1"),
        ("[" * 100_000, "FILE line 1: not valid JSON"),
        ('{"question": "?", "answer": ' + "1" * 5000 + "}", "FILE line 1: not valid JSON"),
        ("", "FILE holds no problems"),
        ("\n\n", "FILE holds no problems"),
    ],
)
def test_bad_files(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(content)
    with pytest.raises(UserError, match="^" + message.replace("FILE", str(file))) as raised:
        load_problems("jsonl", data=str(file))
    assert "\n" not in str(raised.value)


def test_rows_beyond_the_limit_are_not_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(GOOD * 6 + "oops")
    assert len(load_problems("jsonl", data=str(file), limit=6)) == 6
    with pytest.raises(UserError, match="line 7"):
        load_problems("jsonl", data=str(file), limit=7)


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / "latin.jsonl"
    file.write_bytes(GOOD.encode() + b'{"question": "caf\xe9", "answer": "1"}\n')
    with pytest.raises(UserError, match=r"line 2: not UTF-8 \(byte 18 of the line\)"):
        load_problems("jsonl", data=str(file))


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*nothing\.jsonl: there is no such file"):
        load_problems("jsonl", data=str(tmp_path / "nothing.jsonl"))
    with pytest.raises(UserError, match=r"cannot read .* EmptyDatasetError"):
        load_problems("gsm8k", data=str(tmp_path))


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        (
            "gsm8k",
            {"question": "?", "answer": "it is 5"},
            "column 'answer' should end in '#### NUMBER', got 'it is 5'",
        ),
        ("gsm8k", {"problem": "?", "answer": "#### 5"}, "no column 'question', it has 'problem', 'answer'"),
        ("math500", {"question": "?", "answer": "5"}, "no column 'problem'"),
        (
            "aqua",
            {"question": "?", "options": "A)1", "correct": "A"},
            "'options' should be a list of strings, got a string",
        ),
        (
            "aqua",
            {"question": "?", "options": ["A)1", 2], "correct": "A"},
            "item 2 should be a string, got a number",
        ),
        (
            "aqua",
            {"question": "?", "options": ["A)1", "B)2"], "correct": "C"},
            "a letter from A to B, an option",
        ),
    ],
)
def test_rows_of_another_task(task: str, row: Any, message: str, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", row)
    with pytest.raises(UserError, match="a.jsonl line 1: .*" + message):
        load_problems(task, data=data)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("gsm8", {}, "unknown task 'gsm8': did you mean 'gsm8k'"),
        ("zzz", {}, "unknown task 'zzz': the tasks are gsm8k, "),
        ("jsonl", {}, "pass it with --data FILE"),
        ("lab", {"data": "x.jsonl"}, "reads no --data"),
        ("gsm8k", {"limit": 0}, "limit should be at least 1, got 0"),
        ("gsm8k", {"kind": "math"}, "the answers of 'gsm8k' are of kind 'number', not 'math'"),
    ],
)
def test_wrong_usage(task: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_problems(task, **options)


def test_the_lab_is_asked_with_the_split_limit_and_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    lab = types.ModuleType("forkpoint.lab.problem_generator")

    def problems(**arguments: Any) -> list[Problem]:
        asked.append(arguments)
        return [Problem("lab/0", "?", "1", "number")]

    lab.load_problems = problems  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "forkpoint.lab.problem_generator", lab)
    assert load_problems("lab", limit=3, seed=5, split="train")[0].id == "lab/0"
    assert asked == [{"split": "train", "limit": 3, "seed": 5}]


def test_the_hub_is_read_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def load_dataset(path: str, *, name: str | None, split: str, **_: Any) -> list[dict[str, str]]:
        asked.append((path, name, split))
        return [{"question": "?", "answer": "#### 5"}]

    _replace_datasets(monkeypatch, load_dataset)
    assert load_problems("gsm8k", split="train") == [Problem("gsm8k/train/0", "?", "5", "number")]
    assert asked == [("openai/gsm8k", "main", "train")]


def test_an_unreachable_hub_says_to_pass_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route\nto host")

    _replace_datasets(monkeypatch, load_dataset)
    for task, spec in TASKS.items():
        if spec.hub:
            with pytest.raises(
                UserError, match=rf"cannot read {spec.hub[0]}, .*no route to host; pass a local copy with --data FILE$"
            ):
                load_problems(task)


def _replace_datasets(monkeypatch: pytest.MonkeyPatch, load_dataset: Callable[..., Any]) -> None:
    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)


@pytest.mark.parametrize(("task", "count"), [("gsm8k", 1319), ("math500", 500), ("aqua", 254)])
def test_real_files(task: str, count: int, benchmark_problems: Callable[[str], list[Problem]]) -> None:
    problems = benchmark_problems(task)
    assert len(problems) == count
    assert len({problem.id for problem in problems}) == count
    assert {problem.kind for problem in problems} == {TASKS[task].kind}
    assert not any(option[:2] in ("A)", "B)") for problem in problems for option in problem.options)
