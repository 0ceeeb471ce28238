"""Made-up pairs and tiny models in float64."""

from __future__ import annotations

import random

import pytest
from tiny_models import build_model, tiny_config

from forkpoint.preference.pair import Pair


def made_up_pairs(n, vocabulary, seed=0, longest=9):
    """Pairs of random tokens, of many lengths, with weights on the rejected tokens."""
    rng = random.Random(seed)

    def ids(least):
        return tuple(rng.randrange(2, vocabulary) for _ in range(rng.randint(least, longest)))

    found = []
    for i in range(n):
        rejected = ids(1)
        weights = tuple(rng.choice([0.0, 1.0, rng.random()]) for _ in rejected)
        found.append(Pair(f"p{i}", ids(1), ids(1), rejected, "", "", "", weights, rng.random()))
    return found


@pytest.fixture
def pairs(tokenizer):
    """Eight pairs."""
    return made_up_pairs(8, len(tokenizer))


@pytest.fixture
def policy(tokenizer):
    """A model in float64, and another one with the same shape as its reference."""
    config = tiny_config(tokenizer, num_key_value_heads=2)
    return build_model(config, seed=1).double(), build_model(config, seed=2).double()
