"""Randomly initialised models small enough to build in every test."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel


def tiny_config(tokenizer, cls=LlamaConfig, **options):
    """A configuration of a few thousand parameters whose logits are far from uniform."""
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "initializer_range": 0.4,
    }
    return cls(**(sizes | options))


def build_model(config, seed: int = 0) -> PreTrainedModel:
    """A randomly initialised model of a configuration, the same for the same seed."""
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config).eval()
