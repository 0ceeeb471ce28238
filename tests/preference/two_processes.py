"""Run by torchrun in two processes: one epoch of training on made-up pairs, each process with its half of a step."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from made_up_pairs import made_up_pairs
from test_trainer import trainer_for
from tiny_models import build_model, tiny_config
from transformers import AutoTokenizer

from forkpoint.lab import MODEL_DIR


def main() -> None:
    out = Path(sys.argv[1])
    state, history = trained(out, int(sys.argv[2]))
    if torch.distributed.get_rank() == 0:
        torch.save((state, history), out / "state.pt")


def trained(out, batch):
    """Weights and metrics after an epoch of two steps of 8 pairs, `batch` of them in each process."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    pairs = made_up_pairs(16, len(tokenizer), seed=5)
    config = tiny_config(tokenizer, num_key_value_heads=2)
    model, reference = (build_model(config, seed).double() for seed in (1, 2))
    trainer = trainer_for(
        model, pairs, out, "tdpo1", reference=reference, per_device_train_batch_size=batch, num_train_epochs=1,
        learning_rate=1e-2, optim="sgd", train_sampling_strategy="group_by_length",
    )  # fmt: skip
    trainer.train()
    return model.state_dict(), [row for row in trainer.state.log_history if "loss" in row]


if __name__ == "__main__":
    main()
