"""Dropout is off while preferences are trained, wherever an architecture keeps it, and as it was afterwards."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
from made_up_pairs import made_up_pairs
from test_preference_trainer import trainer_for
from tiny_models import build_model
from transformers import CONFIG_MAPPING, GPT2Config

from forkpoint.training.dropout import WORDS, check_without_dropout, draws
from forkpoint.types import UserError

VOCAB = 64
SIZES = {
    "vocab_size": VOCAB, "hidden_size": 32, "d_model": 32, "n_embd": 32, "intermediate_size": 48, "ffn_dim": 48,
    "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2, "num_attention_heads": 4, "n_head": 4,
    "n_heads": 4, "num_heads": 4, "attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "n_positions": 64, "n_ctx": 64, "max_seq_len": 64, "rotary_dim": 8, "word_embed_proj_dim": 32, "num_experts": 4,
    "num_local_experts": 4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "initializer_range": 0.2,
}  # fmt: skip
OTHERS: dict[str, dict[str, Any]] = {
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
}
ARCHITECTURES = (
    "gpt2", "opt", "gpt_neox", "gpt_neo", "phi", "phi3", "bloom", "falcon", "gptj", "llama", "qwen2", "qwen3", "gemma",
    "gemma2", "mistral", "mixtral", "stablelm", "cohere", "codegen", "biogpt", "xglm", "persimmon", "olmo",
    "starcoder2", "gpt_bigcode", "granite", "ctrl",
)  # fmt: skip


def config_with_dropout(name: str) -> Any:
    """A tiny configuration in which every dropout, and every layer's, is 0.3."""
    cls = CONFIG_MAPPING[name]
    default = cls()
    known = {key: value for key, value in SIZES.items() if hasattr(default, key)}
    ours = {
        key: 0.3
        for key, value in default.to_dict().items()
        if any(word in key for word in WORDS) and type(value) in (int, float)
    }
    return cls(**(known | ours | OTHERS.get(name, {})))


def probabilities(model: torch.nn.Module) -> dict[str, float]:
    """Everything in modules and configurations that may be one, by name."""
    found = {}
    for path, module in model.named_modules():
        for owner in (module, vars(module).get("config")):
            for name, value in vars(owner).items() if owner is not None else ():
                if isinstance(value, float):
                    found[f"{path}/{type(owner).__name__}/{name}"] = value
    return found


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_first_loss_is_ln_2_and_dropout_is_back_afterwards(name, tmp_path):
    model = build_model(config_with_dropout(name), seed=1)
    pairs = [dataclasses.replace(pair, weight=1.0) for pair in made_up_pairs(6, VOCAB, seed=3)]
    before, ids = probabilities(model), torch.arange(2, 40)[None]
    assert 0.3 in before.values()
    assert draws(model)
    trainer = trainer_for(model, pairs, tmp_path, precompute=True, max_steps=1, learning_rate=0.0)
    trainer.train()
    (row,) = [row for row in trainer.state.log_history if "loss" in row]
    assert row["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert probabilities(model) == before
    with torch.no_grad():
        once, again = (model.train()(input_ids=ids, use_cache=False).logits for _ in range(2))
    assert not torch.equal(once, again)


def test_a_checkpoint_keeps_the_configuration(tmp_path):
    """Also where layers read their dropout from it."""
    model = build_model(config_with_dropout("falcon"), seed=1)
    pairs = made_up_pairs(4, VOCAB, seed=3)
    reference = copy.deepcopy(model)
    trainer = trainer_for(model, pairs, tmp_path, reference=reference, max_steps=1, save_strategy="steps", save_steps=1)
    trainer.train()
    saved = type(model.config).from_pretrained(tmp_path / "checkpoint-1")
    assert (saved.hidden_dropout, saved.attention_dropout) == (0.3, 0.3)


def test_randomness_that_is_no_setting_is_refused(tmp_path):
    model = build_model(GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1))
    check_without_dropout(model)
    forward = model.transformer.h[0].mlp.forward
    model.transformer.h[0].mlp.forward = lambda x: forward(x) * (1 + torch.rand(1) * model.training)
    with pytest.raises(UserError, match="GPT2LMHeadModel draws random numbers in training that no setting"):
        trainer_for(model, made_up_pairs(2, VOCAB), tmp_path, reference=copy.deepcopy(model))
