"""The openai engine against a server that answers exactly, fails as asked, or lacks what real ones may."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import numpy as np
import pytest
from completions_server import Behaviour, CompletionsServer
from engine_contract import GREEDY, EngineContract, assert_same, requests

from forkpoint.cli import main
from forkpoint.engines import Engine, load_engine
from forkpoint.engines.remote.openai_calls import RETRIES, ServerError
from forkpoint.engines.remote.openai_engine import OpenAIEngine, load_openai
from forkpoint.engines.remote.openai_protocol import PLAIN
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


def greedy(engine: Engine, n: int = 1) -> list[tuple[int, ...]]:
    return [c.token_ids for c in engine.generate(requests(engine, n), GREEDY)]


class TestContract(EngineContract):
    """With `engine`. What takes thousands of requests is tested against vLLM."""

    CLOSE = 2e-5  # float32 products of other batches; 1.2e-5 on some CPUs
    EXACT = True
    test_samples_follow_the_policy = None
    test_critical_tokens_agree_with_transformers = None


def test_completions_are_those_of_the_server(engine: OpenAIEngine, lab: Engine) -> None:
    policy = {"temperature": 0.8, "top_p": 0.9, "top_k": 20, "max_tokens": 30}
    sampling = Sampling(**policy, seed=5)
    asked = {r.key: r for r in requests(lab, 5, "cot")}
    for done in engine.generate(list(asked.values()), sampling):
        drawn = Request(str(request_seed(sampling, done.key)), asked[done.key].prefix)
        (same,) = lab.generate([drawn], Sampling(**policy))
        assert_same(done, same)
        np.testing.assert_allclose(done.logprobs, same.logprobs, atol=1e-5)


def test_what_is_asked(engine: OpenAIEngine, server, behaviour) -> None:
    """Every value of the policy: servers have defaults of their own. The first row alone costs no echo."""
    (request,) = requests(engine, 1)
    list(engine.generate([request], Sampling(top_k=7, max_tokens=3, stop=("zz",))))
    for start in (len(request.prefix), len(request.prefix) - 1):
        list(engine.score([request.prefix], starts=[start]))
    body, first_row, two_rows = (body for body, _ in server.seen)
    assert {name: body[name] for name in PLAIN} == {**PLAIN, "top_k": 7}
    assert (body["stop_token_ids"], body["stop"]) == (list(engine.ends), ["zz"])
    assert 0 <= body["seed"] < 2**63
    assert "vllm_xargs" not in body
    assert ["echo" in one for one in (first_row, two_rows)] == [False, True]


@pytest.mark.parametrize("faults", [[(500, {}), (500, {})], ["drop"], [(408, {}), (503, {}), "drop", (409, {})]])
def test_what_passes_is_asked_again(engine: OpenAIEngine, lab: Engine, server, behaviour, faults) -> None:
    behaviour.faults = list(faults)
    assert greedy(engine) == greedy(lab)
    assert len(server.seen) == len(faults) + 1
    assert len({str(body) for body, _ in server.seen}) == 1


def test_retry_after_is_honoured(engine, server, behaviour):
    behaviour.faults = [(429, {"Retry-After": "1"})]
    assert len(greedy(engine)) == 1
    (_, first), (_, second) = server.seen
    assert 1.0 <= second - first < 3.0


@pytest.mark.parametrize(("faults", "error", "words", "attempts"), [
    ([(503, {})] * 100, ServerError, r"fails, however often it is asked: out of order \(503\)", RETRIES + 1),
    ([(429, {"Retry-After": "600"})], ServerError, "asks to come back after 600 seconds", 1),
    ([(422, {})], UserError, r"refuses a request: out of order \(422\)", 1),
])  # fmt: skip
def test_what_stays_ends_the_run(engine: OpenAIEngine, server, behaviour, faults, error, words, attempts) -> None:
    behaviour.faults = list(faults)
    with pytest.raises(error, match=words):
        greedy(engine)
    assert len(server.seen) == attempts


@pytest.mark.parametrize(("reason", "words"), [
    ("abort", "ended problem 0 with 'abort', not as a response"),
    ("length", r"broke problem 0 off after \d+ of 80 tokens"),
])  # fmt: skip
def test_a_broken_off_response_is_none(engine: OpenAIEngine, behaviour, reason: str, words: str) -> None:
    behaviour.reason = reason
    with pytest.raises(ServerError, match=words):
        greedy(engine)


def test_how_many_are_in_flight(engine: OpenAIEngine, server, behaviour) -> None:
    """No more than `concurrency`, and none once the iterator is dropped."""
    behaviour.delay, server.most_in_flight = 0.03, 0
    asked = [Request(str(i), (5, 6)) for i in range(50)]
    assert len(list(engine.generate(asked[:20], Sampling(max_tokens=1)))) == 20
    assert server.most_in_flight == 4
    server.seen.clear()
    completions = engine.generate(asked, Sampling(max_tokens=1))
    next(completions)
    completions.close()  # type: ignore[attr-defined]
    time.sleep(0.3)
    assert len(server.seen) <= 8
    assert server.in_flight == 0


@pytest.mark.parametrize(("lacks", "words"), [
    ({"takes_ids": False}, "takes no token ids as prompt; vLLM does"),
    ({"gives_ids": False}, r"does not return token ids \(return_tokens_as_token_ids\)"),
    ({"gives_logprobs": False}, r"gives no log-probabilities of completions \(logprobs\)"),
    ({"added": 1}, r"read \d+ tokens where \d+ token ids were sent"),
    ({"ends_at": False}, r"does not end a response with the token that was to end it \(stop_token_ids\)"),
    ({"raw": False}, "gives log-probabilities after the temperature, but those before it are needed"),
    ({"key": "secret"}, r"does not accept the key in OPENAI_API_KEY \(401\)"),
    ({"faults": [(503, {})] * 9}, r"fails, however often it is asked: out of order \(503\)"),
])  # fmt: skip
def test_what_a_server_cannot_do_is_reported_at_once(server, behaviour, monkeypatch, lacks, words: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "another-key")
    server.does = Behaviour(**lacks)
    with pytest.raises(UserError, match=words) as error:
        load_openai("lab", server.url)
    assert "another-key" not in str(error.value)
    assert server.url in str(error.value)
    assert "\n" not in str(error.value)


def test_the_key_comes_from_the_environment(server, behaviour, monkeypatch) -> None:
    behaviour.key = "secret"
    monkeypatch.setenv("OPENAI_API_KEY", "secret\n")  # as from a file
    engine = load_openai("lab", server.url)
    assert len(greedy(engine)) == 1
    assert "secret" not in str(engine.settings)
    for key in ("se\ncret", "gehéim"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(UserError, match=r"OPENAI_API_KEY holds characters that no key has$"):
            load_openai("lab", server.url)


@pytest.mark.parametrize(("echoes", "words"), [(False, "it does not echo"), (None, "it refuses echo with logprobs")])
def test_a_server_that_cannot_echo_still_generates(server, behaviour, echoes, words: str) -> None:
    behaviour.echoes = echoes
    engine = load_openai("lab", server.url)
    assert len(greedy(engine, 2)) == 2
    assert len(list(engine.score([(5, 6)], starts=[2]))) == 1
    with pytest.raises(UserError, match=words):
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
    ((ours,), (exact,)) = (e.score([sequence], top=20, sampling=Sampling(top_k=10)) for e in (engine, lab))
    for name in ("logprobs", "gaps", "policy", "top_logprobs", "top_policy"):
        np.testing.assert_allclose(getattr(ours, name), getattr(exact, name), atol=1e-5, err_msg=name)
    assert (ours.entropy[1:] >= exact.entropy[1:] - 1e-5).all()


def test_top_n_sigma_needs_the_plugin(server, behaviour, lab: Engine) -> None:
    engine = load_openai("lab", server.url)
    sampling = Sampling(temperature=2.0, top_n_sigma=1.0, max_tokens=5)
    behaviour.plugin = False
    with pytest.raises(UserError, match="does not know top_n_sigma; it must be vLLM with forkpoint installed"):
        engine.generate(requests(lab, 1), sampling)
    behaviour.plugin = True
    server.seen.clear()
    assert len(list(engine.generate(requests(lab, 2), sampling))) == 2
    list(engine.generate(requests(lab, 1), Sampling(temperature=0.0, top_n_sigma=1.0, max_tokens=5)))
    values = [body.get("vllm_xargs", {}).get("top_n_sigma") for body, _ in server.seen]
    assert values == ["nonsense", 1.0, 1.0, None]


def test_wrong_addresses_and_arguments_are_refused(server, behaviour) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    above = server.url.removesuffix("/v1")
    for url, options, words in (
        (closed, {}, f"{closed} does not answer"),
        (above, {}, r"there is no list of models at .*; a server's address mostly ends in /v1"),
        ("localhost:8000", {}, "starts with http:// or https://, but is localhost:8000"),
        (server.url, {"concurrency": 0}, "concurrency must be at least 1, but is 0"),
        (server.url, {"served_model": "other"}, "has no model other; its models are: lab"),
    ):
        with pytest.raises(UserError, match=words):
            load_openai("lab", url, **options)


def test_beam_search_is_refused(engine: OpenAIEngine) -> None:
    with pytest.raises(UserError, match="--engine transformers"):
        engine.beam_search(requests(engine, 1), 4, GREEDY)


def test_an_evaluation_whose_server_dies_goes_on_at_another_address(served: Engine, tmp_path, capsys) -> None:
    def arguments(server: CompletionsServer, out: str) -> list[str]:
        return ["eval", "--engine", "openai", "--base-url", server.url, "--limit", "6", "--max-tokens", "50", "--quiet",
                "--strategy", "greedy", "--strategy", "cot-decoding:k=3", "--out", str(tmp_path / out)]  # fmt: skip

    with CompletionsServer(served) as server, CompletionsServer(served) as other:
        assert main(arguments(server, "whole")) == 0
        whole = len(server.seen)
        server.does.fails_after = whole + whole // 2
        assert main(arguments(server, "begun")) == 1
        assert "however often it is asked" in capsys.readouterr().err
        assert main(arguments(other, "begun")) == 0
        assert 0 < len(other.seen) < whole
    samples = [(tmp_path / out / "samples.jsonl").read_bytes() for out in ("whole", "begun")]
    assert samples[0] == samples[1]
