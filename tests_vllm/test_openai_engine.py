"""The openai engine against a real server of vLLM on its CPU build: the contract of engines, and what is its own."""

from __future__ import annotations

import pytest
from engine_contract import EngineContract

from forkpoint.engines import Engine
from forkpoint.engines.remote.openai_calls import CompletionsServer
from forkpoint.engines.remote.openai_engine import OpenAIEngine, load_openai
from forkpoint.types import UserError


@pytest.fixture(scope="module")
def engine(server: str) -> OpenAIEngine:
    return load_openai("lab", server, concurrency=32)


class TestVllmServer(EngineContract):
    """With `engine`."""


def test_the_probe_learns_what_the_server_can_do(engine: OpenAIEngine, lab: Engine) -> None:
    assert engine.most_top == lab.vocab_size
    assert (engine.settings["server"], engine.settings["served_model"]) == ("vllm", "lab")
    assert str(engine.settings["version"])[0].isdigit()


def test_what_the_server_refuses_comes_in_its_words(engine: OpenAIEngine, server: str) -> None:
    with pytest.raises(UserError, match=r"refuses a request: .*allowed_token_ids"):
        CompletionsServer(server, "lab", "").complete({"prompt": [5], "max_tokens": 1, "allowed_token_ids": [10**6]})
    with pytest.raises(UserError, match="has no model /else; its models are: lab"):
        load_openai("lab", server, served_model="/else")
