"""What a model and a tokenizer are, as short hashes: so that stored numbers are never taken for another's."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from transformers import PreTrainedModel


def weights_digest(model: PreTrainedModel) -> str:
    """A hash of what a model computes with: its class, configuration and all weights."""
    config = model.config.to_diff_dict()
    config.pop("transformers_version", None)
    digest = hashlib.blake2b(f"{type(model).__name__} {json.dumps(config, sort_keys=True, default=str)}".encode(),
                             digest_size=16)  # fmt: skip
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).cpu().numpy().data)
    return digest.hexdigest()


def vocabulary_digest(tokenizer: Any) -> str:
    """A hash of which text each token id stands for."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0]))
    return hashlib.blake2b(json.dumps(vocabulary).encode(), digest_size=16).hexdigest()
