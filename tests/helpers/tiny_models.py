"""Randomly initialised models small enough to build in every test."""

from __future__ import annotations

import torch
import transformers as tf
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


GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
CAPPED = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 10.0}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = {"kv_lora_rank": 16, "q_lora_rank": None, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16,
          "first_k_dense_replace": 2}  # fmt: skip
SHARING = {  # families whose attention a trunk shares: configuration and options
    "llama": (LlamaConfig, {"num_key_value_heads": 2}),
    "qwen3": (tf.Qwen3Config, GROUPED),
    "mistral": (tf.MistralConfig, {"num_key_value_heads": 2, "sliding_window": 8}),
    "gemma2": (tf.Gemma2Config, GROUPED | CAPPED | {"sliding_window": 8}),
    "gpt-neox": (tf.GPTNeoXConfig, {}),
    "phi": (tf.PhiConfig, {}),
    "gpt2": (tf.GPT2Config, {}),
    "gpt-oss": (tf.GptOssConfig, GROUPED | EXPERTS | {"sliding_window": 8}),
}
PLAIN = {  # families that are decoded in plain batches
    "bloom": (tf.BloomConfig, {}),
    "mamba": (tf.MambaConfig, {"state_size": 8, "initializer_range": 0.1}),
    "phimoe": (tf.PhimoeConfig, {"num_key_value_heads": 2, "sliding_window": 8, "num_local_experts": 4}),
}
FAMILIES = SHARING | PLAIN | {"deepseek": (tf.DeepseekV3Config, LATENT | {"num_key_value_heads": 4})}


def family_config(family: str, tokenizer, **options):
    """A tiny configuration of one of the `FAMILIES`."""
    cls, own = FAMILIES[family]
    return tiny_config(tokenizer, cls, **(own | options))
