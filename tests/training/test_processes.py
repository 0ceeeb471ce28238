"""Every `train` verb in two processes: it ends with what one process ends with, also after a kill, and fails as one."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from made_up_pairs import made_up_pairs, write_pairs
from safetensors.torch import load_file
from trl import SFTConfig

from forkpoint.cli import main
from forkpoint.cli.verbs import VERBS
from forkpoint.files import to_json
from forkpoint.lab import MODEL_DIR
from forkpoint.training.sft import response_row, sft_trainer

pytestmark = pytest.mark.slow

RUNS = {
    **{verb: (verb, "--pairs=pairs.jsonl") for verb in ("sft", "dpo", "rpo", "tdpo", "critical-dpo")},
    "fork-dpo": ("fork-dpo", "--pairs=forks.jsonl"),
    **{verb: (verb, "--store=store") for verb in ("clm", "slm")},
    "slm by row": ("slm", "--store=store", "--scope=sequence"),
    "slm intersection": ("slm", "--store=store", "--rule=intersection"),
    "slm by length": (
        "slm", "--store=store", "--train_sampling_strategy=group_by_length", "--num_train_epochs=2",
        "--gradient_accumulation_steps=2", "--eval_data=store", "--per_device_eval_batch_size=5"),
}  # fmt: skip
"""The last one is killed in its second epoch, whose order of rows is another one."""
ACCELERATE = Path(__file__).parents[2] / "recipes" / "accelerate"
STEP = 8  # rows of an optimizer step
PLAIN = (
    "--quiet", "--device=cpu", "--optim=adamw_torch", "--adam_epsilon=1", "--num_train_epochs=1", "--warmup_steps=0",
    "--lr_scheduler_type=constant", "--logging_steps=1", "--save_steps=1",
)  # fmt: skip
"""AdamW divides gradients by their own size plus epsilon. At the usual 1e-8 it turns the last bit of those that are
rounding alone into a whole step, whose sign is chance; at 1 weights are about a sum of gradients."""


@pytest.fixture(scope="module", autouse=True)
def workplace(tmp_path_factory, tokenizer):
    """A directory with pairs, pairs of single tokens, and a store: three steps each, of rows of many lengths."""
    place = tmp_path_factory.mktemp("processes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        pairs = made_up_pairs(3 * STEP, len(tokenizer), longest=20)
        write_pairs(Path("pairs.jsonl"), pairs)
        single = [replace(p, chosen_ids=(2 + i,), rejected_ids=(3 + i,)) for i, p in enumerate(pairs)]
        write_pairs(Path("forks.jsonl"), [replace(p, rejected_weights=None) for p in single])
        rows = ({"input_ids": [*p.prompt_ids, *p.chosen_ids, *p.rejected_ids, 2]} for p in pairs)
        Path("corpus.jsonl").write_text("".join(to_json(row) + "\n" for row in rows))
        assert main(["score", "--data=corpus.jsonl", "--length=64", "--out=store", "--quiet"]) == 0
        yield place


def command(name, out, processes, *more):
    """The run's command, a process with its share of a step."""
    size = f"--per_device_train_batch_size={STEP // processes}"
    verb, *own = RUNS[name]
    return ["train", verb, *PLAIN, *own, f"--out={out}", size, *more]


def weights(out):
    return load_file(Path(out) / "model" / "model.safetensors")


def history(out):
    return json.loads((Path(out) / "summary.json").read_text())["history"]


def test_no_verb_is_left_out():
    assert {verb for verb, *_ in RUNS.values()} == {v.removeprefix("train ") for v in VERBS if v.startswith("train ")}


def sharding():
    """What accelerate tells processes that it starts with the recipe of FSDP."""
    config = yaml.safe_load((ACCELERATE / "fsdp2.yaml").read_text())
    assert config.pop("distributed_type") == "FSDP"
    return {"ACCELERATE_USE_FSDP": "true"} | {name.upper(): str(value) for name, value in config["fsdp_config"].items()}


@pytest.mark.parametrize(("name", "sharded"), [
    *((name, False) for name in RUNS), *((name, True) for name in ("sft", "dpo", "tdpo", "slm"))
])  # fmt: skip
def test_killed_and_resumed_it_ends_with_the_weights_of_one_process(name, sharded, launch, tmp_path, capsys):
    """In float64, where weights hold their gradients to the last digits; the losses are float32."""
    wide = ("--dtype=float64", "--save_dtype=float64", "--learning_rate=0.1", "--max_grad_norm=2")
    first, second = tmp_path / "one", tmp_path / "two"
    assert main(command(name, first, 1, *wide)) == 0
    argv, environment = command(name, second, 2, *wide), sharding() if sharded else {}
    last = 4 if name == "slm by length" else 2
    assert launch(*argv, killed_at=f"step {last}", **environment)[0] == [-9, -9]
    assert not (second / "summary.json").exists()
    checkpoint = second / "checkpoints" / f"checkpoint-{last - 1}"
    assert (checkpoint / "trainer_state.json").exists()
    assert (checkpoint / "pytorch_model_fsdp.bin").exists() == sharded
    codes, (table, _), (silence, _) = launch(*argv, **environment)
    assert codes == [0, 0]
    assert silence == ""
    assert table.splitlines()[:2] == capsys.readouterr().out.splitlines()[:2]  # a last digit of the others may differ
    assert table.splitlines()[-2:] == [f"{second}/model", f"{second}/report.html"]
    assert not (second / "checkpoints").exists()
    before = load_file(MODEL_DIR / "model.safetensors")
    alone, together = weights(first), weights(second)
    assert alone.keys() == together.keys()
    for weight, start in before.items():
        moved = alone[weight] - start.double()
        assert (together[weight] - alone[weight]).norm() <= 1e-6 * moved.norm(), weight
    for one, other in zip(history(first), history(second), strict=True):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-6)


def test_rows_of_similar_length_are_found_within_the_steps_of_all_processes(lab, workplace, monkeypatch):
    monkeypatch.setattr(SFTConfig, "world_size", 2)
    settings = SFTConfig(
        "out", per_device_train_batch_size=3, gradient_accumulation_steps=5, use_cpu=True, report_to="none",
        train_sampling_strategy="group_by_length",
    )  # fmt: skip
    model = copy.deepcopy(lab.model)  # on which TRL puts a forward of its own
    trainer = sft_trainer(model, lab.tokenizer, settings, [response_row((5,), (6, 7))])
    assert trainer._get_train_sampler().batch_size == 30


def sentence(said):
    """What the user reads, in all."""
    lines = [line for _, err in said for line in err.splitlines()]
    assert not any("Traceback" in line for line in lines)
    return [line for line in lines if line.startswith("forkpoint: ")]


@pytest.mark.parametrize(("more", "message"), [
    (["--leraning_rate=1"], "did you mean --learning_rate?"),
    (["--pairs=nowhere.jsonl"], "nowhere.jsonl does not exist"),
    (["--out=foreign"], "foreign holds files but no run"),
])  # fmt: skip
def test_a_mistake_is_told_once(more, message, launch):
    Path("foreign").mkdir(exist_ok=True)
    Path("foreign", "mine.txt").touch()
    codes, *said = launch(*command("dpo", "mistaken", 2, *more))
    assert codes == [2, 2]
    (told,) = sentence(said)
    assert message in told
    assert not Path("mistaken").exists()


def test_a_mistake_that_one_process_meets_ends_both(launch, workplace):
    rows = [json.loads(line) for line in Path("forks.jsonl").read_text().splitlines()]
    rows[5]["weight"] = 1e300  # infinite in float32
    Path("broken.jsonl").write_text("".join(to_json(row) + "\n" for row in rows))
    codes, *said = launch(*command("fork-dpo", "broken", 2, "--pairs=broken.jsonl"))
    assert codes == [2, 2]
    (told,) = sentence(said)
    assert "the loss of pair 'p5' is inf" in told


@pytest.mark.parametrize(("environment", "more", "message"), [
    ({"ON_A_CPU": "1"}, [], "FSDP takes several GPUs"),
    ({"FSDP_VERSION": "1"}, [], "FSDP needs fsdp_version: 2"),
    ({"FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"}, [], "FSDP needs fsdp_state_dict_type: FULL_STATE_DICT"),
    ({}, ["--lora_r=2"], "not under FSDP"),
    ({"ACCELERATE_USE_FSDP": "false", "ACCELERATE_USE_DEEPSPEED": "true"}, [], "DeepSpeed is not supported"),
])  # fmt: skip
def test_sharding_that_does_not_work_is_refused(environment, more, message, launch):
    codes, *said = launch(*command("dpo", "refused", 2, *more), **(sharding() | environment))
    assert codes == [2, 2]
    (told,) = sentence(said)
    assert message in told
    assert not Path("refused").exists()


def test_in_bfloat16_a_sharded_policy_and_its_reference_compute_alike(launch):
    """On rows of one length: the last digit of a product in bfloat16 depends on its shape."""
    parts = (tuple(range(i + 2, i + 9)) for i in range(9 * STEP))
    even = [replace(p, prompt_ids=next(parts), chosen_ids=next(parts), rejected_ids=next(parts), rejected_weights=None)
            for p in made_up_pairs(3 * STEP, 490)]  # fmt: skip
    write_pairs(Path("even.jsonl"), even)
    argv = command("dpo", "bf16", 2, "--pairs=even.jsonl", "--bf16", "--max_steps=1")
    codes, *_ = launch(*argv, **sharding())
    assert codes == [0, 0]
    assert history("bf16")[0]["rewards/chosen"] == history("bf16")[0]["rewards/rejected"] == 0


def test_another_number_of_processes_is_another_run(launch, capsys):
    argv = command("clm", "other-number", 2, "--max_steps=1")
    assert launch(*argv)[0] == [0, 0]
    assert main(argv) == 2
    assert "processes was 2, now None" in capsys.readouterr().err


def test_accelerate_launches_two_processes_with_the_recipe(workplace):
    """In float32, as users do: a weight differs in its last bits."""
    assert main(command("rpo", "plain", 1, "--learning_rate=0.1")) == 0
    recipe = ACCELERATE / "ddp.yaml"
    launcher = [sys.executable, "-m", "accelerate.commands.launch", f"--config_file={recipe}", "--num_processes=2"]
    argv = [
        *launcher,
        "--main_process_port=0",
        "-m",
        "forkpoint",
        *command("rpo", "launched", 2, "--learning_rate=0.1"),
    ]
    done = subprocess.run(argv, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("rpo: 24 pairs, 3 steps") == 1
    alone, together = weights("plain"), weights("launched")
    for name in alone:
        assert (together[name] - alone[name]).norm() <= 1e-6 * alone[name].norm(), name
