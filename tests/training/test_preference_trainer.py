"""The trainer against the naive losses and against TRL: losses, gradients, metrics, and what must not matter."""

from __future__ import annotations

import copy
import dataclasses
import math

import datasets
import numpy as np
import pytest
import torch
from made_up_pairs import made_up_pairs
from naive import pair_loss
from peft import LoraConfig
from tiny_models import build_model, tiny_config
from torch.utils.data import SequentialSampler
from transformers import Gemma2Config, GPT2Config, GraniteConfig, LlamaConfig, MistralConfig
from trl import DPOConfig, DPOTrainer

from forkpoint.engines.local import logprobs
from forkpoint.losses.methods import METHODS
from forkpoint.pairs.pair_files import pair_row
from forkpoint.training import pair_batches, preference_trainer
from forkpoint.training.configs import PreferenceConfig
from forkpoint.training.dropout import without_dropout
from forkpoint.training.pair_batches import collate, row_length, shares_prompts
from forkpoint.training.preference_run import train
from forkpoint.training.preference_trainer import PreferenceTrainer
from forkpoint.training.reference_logprobs import cache_directory, with_reference
from forkpoint.types import UserError

SETTINGS = {
    "per_device_train_batch_size": 8, "use_cpu": True, "logging_steps": 1, "max_grad_norm": 0.0, "save_strategy": "no",
    "dataloader_pin_memory": False, "warmup_steps": 0, "learning_rate": 5e-5, "lr_scheduler_type": "linear",
}  # fmt: skip


def trainer_for(model, pairs, tmp_path, method="dpo", *, reference=None, beta=0.7, precompute=False, **more):
    """A trainer of the method; what is no setting goes to the trainer."""
    options = {name: more.pop(name) for name in ("peft_config", "processing_class", "eval_dataset") if name in more}
    settings = {"output_dir": str(tmp_path), "precompute_ref_log_probs": precompute, "beta": beta, "gamma": beta}
    args = PreferenceConfig(method=method, **(SETTINGS | settings | more))
    return PreferenceTrainer(model, args, pairs, ref_model=reference, **options)


def loss_and_gradients(trainer, pairs):
    """Those of one batch of all pairs, as the trainer computes them."""
    model = trainer.model
    model.zero_grad()
    batch = collate([trainer.train_dataset[i] for i in range(len(pairs))], trainer.shared)
    with without_dropout(model):
        loss = trainer.compute_loss(model, batch, num_items_in_batch=torch.tensor(float(len(pairs))))
        loss.backward()
    return float(loss.detach()), gradients(model)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def naive(method, model, reference, pairs, beta, alpha):
    """The mean loss and its gradients, one pair at a time."""
    model.zero_grad()
    losses = [pair_loss(method, model, reference, p, beta, alpha, [1 - w for w in p.rejected_weights]) for p in pairs]
    loss = torch.stack(losses).mean()
    loss.backward()
    return float(loss.detach()), gradients(model)


def assert_close(ours, theirs, tolerance=1e-5):
    """Losses and gradients, relative to the largest gradient of each parameter."""
    assert ours[0] == pytest.approx(theirs[0], abs=tolerance)
    for name, gradient in theirs[1].items():
        scale = max(1.0, float(gradient.abs().max()))
        assert float((ours[1][name] - gradient).abs().max()) <= tolerance * scale, name


@pytest.mark.parametrize("method", METHODS)
def test_every_loss_and_gradient_equals_the_naive_one(method, policy, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(logprobs, "BLOCK_ELEMENTS", 3 * 490)  # several blocks
    model, reference = policy
    alpha = {"rpo": 0.8, "tdpo2": 0.4}.get(method)
    if method == "fork-dpo":
        pairs = [dataclasses.replace(p, rejected_weights=p.rejected_weights[:1]) for p in pairs]
        pairs = [dataclasses.replace(p, chosen_ids=p.chosen_ids[:1], rejected_ids=p.rejected_ids[:1]) for p in pairs]
    expected = naive(method, model, reference, pairs, 0.7, alpha)
    trainer = trainer_for(model, pairs, tmp_path, method, reference=reference, alpha=alpha)
    assert trainer.shared
    assert_close(loss_and_gradients(trainer, pairs), expected)


CONFIGS = {
    "llama": (LlamaConfig, {}),
    "tied": (LlamaConfig, {"tie_word_embeddings": True, "attn_implementation": "eager"}),
    "gpt2": (GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4}),
    "dropout": (LlamaConfig, {"attention_dropout": 0.5}),
    "granite": (GraniteConfig, {"logits_scaling": 3.0}),
    "gemma2": (Gemma2Config, {"head_dim": 8, "num_key_value_heads": 2, "final_logit_softcapping": 4.0,
                              "sliding_window": 4}),
    "mistral": (MistralConfig, {"num_key_value_heads": 2, "sliding_window": 6}),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_other_architectures_too(name, tokenizer, pairs, tmp_path):
    cls, options = CONFIGS[name]
    model, reference = (build_model(tiny_config(tokenizer, cls, **options), seed).double() for seed in (1, 2))
    trainer = trainer_for(model.train(), pairs, tmp_path, "tdpo1", reference=reference)
    model.train()
    assert trainer.shared == (name not in ("gemma2", "mistral"))
    assert_close(loss_and_gradients(trainer, pairs), naive("tdpo1", model.eval(), reference, pairs, 0.7, 0.0))


def test_only_attention_that_takes_masks_is_tried(tokenizer, monkeypatch):
    """Another kernel may break the device; and memory that runs out is not a model that shares no prompts."""
    model = build_model(tiny_config(tokenizer))

    def failing(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(pair_batches, "logprobs_of", failing)
    with pytest.raises(torch.OutOfMemoryError):
        shares_prompts(model, 20)
    model.config._attn_implementation = "flash_attention_2"
    assert not shares_prompts(model, 20)


def test_a_run_tries_once_whether_prompts_are_shared(tokenizer, pairs, tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(preference_trainer, "shares_prompts", lambda model, longest: tried.append(longest) or True)
    model = build_model(tiny_config(tokenizer))
    train(model, tokenizer, pairs, PreferenceConfig(method="dpo", max_steps=1), tmp_path, eval_pairs=pairs[:2])
    assert tried == [max(map(row_length, pairs))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kl_where_a_model_gives_a_token_no_probability(dtype):
    """p log(p/q) is 0 where p is, infinite where q alone is; gradients are finite, and those of the rows without it."""
    torch.manual_seed(0)
    size, width = 12, 5
    weight, other = (torch.randn(size, width).to(dtype) for _ in range(2))
    masked, ours = torch.zeros(size).to(dtype), torch.zeros(size).to(dtype)
    masked[8:], ours[10:] = -math.inf, -math.inf  # both mask 10 and 11, the reference alone 8 and 9
    hidden = torch.randn(4, width).to(dtype).requires_grad_()
    reference_hidden, targets = torch.randn(4, width).to(dtype), torch.tensor([1, 3, 7, 0])
    head, frozen = (logprobs.Head(w, b, 1.0, None) for w, b in ((weight.requires_grad_(), ours), (other, masked)))
    _, kl, _ = logprobs.token_logprobs_and_kl(hidden, head, targets, reference_hidden, frozen)
    p = (reference_hidden.double() @ other.double().T + masked.double()).softmax(-1)[:, :8]
    wide = hidden.detach().double().requires_grad_()
    q = (wide @ weight.detach().double().T + ours.double()).log_softmax(-1)[:, :8]
    expected = (p * (p.log() - q)).sum(-1)
    torch.testing.assert_close(kl.double(), expected, rtol=1e-5, atol=1e-5)
    kl.sum().backward()
    expected.sum().backward()
    rounded = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.05}
    torch.testing.assert_close(hidden.grad.double(), wide.grad, **rounded)
    assert bool(weight.grad.isfinite().all())
    assert bool(logprobs.token_logprobs_and_kl(reference_hidden, frozen, targets, hidden, head)[1].isposinf().all())


def test_both_sides_are_weighted_in_critical_dpo(policy, pairs, tmp_path):
    """Chosen weights of 1 change no bit; with the sides exchanged, the margin changes its sign."""
    model, reference = policy

    def step(some):
        trainer = trainer_for(model, some, tmp_path, "critical-dpo", reference=reference)
        return *loss_and_gradients(trainer, some), float(trainer.sums["rewards/margins"][0][0])

    plain, ones, halves = step(pairs), *(step([chosen_weighted(p, w) for p in pairs]) for w in (1.0, 0.5))
    assert plain[0] == ones[0]
    assert all(torch.equal(gradient, ones[1][name]) for name, gradient in plain[1].items())
    exchanged = [
        dataclasses.replace(p, chosen_ids=p.rejected_ids, rejected_ids=p.chosen_ids, chosen_weights=p.rejected_weights,
                            rejected_weights=(0.5,) * len(p.chosen_ids)) for p in pairs
    ]  # fmt: skip
    assert step(exchanged)[2] == pytest.approx(-halves[2]) != pytest.approx(-plain[2])


def chosen_weighted(pair, weight):
    return dataclasses.replace(pair, chosen_weights=(weight,) * len(pair.chosen_ids))


def test_stored_reference_equals_the_one_at_hand(policy, pairs, tmp_path):
    model, reference = policy
    stored = trainer_for(model, pairs, tmp_path, reference=reference, precompute=True)
    assert stored.ref_model is None
    assert_close(loss_and_gradients(stored, pairs), naive("dpo", model, reference, pairs, 0.7, 0.0))


def test_reference_is_kept_under_data_and_model(policy, pairs, tmp_path, monkeypatch):
    model, reference = policy
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = with_reference(reference, pairs, batch_size=3, shared=True)
    (file,) = cache_directory().iterdir()
    monkeypatch.setattr("forkpoint.training.reference_logprobs._compute", None)  # would fail if called
    again = with_reference(reference, pairs, batch_size=8, shared=False)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.ref_chosen, b.ref_chosen)
    stretched = copy.deepcopy(reference)
    stretched.config.rms_norm_eps = 0.1
    for other in (
        (model, pairs), (reference, pairs[::-1]), (copy.deepcopy(reference).float(), pairs), (stretched, pairs),
    ):  # fmt: skip
        with pytest.raises(TypeError):
            with_reference(*other, batch_size=3, shared=True)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file.write_bytes(file.read_bytes()[:-4])
    restored = with_reference(reference, pairs, batch_size=3, shared=True)
    np.testing.assert_array_equal(restored[-1].ref_rejected, first[-1].ref_rejected)


def test_lora_takes_its_base_as_the_reference(policy, pairs, tmp_path):
    model, _ = policy
    base = copy.deepcopy(model)
    adapters = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    trainer = trainer_for(model, pairs, tmp_path, "tdpo1", peft_config=adapters, seed=3)
    assert trainer.ref_model is None
    trainer.model.double()
    ours, theirs = loss_and_gradients(trainer, pairs), naive("tdpo1", trainer.model, base, pairs, 0.7, 0.0)
    assert_close(ours, theirs)
    assert all("lora" in name for name in ours[1])


def test_data_sets_of_token_ids_or_of_text(policy, pairs, tokenizer, tmp_path):
    """The loss of the same pairs; text as TRL takes it."""
    model, reference = policy
    rows = [pair_row(p) | {"prompt": None, "chosen": None, "rejected": None} for p in pairs]
    data = datasets.Dataset.from_list([row for row in rows if row.pop("problem_id", None) is None])
    options = {"reference": reference, "processing_class": tokenizer}
    found = loss_and_gradients(trainer_for(model, data, tmp_path, "critical-dpo", **options), pairs)
    assert found[0] == loss_and_gradients(trainer_for(model, pairs, tmp_path, "critical-dpo", **options), pairs)[0]
    texts = datasets.Dataset.from_list([{"prompt": "2 + 2 =", "chosen": f" {n}", "rejected": " 5"} for n in (4, 3)])
    trainer = trainer_for(model, texts, tmp_path, eval_dataset=texts, max_steps=1, **options)
    ids = [*trainer.train_dataset[0].pair.prompt_ids, *trainer.train_dataset[0].pair.chosen_ids]
    assert tokenizer.decode(ids) == "2 + 2 = 4" + tokenizer.eos_token
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0
    for wrong in (texts, "pairs.jsonl"):
        with pytest.raises(UserError):
            trainer_for(model, wrong, tmp_path, reference=reference)


def test_a_loss_that_is_no_number_names_its_pair(policy, pairs, tmp_path):
    model, reference = policy
    broken = dataclasses.replace(pairs[3], rejected_weights=(math.nan,) * len(pairs[3].rejected_ids))
    trainer = trainer_for(model, [*pairs[:3], broken], tmp_path, "critical-dpo", reference=reference)
    with pytest.raises(UserError, match=r"the loss of pair 'p3' is nan at step 1"):
        trainer.train()


SHARED = (
    "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected",
)  # fmt: skip


class _AsGiven(DPOTrainer):
    """On rows of token ids, which it would refuse."""

    def _prepare_dataset(self, dataset, *_):
        return dataset


def trl_trainer(model, reference, pairs, tokenizer, tmp_path, **options):
    rows = [
        {"prompt_ids": list(p.prompt_ids), "chosen_ids": list(p.chosen_ids), "rejected_ids": list(p.rejected_ids)}
        for p in pairs
    ]
    settings = SETTINGS | {"beta": 0.7, "max_length": None, "report_to": "none", "disable_tqdm": True, "bf16": False}
    args = DPOConfig(str(tmp_path / "trl"), activation_checkpointing=False, **(settings | options))
    data = datasets.Dataset.from_list(rows)
    return _AsGiven(model=model, ref_model=reference, args=args, processing_class=tokenizer, train_dataset=data)


def test_the_same_20_steps_as_trls(tokenizer, tmp_path, monkeypatch):
    pairs = [dataclasses.replace(p, weight=1.0) for p in made_up_pairs(32, len(tokenizer), seed=4, longest=20)]
    model, reference = (build_model(tiny_config(tokenizer, initializer_range=0.1), seed).double() for seed in (1, 2))
    options = {"num_train_epochs": 5, "learning_rate": 1e-2, "optim": "adamw_torch", "lr_scheduler_type": "cosine"}
    histories = []
    for cls in (PreferenceTrainer, _AsGiven):
        monkeypatch.setattr(cls, "_get_train_sampler", lambda self, *_: SequentialSampler(self.train_dataset))
    ours = trainer_for(copy.deepcopy(model), pairs, tmp_path, reference=reference, **options)
    theirs = trl_trainer(copy.deepcopy(model), reference, pairs, tokenizer, tmp_path, **options)
    for trainer in (ours, theirs):
        trainer.train()
        histories.append([row for row in trainer.state.log_history if "loss" in row])
    assert len(histories[0]) == len(histories[1]) == 20
    for step, (a, b) in enumerate(zip(*histories, strict=True)):
        for name in ("loss", "grad_norm", "learning_rate", *SHARED):
            assert a[name] == pytest.approx(b[name], rel=1e-5, abs=1e-5), (step, name)
    assert histories[0][-1]["loss"] < histories[0][0]["loss"] - 0.05
