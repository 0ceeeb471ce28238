"""What `critical` is given: trajectories from many files, bad input in one sentence, nothing to label; and --export."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
from lab_runs import Row, labelled, rows_of

from forkpoint.cli import main
from forkpoint.curves.critical_tokens import CriticalConfig, find_critical
from forkpoint.curves.label_dataset import COLUMNS
from forkpoint.lab.problem_generator import load_problems
from forkpoint.types import Sampling, UserError

FEW = ["--limit", "3", "--seed", "2", "--budget", "16"]
MINIMAL = ("problem_id", "prompt_ids", "token_ids")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, list[Row]]:
    """A run over all of six responses, right and wrong."""
    out = tmp_path_factory.mktemp("run") / "out"
    rows = labelled(out, *FEW, "--n", "2", "--which", "all")
    assert {row["correct"] for row in rows} == {True, False}
    return out, rows


def file_of(path: Path, *rows: Row | str) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def minimal(row: Row, **changes: object) -> Row:
    return {key: row[key] for key in MINIMAL} | changes


def refused(capsys, *argv: str) -> str:
    """The one sentence with which a command is refused."""
    capsys.readouterr()
    assert main(["critical", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1
    return captured.err


@pytest.mark.parametrize("name", ["critical.jsonl", "samples.jsonl", "."])
def test_files_of_a_run_give_the_same_labels(run, tmp_path, name):
    """Also to fewer of them: the wrong ones, from a directory, and with other --n and --prompt, which say nothing."""
    out, rows = run
    options = ["--which", "all"] if name != "." else ["--n", "7", "--prompt", "plain"]
    wanted = [row for row in rows if name != "." or not row["correct"]]
    for n in ("7", "8"):
        command = [*FEW, *options, "--n", n, "--trajectories", str(out / name)]
        assert labelled(tmp_path / "out", *command) == wanted
    assert not (tmp_path / "out/samples.jsonl").exists()


def test_the_least_that_can_be_given(capsys, run, tmp_path):
    """Problem, prompt and tokens; the id is the problem's, which seeds other rollouts."""
    row = next(row for row in run[1] if not row["correct"])
    file = file_of(tmp_path / "rows.jsonl", minimal(row), minimal(run[1][0], problem_id="of another task"))
    (found,) = labelled(tmp_path / "out", *FEW, "--trajectories", str(file))
    assert found["id"] == found["problem_id"] == row["problem_id"]
    for key in ("prompt_ids", "token_ids", "tokens", "answer", "gold", "correct", "finish_reason", "policy_prob"):
        assert found[key] == row[key]
    assert found["alternatives"] != row["alternatives"]
    file_of(file, minimal(row, token_ids=row["token_ids"][:-1]))
    again = refused(capsys, *FEW, "--trajectories", str(file), "--out", str(tmp_path / "out"))
    assert "another configuration: trajectories was '1 (contents" in again


def test_the_paths_of_an_eval_run(tmp_path):
    strategies = ["--strategy", "sample:temperature=1,n=2", "--strategy", "greedy"]
    assert main(["eval", "--limit", "3", *strategies, "--out", str(tmp_path / "eval")]) == 0
    found = labelled(tmp_path / "out", *FEW, "--which", "all", "--trajectories", str(tmp_path / "eval"))
    samples = rows_of(tmp_path / "eval/samples.jsonl")
    paths = [(row, i, path) for row in samples for i, path in enumerate(row["paths"])]
    assert len(found) == len(paths) == 9
    for one, (row, i, path) in zip(found, paths, strict=True):
        assert one["id"] == f"{row['problem_id']}/{row['strategy']}/{i}"
        assert (one["prompt_ids"], one["token_ids"]) == (row["prompt_ids"], path["token_ids"])
        assert one["correct"] == path.get("correct", row["correct"])


def test_the_exported_data_set(capsys, run, tmp_path, monkeypatch):
    """Written for a finished run too, and pushed."""
    out, rows = run
    monkeypatch.chdir(tmp_path)
    for options, message in (
        (["--push", "me/x"], "--push uploads what --export wrote"),
        (["--export", "set", "--private"], "--private is about the upload"),
    ):
        assert message in refused(capsys, *FEW, *options)
    pushed = []
    monkeypatch.setattr(
        "forkpoint.curves.label_dataset.push_to_hub", lambda *of, **options: pushed.append((of, options))
    )
    command = ["critical", *FEW, "--n", "2", "--which", "all", "--out", str(out), "--export", "set"]
    assert main([*command, "--push", "me/x", "--private"]) == 0
    loaded = datasets.load_dataset(str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.to_list() == rows
    assert pushed == [((Path("set"), "me/x"), {"private": True})]


def test_bad_trajectories_are_one_sentence(capsys, run, tmp_path):
    row = run[1][0]
    file, out = tmp_path / "rows.jsonl", tmp_path / "out"
    n = len(row["token_ids"])
    for rows, message in (
        ([row | {"tokens": ["x", *row["tokens"][1:]]}], "line 1: token 0 is ['x'] there but [' '] for lab"),
        ([row | {"tokens": row["tokens"][:-1]}], "come from another tokenizer"),
        ([row, minimal(row, token_ids=[5, 490])], "line 2: token_ids holds 490, but the ids of lab go from 0 to 489"),
        ([minimal(row, prompt_ids=[-1])], "line 1: prompt_ids holds -1"),
        ([minimal(row, token_ids=[5, True])], "whole numbers, but holds True"),
        ([minimal(row, token_ids=[])], "line 1: token_ids is empty"),
        ([minimal(row, token_ids="abc")], "line 1: token_ids must be a list of whole numbers, but is 'abc'"),
        ([{"problem_id": row["problem_id"]}], "line 1: no column 'prompt_ids'"),
        ([minimal(row, problem_id=None)], "line 1: column 'problem_id' should be a string, got null"),
        ([row | {"tokens": 5}], "line 1: tokens must be a list of strings, but is 5"),
        ([minimal(row, paths=[7])], "line 1: paths must be a list of objects, but holds 7"),
        ([minimal(row, finish_reason="eos")], "line 1: finish_reason must be stop or length, but is 'eos'"),
        ([minimal(row, token_ids=[5, 0, 5])], "line 1: token 1 ends the response, but 1 tokens follow it"),
        ([row, "{broken"], "line 2: not valid JSON"),
        ([minimal(row), minimal(row)], f"line 2: the trajectory '{row['problem_id']}' is there twice"),
        ([minimal(row, problem_id="lab/test/0/3")], "holds no trajectory of the task's 3 problems"),
        ([], "holds no trajectory of the task's 3 problems"),
    ):
        error = refused(capsys, *FEW, "--trajectories", str(file_of(file, *rows)), "--out", str(out))
        assert message in error
        assert str(file) in error
    file_of(file, row)
    for options, message in (
        (["--max-tokens", str(n - 1)], f"{row['id']} has {n} tokens, more than the {n - 1} that a rollout may have"),
        (["--max-tokens", "5000"], "reads at most"),
        (["--trajectories", str(tmp_path)], "samples.jsonl: No such file"),
    ):
        assert message in refused(capsys, *FEW, "--trajectories", str(file), "--out", str(out), *options)
    assert not out.exists()


@pytest.mark.parametrize(("config", "message"), [
    ({"sampling": Sampling(temperature=0)}, "the temperature must be above 0"),
    ({"n": 0}, "n must be at least 1, but is 0"),
    ({"budget": 0}, "budget must be at least 1, but is 0"),
    ({"wave": -1}, "wave must be at least 1, but is -1"),
    ({"sampling": Sampling(max_tokens=5000)}, "reads at most"),
    ({"prompt": "cott"}, "did you mean 'cot'"),
])  # fmt: skip
def test_settings_out_of_range_are_refused(lab, tmp_path, config, message):
    with pytest.raises(UserError, match=message):
        find_critical(lab, load_problems(limit=1), CriticalConfig(**config), tmp_path / "out")
    with pytest.raises(UserError, match="no problems to sample"):
        find_critical(lab, [], CriticalConfig(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_directory_of_another_run_is_left_alone(capsys, run, tmp_path):
    out, _ = run
    before = {path: path.read_bytes() for path in out.iterdir()}
    same = [*FEW, "--n", "2", "--which", "all", "--out", str(out)]
    for options, message in (
        (["--budget", "17"], "budget was 16, now 17"),
        (["--top-p", "0.9"], "sampling.top_p was"),
        (["--limit", "2"], "problems was '3 (contents"),
        (["--trajectories", str(out)], "holds a run with another configuration"),
    ):
        assert message in refused(capsys, *same, *options)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_nothing_to_label(tmp_path):
    """All responses are correct; there is a page all the same, and no data set."""
    sums = [{"question": f"Ada has {n} nuts. Ada buys 3 more. How many nuts does Ada have now?", "answer": n + 3}
            for n in (5, 6, 7)]  # fmt: skip
    asked = ["--task", "jsonl", "--data", str(file_of(tmp_path / "sums.jsonl", *sums))]
    greedy = [*FEW, *asked, "--top-k", "1", "--prompt", "cot", "--replace", "--export", str(tmp_path / "set")]
    assert labelled(tmp_path / "out", *greedy) == []
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["n_trajectories"], summary["share_critical"], summary["critical_position"]) == (0, None, None)
    assert summary["replacement"] == {"n_trajectories": 0, "tokens_generated": 0, "table": []}
    assert len(rows_of(tmp_path / "out/samples.jsonl")) == 3
    assert (tmp_path / "out/report.html").exists()
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("protocol", ["forks", "paper"])
def test_a_model_that_never_answers(tmp_path, protocol):
    """One token is too few: nothing is right after any, and no token is to blame by the estimator."""
    rows = labelled(tmp_path / "out", *FEW, "--max-tokens", "1", "--protocol", protocol, "--replace")
    assert len(rows) == 3
    for row in rows:
        assert row.keys() == COLUMNS.keys()
        assert (row["answer"], row["correct"], row["finish_reason"]) == (None, False, "length")
        assert set(row["success"]) <= {0, None}
        assert protocol == "paper" or row["status"] in ("none", "undecided")
    replacement = json.loads((tmp_path / "out/summary.json").read_text())["replacement"]
    assert all(line["with"] == line["without"] == 0 for line in replacement["table"])
