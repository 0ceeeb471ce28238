"""A training ends in the same bytes whatever happens: killed at any stage, one after the other."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from kills import contents
from launches import small_units
from made_up_pairs import made_up_pairs, write_pairs
from test_selective_run import made
from transformers import Trainer

from forkpoint.cli import main
from forkpoint.engines.local.transformers_engine import TransformersEngine

pytestmark = pytest.mark.slow

SHORT = ["--quiet", "--num_train_epochs=2", "--per_device_train_batch_size=4", "--logging_steps=2", "--save_steps=2",
         "--learning_rate=1e-3"]  # fmt: skip
FINISHED = "file summary.json"
SIX_STEPS = ["step 2", "step 4", "checkpoint 4", "file model", FINISHED]
COMMANDS = {
    "critical-dpo": (["train", "critical-dpo", "--pairs=pairs.jsonl", *SHORT], SIX_STEPS),
    "sft": (["train", "sft", "--pairs=pairs.jsonl", *SHORT], SIX_STEPS),
    "adapters": (["train", "tdpo", "--pairs=pairs.jsonl", *SHORT, "--lora_r=2"], SIX_STEPS),
    "snapshots": (
        ["train", "slm", "--store=store", "--eval_data=store", *SHORT, "--per_device_train_batch_size=2",
         "--gradient_accumulation_steps=2", "--logging_steps=3", "--save_steps=3", "--eval_strategy=steps",
         "--eval_steps=2", "--ratio_warmup=0.5", "--snapshots=5", "--seed=3"],
        ["step 1", "file step-2", "checkpoint 3", "step 5", "checkpoint 6", "step 7", "file model", FINISHED]),
    "contrast": (
        ["contrast", "--limit=6", "--train_limit=12", "--n=6", "--max_tokens=100", "--per_device_train_batch_size=4",
         "--quiet"],
        ["entry 2", "entry 3", "step 2", "file positive", "file negative", "entry 1", FINISHED]),
    "pairs": (
        ["pairs", "--limit=6", "--n=6", "--max_tokens=100", "--quiet"],
        ["entry 2", "entry 2", "file samples.jsonl", "file pairs.jsonl", FINISHED]),
    "rounds": (
        ["rounds", "--limit=9", "--n=4", "--eval-limit=4", "--eval-n=3", "--rounds=2", "--quiet", "--max-tokens=100",
         "--per-device-train-batch-size=2", "--learning-rate=1e-3", "--filter=token", "--max-token-probability=0.95"],
        ["entry 2", "entry 3", "step 4", "file model", "entry 2", "file round.json", "entry 2",
         "file evaluation.jsonl", FINISHED]),
}  # fmt: skip
"""By name: a command, and the moments at which one process after the other is killed, each a little later."""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, tokenizer):
    """A directory with twelve pairs and a store of fourteen rows."""
    place = tmp_path_factory.mktemp("kills")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        small_units(patch.setattr)
        write_pairs(Path("pairs.jsonl"), made_up_pairs(12, len(tokenizer)))
        made(Path("store"), tokenizer)
        yield place


def written(out):
    """When each file of a finished round, or of a round's model, was."""
    done = [*(path.parent for path in out.rglob("round.json")), *out.glob("round-*/model")]
    return {path: path.stat().st_mtime_ns for directory in done for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", COMMANDS)
def test_kill_9_and_on_to_the_same_bytes(name, launch, workplace, monkeypatch):
    """Checkpoints lie within epochs. The last process has but the summary to write; no finished round is done again."""
    command, moments = COMMANDS[name]
    whole, out = workplace / name / "whole", workplace / name / "killed"
    assert main([*command, f"--out={whole}"]) == 0
    finished = {}
    for moment in moments:
        (code,), (_, said) = launch(*command, f"--out={out}", killed_at=moment, processes=1)
        assert code == -signal.SIGKILL, f"{moment}: {said}"
        assert not (out / "summary.json").exists()
        assert finished.items() <= written(out).items()
        finished = written(out)
    monkeypatch.setattr(Trainer, "training_step", None)
    monkeypatch.setattr(TransformersEngine, "generate", None)
    assert main([*command, f"--out={out}"]) == 0
    assert contents(out) == contents(whole)
    (workplace / "new").touch()
    usual = (workplace / "new").stat().st_mode
    assert {path.stat().st_mode for path in (*out.glob("*.json*"), *out.glob("model/*"))} == {usual}
    assert not {"checkpoints", "journal.jsonl"} & {path.name for path in out.rglob("*")}
