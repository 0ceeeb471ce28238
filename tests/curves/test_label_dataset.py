"""The exported data set: every value comes back through `datasets`, the card is read by the Hub's own tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import datasets
import huggingface_hub
import pytest
from huggingface_hub import DatasetCard

from forkpoint.curves import label_dataset as export
from forkpoint.curves.label_dataset import COLUMNS, card, export_run, push_to_hub
from forkpoint.types import UserError

SUMMARY = {
    "model": "lab", "task": "lab", "protocol": "paper", "version": "0.1.0",
    "sampling": {"temperature": 0.7, "top_p": 0.95}, "n_trajectories": 3, "statuses": {"critical": 2},
}  # fmt: skip


def row(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": name, "problem_id": "p", "question": 'What | "is"\n1 + 1?', "prompt_ids": [5, 6], "token_ids": [7, 0],
        "tokens": [" 3", ""], "answer": "3", "gold": "2", "correct": False, "finish_reason": "stop",
        "cause": "slip", "success": [None, 0.25, 0.0], "success_ci": [None, [0.1, 0.5], [0.0, 0.0]],
        "success_bias": None, "status": "critical", "critical_index": 1, "rollouts": 128, "tokens_generated": 99,
        "brute_force_tokens": 640, "policy_prob": [0.5, 1.0], "entropy": [0.1, 0.2], "gap": [0.3, 0.4],
        "logprob": [-0.7, 0.0],
        "alternatives": [
            {"position": 0, "token_id": 8, "token": " 2", "policy_prob": 0.5, "success": 1.0, "n": 3},
            {"position": 1, "token_id": 7, "token": " 3", "policy_prob": 1e-9, "success": None, "n": 0},
        ],
    } | changes  # fmt: skip


NOTHING = row(
    "b", answer=None, critical_index=None, status="none", alternatives=[], success=[None] * 3, success_ci=[None] * 3
)
ROWS = [row("a"), NOTHING, row("c", success_ci=[[None, None], [0.1, 0.5], [0.0, 0.0]])]


def run_of(directory: Path, *rows: dict[str, Any] | str) -> Path:
    """A finished run."""
    directory.mkdir(exist_ok=True)
    lines = [one if isinstance(one, str) else json.dumps(one) for one in rows]
    (directory / "critical.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (directory / "summary.json").write_text(json.dumps(SUMMARY))
    return directory


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return run_of(tmp_path / "run", *ROWS)


def load(directory: Path, tmp_path: Path) -> datasets.Dataset:
    return datasets.load_dataset(str(directory), split="train", cache_dir=str(tmp_path / "cache"))


@pytest.mark.parametrize("rows", [ROWS, [NOTHING], [row(str(i)) for i in range(7)]])
def test_every_value_comes_back(rows: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Types do not depend on the values, nor the order on the row groups."""
    monkeypatch.setattr(export, "ROWS", 2)
    out = tmp_path / "deep" / "out"
    assert export_run(run_of(tmp_path / "run", *rows), out) == len(rows)
    loaded = load(out, tmp_path)
    assert loaded.column_names == list(COLUMNS)
    assert loaded.features == export.features()
    assert loaded.to_list() == [dict(r, success_ci=[pair or [None, None] for pair in r["success_ci"]]) for r in rows]
    assert {p.name for p in out.parent.iterdir()} == {"out"}


def test_the_card(run: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path / "out")
    read = DatasetCard.load(tmp_path / "out" / "README.md")
    assert read.data.license == "other"
    assert read.data.configs[0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert read.data.size_categories == "n<1K"
    for part in ("`lab`", "64 rollouts", '"top_p": 0.95', '"critical": 2', "2411.19943", "forkpoint 0.1.0"):
        assert part in read.text
    listed = [line.split("`")[1] for line in read.text.splitlines() if line.startswith("| `")]
    assert listed == list(COLUMNS)
    assert "| `success_ci` | list of [float64, float64] |" in read.text
    forks = card(SUMMARY | {"protocol": "forks", "model": "a: {b}"}, 5000)
    assert "fork estimator" in forks
    assert "1K<n<10K" in forks
    assert DatasetCard(forks).data.pretty_name == "Critical tokens of a: {b} on lab"


def test_an_earlier_export_is_replaced_and_nothing_else(run: Path, tmp_path: Path) -> None:
    out, file, other = tmp_path / "out", tmp_path / "file", tmp_path / "other"
    export_run(run_of(tmp_path / "short", row("a")), out)
    assert export_run(run, out) == 3
    assert len(load(out, tmp_path)) == 3
    (out / "notes.txt").write_text("mine")
    file.touch()
    other.mkdir()
    (other / "README.md").write_text("mine")
    links = tmp_path / "links"
    links.mkdir()
    (links / "gone").symlink_to("/nonexistent/thing")
    for taken in (out, file, other, links):
        with pytest.raises(UserError, match="holds other files"):
            export_run(run, taken)


@pytest.mark.parametrize(("rows", "error", "message"), [
    ([ROWS[0], KeyboardInterrupt], KeyboardInterrupt, ""),
    ([row("a", token_ids=["seven"])], UserError, "trajectories 1 to 1"),
    ([], UserError, "no labelled trajectories"),  # `datasets` reads no data set without rows
    (["[]"], UserError, "line 1"),
    (['{"id": 1}'], UserError, "line 1: a trajectory lacks alternatives"),
    ([ROWS[0], row("b", mood="good")], UserError, "line 2: a trajectory has the unknown mood"),
])  # fmt: skip
def test_a_failure_leaves_the_old_export_and_no_traces(
    rows: list[Any], error: type, message: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    export_run(run, out)
    before = (out / export.PARQUET).read_bytes()
    if KeyboardInterrupt in rows:

        def broken(_: Path) -> Any:
            yield "row 1", rows[0]
            raise KeyboardInterrupt

        monkeypatch.setattr(export, "read_rows", broken)
    else:
        run_of(run, *rows)
    with pytest.raises(error, match=message):
        export_run(run, out)
    assert (out / export.PARQUET).read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"run", "out"}


def test_pushing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = Mock()
    api.create_repo.return_value = "https://hub/datasets/me/x"
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"no critical\.jsonl"):
        export_run(tmp_path, out)
    with pytest.raises(UserError, match="no exported data set"):
        push_to_hub(out, "me/x")
    export_run(run, out)
    for name in ("me/x/y", "me/x"):  # refused before any connection; the tests are offline
        with pytest.raises(UserError, match=f"could not be pushed to '{name}'"):
            push_to_hub(out, name)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    assert push_to_hub(out, "me/x", private=True) == "https://hub/datasets/me/x"
    api.create_repo.assert_called_once_with("me/x", repo_type="dataset", private=True, exist_ok=True)
    asked = {"repo_id": "me/x", "repo_type": "dataset", "folder_path": out}
    assert asked.items() <= api.upload_folder.call_args.kwargs.items()
