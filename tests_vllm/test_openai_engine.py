"""The openai engine against a real server of vLLM on its CPU build: the contract of engines, and what is its own."""

from __future__ import annotations

import pytest
from engine_contract import EngineContract, requests

from forkpoint.engines import Engine
from forkpoint.engines.remote.openai_engine import OpenAIEngine, load_openai
from forkpoint.types import Request, Sampling, UserError


@pytest.fixture(scope="module")
def engine(server: str) -> OpenAIEngine:
    return load_openai("lab", server, concurrency=32)


class TestVllmServer(EngineContract):
    """With `engine`."""


def test_it_finds_out_what_the_server_can_do(engine: OpenAIEngine, lab: Engine) -> None:
    assert engine.most_top == lab.vocab_size
    assert engine.settings["server"] == "vllm"
    assert str(engine.settings["version"])[0].isdigit()
    assert engine.settings["served_model"] == "lab"


def test_greedy_through_the_server_is_the_same_for_20_problems(engine: OpenAIEngine, lab: Engine) -> None:
    sampling = Sampling(temperature=0.0, max_tokens=80)
    mine, theirs = ({c.key: c.token_ids for c in e.generate(requests(lab, 20, "cot"), sampling)} for e in (engine, lab))
    assert mine == theirs


def test_a_model_that_is_not_there(server: str) -> None:
    with pytest.raises(UserError, match="has no model /else; its models are: lab"):
        load_openai("lab", server, served_model="/else")


def test_what_the_server_refuses_later_is_said_in_its_words(engine: OpenAIEngine) -> None:
    with pytest.raises(UserError, match=r"refuses a request: .*allowed_token_ids"):
        engine._server.complete({"prompt": [5], "max_tokens": 1, "allowed_token_ids": [10**6]})


def test_beam_search_is_refused(engine: OpenAIEngine) -> None:
    with pytest.raises(UserError, match="--engine transformers"):
        engine.beam_search([Request("a", (5, 6))], 4, Sampling())
