"""The exported data set: every value comes back through `datasets`, the card is read by the Hub's own tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
from huggingface_hub import DatasetCard

from forkpoint.curves import label_dataset as export
from forkpoint.curves.label_card import COLUMNS
from forkpoint.curves.label_dataset import export_run, push_to_hub, write_dataset
from forkpoint.types import UserError

SUMMARY = {
    "model": "lab", "task": "lab", "protocol": "paper", "version": "0.1.0",
    "sampling": {"temperature": 0.7, "top_p": 0.95}, "n_trajectories": 3, "statuses": {"critical": 2},
}  # fmt: skip


def row(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": name, "problem_id": "p", "question": 'What | "is"\n1 + 1?', "prompt_ids": [5, 6], "token_ids": [7, 0],
        "tokens": [" 3", ""], "answer": "3", "gold": "2", "correct": False, "finish_reason": "stop",
        "success": [None, 0.25, 0.0], "success_ci": [None, [0.1, 0.5], [0.0, 0.0]], "success_bias": None,
        "status": "critical", "critical_index": 1, "rollouts": 128, "tokens_generated": 99, "brute_force_tokens": 640,
        "policy_prob": [0.5, 1.0],
        "entropy": [0.1, 0.2], "gap": [0.3, 0.4], "logprob": [-0.7, 0.0],
        "alternatives": [
            {"position": 0, "token_id": 8, "token": " 2", "policy_prob": 0.5, "success": 1.0, "n": 3},
            {"position": 1, "token_id": 7, "token": " 3", "policy_prob": 1e-9, "success": None, "n": 0},
        ],
    } | changes  # fmt: skip


ROWS = [
    row("a"),
    row(
        "b", answer=None, critical_index=None, status="none", alternatives=[], success=[None] * 3, success_ci=[None] * 3
    ),
    row("c", success_ci=[[None, None], [0.1, 0.5], [0.0, 0.0]]),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "critical.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    (directory / "summary.json").write_text(json.dumps(SUMMARY))
    return directory


def load(directory: Path, tmp_path: Path) -> datasets.Dataset:
    return datasets.load_dataset(str(directory), split="train", cache_dir=str(tmp_path / "cache"))


def test_every_value_comes_back(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    assert export_run(run, out) == 3
    loaded = load(out, tmp_path)
    assert loaded.column_names == list(COLUMNS)
    assert loaded.features == export.features()
    expected = [dict(r, success_ci=[pair or [None, None] for pair in r["success_ci"]]) for r in ROWS]
    assert loaded.to_list() == expected
    assert {p.name for p in out.parent.iterdir()} == {"out"}


def test_many_rows_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_ROWS", 2)
    assert write_dataset((row(str(i)) for i in range(7)), SUMMARY, tmp_path / "out") == 7
    assert load(tmp_path / "out", tmp_path)["id"][:] == [str(i) for i in range(7)]


def test_types_do_not_depend_on_the_values(tmp_path: Path) -> None:
    write_dataset([ROWS[1]], SUMMARY, tmp_path / "out")
    assert load(tmp_path / "out", tmp_path).features == export.features()
    with pytest.raises(UserError, match="no labelled trajectories"):  # `datasets` reads no data set without rows
        write_dataset([], SUMMARY, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_card(run: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path / "out")
    card = DatasetCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "other"
    assert card.data.configs[0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert card.data.size_categories == "n<1K"
    for said in ("`lab`", "64 rollouts", '"top_p": 0.95', '"critical": 2', "2411.19943", "forkpoint 0.1.0"):
        assert said in card.text
    listed = [line.split("`")[1] for line in card.text.splitlines() if line.startswith("| `")]
    assert listed == list(COLUMNS)
    forks = export.card(SUMMARY | {"protocol": "forks", "model": "a: {b}"}, 5000)
    assert "fork estimator" in forks
    assert "1K<n<10K" in forks
    assert DatasetCard(forks).data.pretty_name == "Critical tokens of a: {b} on lab"


def test_an_earlier_export_is_replaced_and_nothing_else(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_dataset(ROWS[:1], SUMMARY, out)
    assert export_run(run, out) == 3
    assert len(load(out, tmp_path)) == 3
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        export_run(run, out)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match="holds other files"):
        export_run(run, file)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "README.md").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        export_run(run, mine)


def test_a_failure_leaves_the_old_export_and_no_traces(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_run(run, out)
    before = (out / export.PARQUET).read_bytes()

    def broken():
        yield ROWS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(broken(), SUMMARY, out)
    with pytest.raises(UserError, match="trajectories 1 to 1"):
        write_dataset([row("a", token_ids=["seven"])], SUMMARY, out)
    assert (out / export.PARQUET).read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"run", "out"}


def test_wrong_runs_are_one_sentence(run: Path, tmp_path: Path) -> None:
    lines = run / "critical.jsonl"
    for line, message in (("[]", "line 1"), ('{"id": 1}', "line 1: a trajectory lacks alternatives"),
                          (json.dumps(row("a", mood="good")), "has the unknown mood")):  # fmt: skip
        lines.write_text(line + "\n")
        with pytest.raises(UserError, match=message):
            export_run(run, tmp_path / "out")
    with pytest.raises(UserError, match="row 2: a trajectory lacks gap"):
        write_dataset([ROWS[0], {k: v for k, v in ROWS[1].items() if k != "gap"}], SUMMARY, tmp_path / "out")
    lines.unlink()
    with pytest.raises(UserError, match=r"no critical\.jsonl"):
        export_run(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pushing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    class Api:
        def create_repo(self, repo_id: str, **options: Any) -> str:
            calls.append((repo_id, options))
            return f"https://hub/datasets/{repo_id}"

        def upload_folder(self, **options: Any) -> None:
            calls.append((options["repo_id"], options))

    out = tmp_path / "out"
    with pytest.raises(UserError, match="no exported data set"):
        push_to_hub(out, "me/x")
    export_run(run, out)
    with pytest.raises(UserError, match="could not be pushed to 'me/x/y'"):  # refused before any connection
        push_to_hub(out, "me/x/y")
    with pytest.raises(UserError, match="could not be pushed to 'me/x'"):  # the tests are offline
        push_to_hub(out, "me/x")
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert push_to_hub(out, "me/x", private=True) == "https://hub/datasets/me/x"
    assert calls[0][1]["repo_type"] == calls[1][1]["repo_type"] == "dataset"
    assert calls[0][1]["private"]
    assert calls[1][1]["folder_path"] == out
