"""Shared fixtures: tiny models, the lab's tokenizer and the lab model. Nothing here needs a network."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads decide a sum's last bits, and are slow on a busy machine

import pytest
from tiny_models import build_model, tiny_config
from transformers import AutoTokenizer

from forkpoint.engines import Engine, load_engine
from forkpoint.lab import MODEL_DIR


@pytest.fixture(scope="session")
def lab() -> Engine:
    """The embedded model."""
    return load_engine("lab")


@pytest.fixture(scope="session")
def tokenizer():
    """The lab's tokenizer, which fits any tiny model made by `tiny_model`."""
    return AutoTokenizer.from_pretrained(MODEL_DIR)


@pytest.fixture(scope="session")
def tiny(tokenizer) -> Engine:
    """A randomly initialised Llama as an engine."""
    return load_engine(build_model(tiny_config(tokenizer, num_key_value_heads=2)), tokenizer)
