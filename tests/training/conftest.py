"""Made-up pairs and tiny models in float64."""

from __future__ import annotations

import pytest
from made_up_pairs import made_up_pairs
from tiny_models import build_model, tiny_config


@pytest.fixture
def pairs(tokenizer):
    """Eight pairs."""
    return made_up_pairs(8, len(tokenizer))


@pytest.fixture
def policy(tokenizer):
    """A model in float64, and another one with the same shape as its reference."""
    config = tiny_config(tokenizer, num_key_value_heads=2)
    return build_model(config, seed=1).double(), build_model(config, seed=2).double()
