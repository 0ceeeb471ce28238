"""DPO beside TRL's own trainer: loss, gradients, metrics of a batch, and the loss over 20 steps."""

from __future__ import annotations

import copy
from dataclasses import replace

import datasets
import pytest
import torch
from made_up_pairs import made_up_pairs
from test_preference_trainer import assert_close, loss_and_gradients, trainer_for
from tiny_models import build_model, tiny_config
from torch.utils.data import SequentialSampler
from trl import DPOConfig, DPOTrainer

from forkpoint.training.preference_trainer import PreferenceTrainer

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
    settings = {
        "output_dir": str(tmp_path / "trl"), "per_device_train_batch_size": 8, "beta": 0.7, "max_length": None,
        "use_cpu": True, "report_to": "none", "disable_tqdm": True, "logging_steps": 1, "max_grad_norm": 0.0,
        "save_strategy": "no", "dataloader_pin_memory": False, "activation_checkpointing": False, "bf16": False,
    }  # fmt: skip
    return _AsGiven(
        model=model, ref_model=reference, args=DPOConfig(**(settings | options)), processing_class=tokenizer,
        train_dataset=datasets.Dataset.from_list(rows),
    )  # fmt: skip


def test_loss_gradients_and_metrics_of_a_batch(policy, pairs, tokenizer, tmp_path):
    pairs = [replace(p, weight=1.0) for p in pairs]  # TRL has none
    model, reference = policy
    ours = trainer_for(copy.deepcopy(model), pairs, tmp_path, reference=reference)
    found = loss_and_gradients(ours, pairs)
    theirs = trl_trainer(model, reference, pairs, tokenizer, tmp_path)
    theirs.model.train()
    batch = theirs.data_collator([theirs.train_dataset[i] for i in range(len(pairs))])
    loss = theirs.compute_loss(theirs.model, batch)
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in theirs.model.named_parameters()}
    assert_close(found, (float(loss.detach()), gradients))
    for name in SHARED:
        total, count = torch.stack(ours.sums[name]).sum(0).tolist()
        (expected,) = theirs._metrics["train"][name]
        assert total / count == pytest.approx(expected, abs=1e-5), name


def test_the_same_loss_over_20_steps(tokenizer, tmp_path, monkeypatch):
    pairs = [replace(p, weight=1.0) for p in made_up_pairs(32, len(tokenizer), seed=4, longest=20)]
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
