"""What a training of somebody's model leaves: moved weights in their precision, adapters that go on and merge, logs."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import pytest
import torch
from made_up_pairs import made_up_pairs, write_pairs
from peft import PeftModel
from safetensors.torch import load_file
from tiny_models import build_model, tiny_config
from transformers import AutoModelForCausalLM, MambaConfig, MistralConfig

from forkpoint.cli import main
from forkpoint.engines import load_engine
from forkpoint.training import fit
from forkpoint.training.configs import PreferenceConfig
from forkpoint.training.contrast_run import ContrastConfig, estimate
from forkpoint.training.preference_run import train
from forkpoint.types import UserError


@pytest.fixture
def some(tokenizer):
    """Sixteen pairs of weight 1."""
    return [replace(p, weight=1.0) for p in made_up_pairs(16, len(tokenizer))]


@pytest.fixture
def file(some, tmp_path):
    return write_pairs(tmp_path / "pairs.jsonl", some)


@pytest.fixture
def stored(tokenizer, tmp_path):
    """Writes a model as a directory in some precision; weights are of a real one's size."""

    def written(dtype=torch.float32, name="base", **options):
        model = build_model(tiny_config(tokenizer, **{"initializer_range": 0.02, **options})).to(dtype)
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    return written


def run(file, method, model, out, *flags):
    command = ["train", method, "--pairs", str(file), "--model", str(model), "--out", str(out), "--quiet", *flags]
    assert main(command) == 0
    return json.loads((out / "summary.json").read_text())


def moved(before, after):
    """The share of weights that differ; tokens that are not there have embeddings without gradients."""
    assert before.keys() == after.keys()
    names = [n for n in before if "embed_tokens" not in n]
    return sum(int((before[n] != after[n]).sum()) for n in names) / sum(before[n].numel() for n in names)


def test_a_model_in_bfloat16_is_trained_in_float32_and_saved_as_it_came(file, stored, tmp_path):
    """24 steps of SFT at the default rate. Of weights trained in bfloat16 itself hardly one moves at DPO's."""
    base = stored(torch.bfloat16)
    before = load_file(base / "model.safetensors")
    flags = ("--per_device_train_batch_size=2", "--bf16")
    summary = run(file, "sft", base, tmp_path / "out", *flags)
    after = load_file(tmp_path / "out/model/model.safetensors")
    assert summary["arguments"]["learning_rate"] == 2e-5
    assert {t.dtype for t in after.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "out/model/config.json").read_text())["dtype"] == "bfloat16"
    assert moved(before, after) > 0.5
    run(file, "dpo", base, tmp_path / "float32", *flags, "--save_dtype=float32", "--dtype=float32")
    exact = load_file(tmp_path / "float32/model/model.safetensors")
    assert {t.dtype for t in exact.values()} == {torch.float32}
    assert moved({n: t.float() for n, t in before.items()}, exact) > 0.9  # at 1e-6


def test_adapters_leave_a_base_in_bfloat16_as_it_is(some, stored, tokenizer, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(stored(torch.bfloat16), dtype="auto")
    before = {n: p.clone() for n, p in model.named_parameters()}
    train(model, tokenizer, some, PreferenceConfig(method="dpo", max_steps=2, lora_r=2), tmp_path / "out")
    found = load_file(tmp_path / "out/model/adapter_model.safetensors")
    assert {t.dtype for t in found.values()} == {torch.float32}
    assert any(bool(t.any()) for n, t in found.items() if "lora_B" in n)
    names = {n.replace("base_model.model.", "").replace("base_layer.", ""): p for n, p in model.named_parameters()}
    assert all(torch.equal(names[n], p) and names[n].dtype == torch.bfloat16 for n, p in before.items())


def test_adapters_are_trained_on_and_merged(file, some, stored, tmp_path, monkeypatch):
    base = stored(initializer_range=0.2)
    monkeypatch.chdir(tmp_path)
    run(file, "sft", base.name, tmp_path / "first", "--lora_r=2", "--lora_dropout=0.1", "--learning_rate=1e-2")
    adapter = tmp_path / "first/model"
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["lora_dropout"]) == (str(base), 0.1)
    monkeypatch.chdir("/")
    for name, more in (("second", ()), ("online", ("--precompute_ref_log_probs=false",))):
        flags = ("--logging_steps=1", "--learning_rate=1e-2", "--max_steps=3", *more)
        summary = run(file, "dpo", adapter, tmp_path / name, *flags)
        assert (summary["lora"]["lora_r"], summary["lora"]["trained_on"]) == (2, True)
        logged = [row["rewards/margins"] for row in summary["history"] if "rewards/margins" in row]
        assert abs(logged[0]) < 1e-5 < abs(logged[-1])  # the reference is the model with the adapters it began with
    both = [load_file(path / "adapter_model.safetensors") for path in (adapter, tmp_path / "second/model")]
    assert moved(*both) > 0.9
    assert main(["merge", str(tmp_path / "second/model"), str(tmp_path / "merged/../merged")]) == 0
    whole = load_engine(str(tmp_path / "merged"))
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "second/model")
    tokens = torch.tensor([[5, 6, 7, 8, 9]])
    torch.testing.assert_close(whole.model(tokens).logits, adapted(tokens).logits, atol=1e-4, rtol=1e-4)
    assert {p.suffix for p in (tmp_path / "merged").iterdir()} == {".json", ".md", ".safetensors"}


def test_adapters_on_a_mamba(some, tokenizer, tmp_path):
    config = MambaConfig(vocab_size=len(tokenizer), hidden_size=16, state_size=4, num_hidden_layers=1)
    settings = PreferenceConfig(method="dpo", max_steps=1, learning_rate=1e-2, lora_r=2)
    train(build_model(config), tokenizer, some[:4], settings, tmp_path / "out")
    names = load_file(tmp_path / "out/model/adapter_model.safetensors")
    assert {n.split(".")[-3] for n in names} == {"in_proj", "x_proj", "dt_proj"}
    wrong = replace(settings, lora_target_modules=["out_proj"])
    with pytest.raises(UserError, match="no linear layer 'out_proj' that could be adapted"):
        train(build_model(config), tokenizer, some[:4], wrong, tmp_path / "wrong")


@pytest.mark.parametrize("method", ["dpo", "sft"])
def test_pairs_that_are_too_long_are_left_out_and_counted(method, some, stored, tokenizer, tmp_path, caplog):
    model = AutoModelForCausalLM.from_pretrained(stored(max_position_embeddings=40))
    pairs = [replace(p, rejected_ids=(7, *p.rejected_ids)[:3]) for p in some]
    pairs[3] = replace(pairs[3], chosen_ids=pairs[3].chosen_ids * 50)  # longer than the model reads
    pairs[5] = replace(pairs[5], prompt_ids=(5, 6, 7), rejected_ids=(8,) * 30)  # 33 tokens in preference methods alone
    pairs = [replace(p, rejected_weights=None) for p in pairs]
    settings = PreferenceConfig(method=method, max_steps=1, max_length=32)
    with caplog.at_level(logging.WARNING, "forkpoint"):
        summary = train(model, tokenizer, pairs, settings, tmp_path / "out", eval_pairs=pairs[:4])
    assert summary["too_long"] == (1 if method == "sft" else 2)
    assert (summary["pairs"], summary["eval_too_long"]) == (16 - summary["too_long"], 1)
    assert f"{summary['too_long'] + 1} of 20 pairs are too long and left out" in caplog.text


def test_the_best_model_is_kept_with_its_own_figures(file, stored, tmp_path, capsys):
    """A rate at which it gets worse: the first of four evaluations, an epoch each by default, is the best one."""
    summary = run(
        file, "dpo", stored(initializer_range=0.2), tmp_path / "out", "--eval_pairs", str(file), "--learning_rate=3",
        "--lr_scheduler_type=constant", "--warmup_steps=0", "--num_train_epochs=4", "--save_strategy=epoch",
        "--load_best_model_at_end", "--metric_for_best_model=rewards/accuracies", "--per_device_train_batch_size=16",
    )  # fmt: skip
    judged = {row["step"]: row for row in summary["history"] if "eval_loss" in row}
    best = max(judged, key=lambda step: (judged[step]["eval_rewards/accuracies"], -step))
    assert summary["saved_step"] == best < summary["steps"] == 4
    assert f"| eval_loss | `{judged[best]['eval_loss']}` |" in (tmp_path / "out/model/README.md").read_text()
    assert f"the model is that of step {best}, the best one" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["sft", "clm"])
def test_tensorboard_logs_stay(verb, file, tmp_path):
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"text": "One and two are three. " * 9}) + "\n")
    data = ["--data", str(tmp_path / "corpus.jsonl")] if verb == "clm" else ["--pairs", str(file)]
    command = ["train", verb, *data, "--out", str(tmp_path / "out"), "--max_steps=1", "--report_to=tensorboard"]
    assert main([*command, "--quiet"]) == 0
    (events,) = (tmp_path / "out/logs").iterdir()
    assert b"train/loss" in events.read_bytes()
    assert not (tmp_path / "out/checkpoints").exists()


@pytest.mark.parametrize(("error", "message"), [
    (ImportError("no such"), "a library is missing: no such"), (torch.OutOfMemoryError("no"), "memory ran out while"),
    (UserError("another"), "another"),
])  # fmt: skip
def test_a_failure_leaves_the_directory_free(error, message, some, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "fit", lambda *_: (_ for _ in ()).throw(error))
    model = build_model(tiny_config(tokenizer, MistralConfig, num_key_value_heads=2))
    with pytest.raises(UserError, match=message):
        train(model, tokenizer, some, PreferenceConfig(method="dpo"), tmp_path / "out")
    monkeypatch.undo()
    other = PreferenceConfig(method="dpo", beta=0.3, max_steps=1)
    assert train(model, tokenizer, some, other, tmp_path / "out")["steps"] == 1


def test_what_an_adapter_does_not_do(file, stored, tmp_path, capsys):
    base = stored()
    run(file, "sft", base, tmp_path / "first", "--lora_r=2", "--max_steps=1")
    adapter = str(tmp_path / "first/model")
    for command in (
        ["train", "dpo", "--pairs", str(file), "--model", adapter, "--out", str(tmp_path / "x"), "--lora_r=2"],
        ["rounds", "--model", adapter], ["merge", str(base), str(tmp_path / "y")], ["merge", adapter, str(base)],
    ):  # fmt: skip
        assert main(command) == 2
    with pytest.raises(UserError, match="merge them first"):
        estimate(load_engine(adapter), [], ContrastConfig(), tmp_path / "z", samples=[])
