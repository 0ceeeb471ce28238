"""Tiny models as GGUF files, written tensor by tensor with llama.cpp's own package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf

KEYS = {  # of the file, after the architecture's name, by the configuration's
    "add_block_count": "num_hidden_layers",
    "add_context_length": "max_position_embeddings",
    "add_embedding_length": "hidden_size",
    "add_feed_forward_length": "intermediate_size",
    "add_head_count": "num_attention_heads",
    "add_head_count_kv": "num_key_value_heads",
    "add_layer_norm_rms_eps": "rms_norm_eps",
}


def write_gguf(model: Any, tokenizer: Any, path: Path, architecture: str) -> None:
    """A model whose file has float32 tensors; the tokenizer is byte-level BPE."""
    writer = gguf.GGUFWriter(path, architecture)
    for method, name in KEYS.items():
        getattr(writer, method)(getattr(model.config, name))
    writer.add_rope_freq_base(model.config.rope_parameters["rope_theta"])
    bpe = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    special = set(tokenizer.all_special_ids)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL for i in range(len(tokens))]
    )
    writer.add_token_merges([" ".join(merge) for merge in bpe["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], model.config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight" or not model.config.tie_word_embeddings:
            stem, _, kind = name.rpartition(".")
            writer.add_tensor(f"{names.get_name(stem)}.{kind}", tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
