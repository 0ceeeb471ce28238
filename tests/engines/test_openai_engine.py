"""The openai engine against a server that answers exactly, fails as told, or lacks what real ones may."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
from completions_server import Behaviour, CompletionsServer
from engine_contract import GREEDY, EngineContract, requests

from forkpoint.cli import main
from forkpoint.engines import Engine, load_engine
from forkpoint.engines.remote.openai_answers import PLAIN
from forkpoint.engines.remote.openai_calls import RETRIES, ServerError
from forkpoint.engines.remote.openai_engine import OpenAIEngine, load_openai
from forkpoint.engines.remote.served import request_seed
from forkpoint.types import Request, Sampling, UserError


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.02)


@pytest.fixture(scope="module")
def served() -> Engine:
    """The server's own engine, of the lab model."""
    return load_engine("lab")


@pytest.fixture(scope="module")
def server(served: Engine) -> Iterator[CompletionsServer]:
    with CompletionsServer(served) as server:
        yield server


@pytest.fixture(scope="module")
def engine(server: CompletionsServer) -> OpenAIEngine:
    return load_openai("lab", server.url, concurrency=4)


@pytest.fixture
def behaviour(server: CompletionsServer) -> Iterator[Behaviour]:
    """What the server does, for one test."""
    server.does = Behaviour()
    server.seen.clear()
    yield server.does
    server.does = Behaviour()


class TestContract(EngineContract):
    """With `engine`. What takes thousands of requests is tested against vLLM."""

    CLOSE = 2e-5  # float32 products of other batches; 1.2e-5 on some CPUs
    EXACT = True
    test_samples_follow_the_policy = None
    test_critical_tokens_agree_with_transformers = None


def test_what_the_server_says_is_what_comes_out(engine: OpenAIEngine, lab: Engine) -> None:
    sampling = Sampling(temperature=0.8, top_p=0.9, top_k=20, max_tokens=30, seed=5)
    for done in engine.generate(asked := requests(lab, 5, "cot"), sampling):
        request = next(r for r in asked if r.key == done.key)
        drawn = Request(str(request_seed(sampling, request.key)), request.prefix)
        (same,) = lab.generate([drawn], Sampling(temperature=0.8, top_p=0.9, top_k=20, max_tokens=30))
        assert (done.token_ids, done.text, done.finish_reason) == (same.token_ids, same.text, same.finish_reason)
        np.testing.assert_allclose(done.logprobs, same.logprobs, atol=1e-5)


def test_every_value_of_the_policy_is_said(engine: OpenAIEngine, server, behaviour) -> None:
    """Servers have defaults of their own for what is left out."""
    list(engine.generate(requests(engine, 1), Sampling(top_k=7, max_tokens=3, stop=("zz",))))
    ((body, _),) = server.seen
    assert {name: body[name] for name in PLAIN} == {**PLAIN, "top_k": 7}
    assert body["stop_token_ids"] == list(engine.ends)
    assert body["stop"] == ["zz"]
    assert 0 <= body["seed"] < 2**63
    assert "vllm_xargs" not in body


def test_the_first_row_alone_costs_no_echo(engine: OpenAIEngine, server, behaviour) -> None:
    prefix = requests(engine, 1)[0].prefix
    list(engine.score([prefix], starts=[len(prefix)]))
    list(engine.score([prefix], starts=[len(prefix) - 1]))
    assert ["echo" in body for body, _ in server.seen] == [False, True]


# Failures


def test_retry_after_is_honoured(engine: OpenAIEngine, server, behaviour) -> None:
    behaviour.faults = [(429, {"Retry-After": "1"})]
    assert len(list(engine.generate(requests(engine, 1), GREEDY))) == 1
    (_, first), (_, second) = server.seen
    assert 1.0 <= second - first < 3.0


@pytest.mark.parametrize("faults", [[(500, {}), (500, {})], ["drop"], [(408, {}), (503, {}), "drop", (409, {})]])
def test_what_passes_is_asked_again(engine: OpenAIEngine, lab: Engine, server, behaviour, faults) -> None:
    behaviour.faults = list(faults)
    (one,) = engine.generate(requests(engine, 1), GREEDY)
    assert one.token_ids == next(lab.generate(requests(lab, 1), GREEDY)).token_ids
    assert len(server.seen) == len(faults) + 1
    assert len({str(body) for body, _ in server.seen}) == 1


def test_a_server_that_stays_down_ends_the_run(engine: OpenAIEngine, server, behaviour) -> None:
    behaviour.faults = [(503, {})] * 100
    with pytest.raises(ServerError, match=r"fails, however often it is asked: out of order \(503\)"):
        list(engine.generate(requests(engine, 1), GREEDY))
    assert len(server.seen) == RETRIES + 1


def test_a_pause_of_many_minutes_is_not_waited_for(engine: OpenAIEngine, server, behaviour) -> None:
    behaviour.faults = [(429, {"Retry-After": "600"})]
    with pytest.raises(ServerError, match="asks to come back after 600 seconds"):
        list(engine.generate(requests(engine, 1), GREEDY))
    assert len(server.seen) == 1


def test_a_wrong_request_is_asked_once(engine: OpenAIEngine, server, behaviour) -> None:
    behaviour.faults = [(422, {})]
    with pytest.raises(UserError, match=r"refuses a request: out of order \(422\)"):
        list(engine.generate(requests(engine, 1), GREEDY))
    assert len(server.seen) == 1


@pytest.mark.parametrize(("reason", "says"), [
    ("abort", "ended problem 0 with 'abort', not as a response"),
    ("content_filter", "ended problem 0 with 'content_filter'"),
    ("length", r"broke problem 0 off after \d+ of 80 tokens"),
])  # fmt: skip
def test_a_broken_off_response_is_none(engine: OpenAIEngine, behaviour, reason: str, says: str) -> None:
    behaviour.reason = reason
    with pytest.raises(ServerError, match=says):
        list(engine.generate(requests(engine, 1), GREEDY))


# How many at a time


def test_no_more_than_concurrency_are_in_flight(engine: OpenAIEngine, server, behaviour) -> None:
    behaviour.delay = 0.03
    server.most_in_flight = 0
    asked = [Request(str(i), (5, 6)) for i in range(20)]
    assert len(list(engine.generate(asked, Sampling(max_tokens=1)))) == 20
    assert server.most_in_flight == 4


def test_what_is_in_flight_is_dropped_with_the_iterator(engine: OpenAIEngine, server, behaviour) -> None:
    behaviour.delay = 0.1
    completions = engine.generate([Request(str(i), (5, 6)) for i in range(50)], Sampling(max_tokens=1))
    next(completions)
    completions.close()  # type: ignore[attr-defined]
    time.sleep(0.3)
    assert len(server.seen) <= 8
    assert server.in_flight == 0


# What a server may lack


@pytest.mark.parametrize(("lacks", "says"), [
    ({"takes_ids": False}, "takes no token ids as prompt; vLLM does"),
    ({"gives_ids": False}, r"does not return token ids \(return_tokens_as_token_ids\)"),
    ({"gives_logprobs": False}, r"gives no log-probabilities of completions \(logprobs\)"),
    ({"added": 1}, r"read \d+ tokens where \d+ token ids were sent"),
    ({"ends_at": False}, r"does not end a response with the token that was to end it \(stop_token_ids\)"),
    ({"raw": False}, "gives log-probabilities after the temperature, but those before it are needed"),
    ({"key": "secret"}, r"does not accept the key in OPENAI_API_KEY \(401\)"),
    ({"faults": [(503, {})] * 9}, r"fails, however often it is asked: out of order \(503\)"),
])  # fmt: skip
def test_what_a_server_cannot_do_is_said_at_once(server, behaviour, monkeypatch, lacks, says: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "another-key")
    server.does = Behaviour(**lacks)
    with pytest.raises(UserError, match=says) as told:
        load_openai("lab", server.url)
    assert "another-key" not in str(told.value)
    assert server.url in str(told.value)
    assert "\n" not in str(told.value)


def test_the_key_comes_from_the_environment(server, behaviour, monkeypatch) -> None:
    behaviour.key = "secret"
    monkeypatch.setenv("OPENAI_API_KEY", "secret\n")  # as from a file
    engine = load_openai("lab", server.url)
    assert len(list(engine.generate(requests(engine, 1), GREEDY))) == 1
    assert "secret" not in str(engine.settings)


@pytest.mark.parametrize("key", ["se\ncret", "gehéim"])
def test_what_is_no_key_is_not_sent_nor_printed(server, monkeypatch, key: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match=r"OPENAI_API_KEY holds characters that no key has$"):
        load_openai("lab", server.url)


def test_a_server_that_cannot_echo_still_generates(server, behaviour) -> None:
    for behaviour.echoes, says in ((False, "it does not echo"), (None, "it refuses echo with logprobs: echo is not")):
        engine = load_openai("lab", server.url)
        assert len(list(engine.generate(requests(engine, 2), GREEDY))) == 2
        assert len(list(engine.score([(5, 6)], starts=[2]))) == 1
        with pytest.raises(UserError, match=says):
            engine.score([(5, 6)])


def test_few_named_tokens(server, behaviour, lab: Engine) -> None:
    behaviour.most_logprobs = 20
    engine = load_openai("lab", server.url)
    assert engine.most_top == engine.settings["most_top"] == 20
    with pytest.raises(UserError, match="21 top tokens were asked for"):
        engine.score([(5, 6, 7)], top=21)
    with pytest.raises(UserError, match="top_n_sigma depend on all 490 tokens, of which lab names at most 20"):
        engine.score([(5, 6, 7)], sampling=Sampling(top_n_sigma=1.0))
    sequence = (*requests(lab, 1)[0].prefix, 400, 401)  # two unlikely tokens, which are none of the 20
    sampling = Sampling(top_k=10)
    ((mine,), (exact,)) = (e.score([sequence], top=20, sampling=sampling) for e in (engine, lab))
    for name in ("logprobs", "gaps", "policy", "top_logprobs", "top_policy"):
        np.testing.assert_allclose(getattr(mine, name), getattr(exact, name), atol=1e-5, err_msg=name)
    assert (mine.entropy[1:] >= exact.entropy[1:] - 1e-5).all()


def test_top_n_sigma_needs_the_plugin(engine: OpenAIEngine, server, behaviour, lab: Engine) -> None:
    sampling = Sampling(temperature=2.0, top_n_sigma=1.0, max_tokens=5)
    behaviour.plugin = False
    with pytest.raises(UserError, match="does not know top_n_sigma; it must be vLLM with forkpoint installed"):
        engine.generate(requests(lab, 1), sampling)
    behaviour.plugin = True
    server.seen.clear()
    assert len(list(engine.generate(requests(lab, 2), sampling))) == 2
    assert [body["vllm_xargs"]["top_n_sigma"] for body, _ in server.seen] == ["nonsense", 1.0, 1.0]
    greedy = Sampling(temperature=0.0, top_n_sigma=1.0, max_tokens=5)
    list(engine.generate(requests(lab, 1), greedy))
    assert "vllm_xargs" not in server.seen[-1][0]


def test_an_unknown_model_is_told_what_there_is(server) -> None:
    with pytest.raises(UserError, match="has no model other; its models are: lab"):
        load_openai("lab", server.url, served_model="other")


def test_a_wrong_address_is_told(server, behaviour) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match=f"http://127.0.0.1:{port}/v1 does not answer"):
        load_openai("lab", f"http://127.0.0.1:{port}/v1")
    with pytest.raises(UserError, match=r"there is no list of models at .*; a server's address mostly ends in /v1"):
        load_openai("lab", server.url.removesuffix("/v1"))
    with pytest.raises(UserError, match="starts with http:// or https://, but is localhost:8000"):
        load_openai("lab", "localhost:8000")
    with pytest.raises(UserError, match="concurrency must be at least 1, but is 0"):
        load_openai("lab", server.url, concurrency=0)


def test_beam_search_is_refused(engine: OpenAIEngine) -> None:
    with pytest.raises(UserError, match="--engine transformers"):
        engine.beam_search(requests(engine, 1), 4, GREEDY)


# From the command line


@pytest.mark.slow
def test_an_evaluation_killed_and_begun_again_ends_in_the_same_bytes(served: Engine, tmp_path, capsys) -> None:
    """Once the server dies, once the client; the last run finds the server at another address."""

    def arguments(server: CompletionsServer, out: str) -> list[str]:
        strategies = ("greedy", "sample:temperature=1,n=2", "cot-decoding:k=3")
        flags = [word for s in strategies for word in ("--strategy", s)]
        return ["eval", "--engine", "openai", "--base-url", server.url, "--limit", "6", "--max-tokens", "50", *flags,
                "--out", str(tmp_path / out)]  # fmt: skip

    with CompletionsServer(served) as server, CompletionsServer(served) as other:
        assert main(arguments(server, "whole")) == 0
        whole = len(server.seen)
        server.does.fails_after = whole + whole // 2
        assert main(arguments(server, "begun")) == 1
        assert "however often it is asked" in capsys.readouterr().err
        assert (tmp_path / "begun/journal.jsonl").exists()
        server.does = Behaviour(delay=0.02)
        before = len(server.seen)
        process = subprocess.Popen([sys.executable, "-m", "forkpoint", *arguments(server, "begun")])
        while len(server.seen) < before + 12:
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert main(arguments(other, "begun")) == 0
        assert 0 < len(other.seen) < whole
    samples = [(tmp_path / out / "samples.jsonl").read_bytes() for out in ("whole", "begun")]
    assert samples[0] == samples[1]
