"""A model lent to libraries that change it: it is itself again afterwards."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedModel


@contextmanager
def lent(model: PreTrainedModel, tokenizer: Any = None) -> Iterator[None]:
    """Take back, at the end, whatever PEFT and TRL leave on a model and its tokenizer."""
    settings = [(owner, copy.deepcopy(vars(owner))) for owner in (model.config, model.generation_config)]
    attributes = set(vars(model))
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    pad = None if tokenizer is None else tokenizer.pad_token
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # among TRL, PEFT and transformers
            yield
    finally:
        for name in set(vars(model)) - attributes:
            delattr(model, name)
        for owner, values in settings:
            vars(owner).clear()
            vars(owner).update(values)
        for parameter, wanted in trainable:
            parameter.requires_grad_(wanted)
            parameter.grad = None
        if tokenizer is not None:
            tokenizer.pad_token = pad
        model.eval()
