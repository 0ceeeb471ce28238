"""`forkpoint serve` as its users meet it: the official client, many at once, bad bodies, and upstreams that fail."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from completions_server import Behaviour, CompletionsServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_tools import CannedEngine, HeldEngine, get, post, send, serving, wait_until

from forkpoint import cot_decode, load_engine
from forkpoint.cli import main
from forkpoint.decoding.strategies import parse_strategy
from forkpoint.engines import Engine
from forkpoint.engines.remote import openai_calls
from forkpoint.engines.remote.openai_calls import RefusedError, ServerError
from forkpoint.engines.remote.openai_engine import load_openai
from forkpoint.serving.app import create_app, whats_wrong
from forkpoint.serving.jobs import job_of
from forkpoint.serving.requests import CompletionBody
from forkpoint.serving.settings import READY_MADE, Settings
from forkpoint.types import UserError

QUESTION = "Tom has 12 apples. Tom buys 7 more. Then the number of apples doubles. How many apples does Tom have now?"
PROMPT = f"Q: {QUESTION}\nA:"
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{{ 'Q: ' if m.role == 'user' else ' ' }}{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
)


def client_of(url: str, key: str = "any", **more: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60, **more)


@pytest.fixture(scope="module")
def url(lab: Engine) -> Iterator[str]:
    """A server over the lab model."""
    with serving(create_app(lab)) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return client_of(url)


@pytest.fixture(scope="module")
def chat_url() -> Iterator[str]:
    """The same with a chat template that writes what the lab model was trained on."""
    engine = load_engine("lab")
    engine.tokenizer = copy.deepcopy(engine.tokenizer)
    engine.tokenizer.chat_template = TEMPLATE
    with serving(create_app(engine)) as url:
        yield url


def extension(choice: Any) -> dict[str, Any]:
    return dict(choice.model_extra["forkpoint"])


def choices(client: openai.OpenAI, model: str = "greedy", prompt: Any = PROMPT, **more: Any) -> list[Any]:
    return client.completions.create(model=model, prompt=prompt, **more).choices


# answers


SPECS = [
    "greedy", "self-consistency:n=5", "sample:n=3,temperature=2,min_p=0.1", "cot-decoding:k=6",
    "cot-decoding:k=6,aggregate=true", "cot-decoding:span=continuation",
]  # fmt: skip


@pytest.mark.parametrize("spec", SPECS)
def test_every_strategy_answers_as_the_library_does(spec: str, lab: Engine, client: openai.OpenAI):
    prompts = [PROMPT, PROMPT.replace("7", "5")]
    answer = client.completions.create(
        model=spec, prompt=prompts, seed=3, max_tokens=90, extra_body={"return_paths": True}
    )
    body = CompletionBody(model=spec, prompt=prompts, seed=3, max_tokens=90)
    outcomes = parse_strategy(spec).with_defaults(seed=3, max_tokens=90).solve(lab, job_of(lab, body, Settings()).cases)
    shown = [(o, p) for o in outcomes for p in (o.paths if spec.startswith("sample") else [o.paths[o.chosen]])]
    for choice, (outcome, path) in zip(answer.choices, shown, strict=True):
        more = extension(choice)
        assert (choice.text, choice.finish_reason, more["answer"]) == (path.text, path.finish_reason, path.answer)
        assert more["confidence"] == pytest.approx(path.confidence, abs=1e-5)
        assert more["paths"][more["chosen"]]["text"] == choice.text
        if not spec.startswith("sample"):
            assert [(p["answer"], p["dropped"]) for p in more["paths"]] == [
                (p.answer, p.dropped) for p in outcome.paths
            ]
            assert more["votes"] == pytest.approx(outcome.votes, abs=1e-5)
            assert (more["chosen"], more["generated_tokens"]) == (outcome.chosen, outcome.tokens_generated)
            assert more["cut_off"] == sum(p.finish_reason == "length" for p in outcome.paths)
    assert answer.usage
    assert answer.usage.completion_tokens == sum(outcome.tokens_generated for outcome in outcomes)
    assert answer.usage.prompt_tokens == sum(len(lab.tokenizer(prompt)["input_ids"]) for prompt in prompts)


def test_kinds_of_answers(client: openai.OpenAI):
    def answer(**extra: Any) -> Any:
        return extension(choices(client, max_tokens=40, extra_body=extra)[0])["answer"]

    assert answer() == answer(answer_kind="math") is not None
    assert answer(answer_kind="yesno") is None
    assert answer(answer_kind="option", options=["-1", answer(), "-2"]) == "B"


def test_text_and_token_ids_are_the_same_prompt(lab: Engine, client: openai.OpenAI):
    ids = lab.tokenizer(PROMPT)["input_ids"]
    one, *same, two = (
        [c.text for c in choices(client, "sample", prompt, seed=1, max_tokens=60)]
        for prompt in (PROMPT, [PROMPT], ids, [ids], [ids, ids])
    )
    assert same == [one] * 3
    assert (two[:1], len(two)) == (one, 2)


def test_the_seed_decides_the_draws(client: openai.OpenAI):
    def draw(**more: Any) -> Any:
        return choices(client, "sample:temperature=2", max_tokens=60, **more)[0]

    assert draw(seed=5).text == draw(seed=5, user="somebody").text
    assert len({draw(seed=s).text for s in range(6)}) > 1
    unnamed = draw()
    assert draw(seed=extension(unnamed)["seed"]).text == unnamed.text != draw().text


def test_the_body_fills_what_the_name_leaves_open(client: openai.OpenAI):
    for spec, tokens in (("greedy", 2), ("greedy:max_tokens=3", 3)):
        assert extension(choices(client, spec, max_tokens=2)[0])["chosen_tokens"] == tokens
    cold = choices(client, "sample:temperature=0", temperature=2.0, seed=1)
    assert cold[0].text == choices(client)[0].text
    several = choices(client, "sample", [PROMPT, PROMPT], n=3, seed=1, temperature=2.0)
    assert [c.index for c in several] == list(range(6))
    assert len({c.text for c in several}) > 2
    (stopped,) = choices(client, stop=" is")
    assert (" is" in stopped.text, stopped.finish_reason) == (False, "stop")


def test_chat_is_the_template_and_the_same_strategy(chat_url: str, client: openai.OpenAI):
    chat = client_of(chat_url).chat.completions
    (own,) = choices(client, "cot-decoding:k=5", max_tokens=80)
    parts = [{"type": "text", "text": QUESTION[:20]}, {"type": "text", "text": QUESTION[20:]}]
    for content in (QUESTION, parts):
        messages = [{"role": "user", "content": content}]
        (choice,) = chat.create(model="cot-decoding:k=5", messages=messages, max_completion_tokens=80).choices
        assert choice.message.content == own.text
        assert extension(choice)["confidence"] == pytest.approx(extension(own)["confidence"], abs=1e-5)
    talk = [{"role": "user", "content": "Hi"}, choice.message, {"role": "user", "content": QUESTION}]
    assert chat.create(model="greedy", messages=talk, max_tokens=40).choices[0].message.content


def test_the_page_is_true(chat_url: str):
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```py\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(examples) >= 3
    namespace: dict[str, Any] = {}
    for example in examples:
        exec(example.replace("http://127.0.0.1:8100", chat_url), namespace)


# streams


def test_a_completion_stream_holds_the_answer(client: openai.OpenAI):
    asked: dict[str, Any] = {"model": "sample:n=2", "prompt": [PROMPT, PROMPT], "seed": 2, "max_tokens": 80}
    whole = client.completions.create(**asked)
    *chunks, last = client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    texts, ends = dict.fromkeys(range(4), ""), {}
    for chunk in chunks:
        (choice,) = chunk.choices
        texts[choice.index] += choice.text
        if choice.finish_reason:
            ends[choice.index] = (choice.finish_reason, extension(choice))
    assert list(texts.values()) == [c.text for c in whole.choices]
    assert list(ends.values()) == [(c.finish_reason, extension(c)) for c in whole.choices]
    assert len(chunks) > 20
    assert len({c.id for c in chunks}) == 1
    assert (last.choices, last.usage.total_tokens) == ([], whole.usage.total_tokens)


def test_a_chat_stream_holds_the_answer(chat_url: str):
    create = client_of(chat_url).chat.completions.create
    messages = [{"role": "user", "content": QUESTION}]
    asked: dict[str, Any] = {"model": "cot-decoding:k=4", "messages": messages, "seed": 1}
    (whole,) = create(**asked).choices
    chunks = list(create(**asked, stream=True))
    last = chunks[-1].choices[0]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.message.content
    assert (last.finish_reason, extension(last)) == (whole.finish_reason, extension(whole))
    assert all(c.usage is None for c in chunks)


def test_a_stream_is_kept_alive_until_the_path_is_known(lab: Engine):
    held = HeldEngine(lab)
    with serving(create_app(held, Settings(keep_alive=0.05))) as url:
        connection = send(f"{url}/v1/completions", {"model": "cot-decoding:k=3", "prompt": PROMPT, "stream": True})
        answer = connection.getresponse()
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = (line.decode().strip() for line in answer if line.strip())
        assert [next(lines) for _ in range(3)] == [": the strategy is at work"] * 3
        held.give(3)
        *chunks, end = (line for line in lines if not line.startswith(":"))
    assert end == "data: [DONE]"
    assert all(line.startswith("data: {") for line in chunks)


def test_a_failure_after_the_stream_began_is_an_event(lab: Engine):
    broken = HeldEngine(lab, ServerError("the server at http://there/v1 does not answer: gone"))
    with serving(create_app(broken, Settings(keep_alive=0.05))) as url:
        stream = client_of(url).completions.create(model="greedy", prompt=PROMPT, stream=True)
        with pytest.raises(openai.APIError, match="does not answer: gone"):
            list(stream)
    with serving(create_app(broken)) as url, pytest.raises(openai.InternalServerError) as early:
        client_of(url).completions.create(model="greedy", prompt=PROMPT, stream=True)
    assert early.value.status_code == 502


# refusals

REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"model": "cot-decodin"}, 404, "did you mean 'cot-decoding'?"),
    ({"model": "beam"}, 404, "beam is not served"),
    ({"model": "x" * 500}, 404, "at most 200 characters"),
    ({"model": None}, 400, "the field model is missing"),
    ({"prompt": ""}, 400, "empty prompt"),
    ({"prompt": ["a", [1]]}, 400, "prompt must be a text"),
    ({"prompt": [490]}, 400, "(0 to 489)"),
    ({"prompt": "apples " * 5000}, 400, "at most 4096"),
    ({"max_tokens": "10"}, 400, "max_tokens: input should be a valid integer"),
    ({"n": 2}, 400, "n must be 1 for greedy"),
    ({"model": "sample:n=3", "n": 2}, 400, "n=3"),
    ({"model": "cot-decoding:k=100,position=entropy:3"}, 400, "300 paths"),
    ({"model": "sample", "n": 2, "temperature": 0}, 400, "equal responses"),
    ({"stop": [""]}, 400, "stop must be"),
    ({"logprobs": 2}, 400, "logprobs is not supported here"),
    ({"frequency_penalty": 0.0, "logit_bias": {}, "best_of": 1, "user": "me"}, 200, ""),
    ({"best_of": True}, 400, "best_of"),
    ({"tempreature": 1}, 400, "no field tempreature"),
    ({"options": ["a"] * 27}, 400, "options"),
]


@pytest.mark.parametrize(("change", "status", "sentence"), REFUSED, ids=lambda v: str(v)[:40])
def test_what_is_wrong_is_one_sentence(change: dict[str, Any], status: int, sentence: str, url: str):
    body = {"model": "greedy", "prompt": PROMPT, "max_tokens": 5} | change
    got, _, answer = post(f"{url}/v1/completions", {k: v for k, v in body.items() if v is not None})
    assert got == status, answer
    if status != 200:
        assert set(answer["error"]) == {"message", "type", "param", "code"}
        assert sentence in answer["error"]["message"]


@pytest.mark.parametrize(("messages", "sentence"), [
    ([], "messages"),
    ([{"role": "user"}], "messages.0.content is missing"),
    ([{"role": "user", "content": 3}], "messages.0.content must be a text"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "type text only"),
    ([{"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}], "tool_calls is not supported"),
    ([{"role": "system", "content": "Be brief."}], "no system role"),
], ids=lambda v: str(v)[:40])  # fmt: skip
def test_what_is_wrong_with_messages_is_one_sentence(messages: Any, sentence: str, chat_url: str):
    status, _, answer = post(f"{chat_url}/v1/chat/completions", {"model": "greedy", "messages": messages})
    assert status == 400
    assert sentence in answer["error"]["message"]


@pytest.mark.parametrize("raw", [
    b"", b"[]", b'{"model": "\xff"}', b'{"model": "\\ud800", "prompt": "a"}', b"[" * 100_000,
    b'{"model": "greedy", "prompt": "a", "max_tokens": 1' + b"0" * 5000 + b"}",
], ids=lambda raw: repr(raw[:40]))  # fmt: skip
def test_what_is_no_body_is_refused(raw: bytes, url: str):
    status, _, answer = post(f"{url}/v1/completions", raw)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")


def test_routes_and_long_bodies(url: str, client: openai.OpenAI):
    assert post(f"{url}/v1/completions", b" " * (2**21 + 1))[0] == 413
    assert post(f"{url}/v1/embeddings", {})[0] == 404
    assert post(f"{url}/v1/models", {})[0] == 405
    assert [m.id for m in client.models.list()] == list(READY_MADE)
    assert client.models.retrieve("cot-decoding:k=3").id == "cot-decoding:k=3"
    with pytest.raises(openai.NotFoundError, match="unknown strategy"):
        client.models.retrieve("gpt-4")
    with pytest.raises(openai.BadRequestError, match="no chat template"):
        client.chat.completions.create(model="greedy", messages=[{"role": "user", "content": "Hi"}])
    assert get(f"{url}/health") == (200, {"status": "ok", "model": "lab", "running": 0, "waiting": 0, "upstream": "ok"})


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8),
    st.sampled_from(["greedy", "sample", "cot-decoding:k=2", "self-consistency:n=2", PROMPT, "yesno", "math"]),
)  # fmt: skip
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=8), v, max_size=3))
FIELDS = st.sampled_from([*CompletionBody.model_fields, "messages", "logprobs", "tools", "user", "other"])
GOOD = {
    "model": st.sampled_from(["greedy", "sample", "cot-decoding:k=2", "cot-decoding:k=2,span=continuation"]),
    "prompt": st.text(max_size=20) | st.lists(st.integers(0, 489), max_size=5),
    "messages": st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": st.text(max_size=9)}), max_size=2),
    "answer_kind": st.sampled_from(["number", "math", "option", "yesno"]), "temperature": st.floats(0, 3),
    "options": st.lists(st.text(max_size=5), max_size=3), "stop": st.lists(st.text(max_size=3), max_size=2),
    "stream": st.booleans(),
}  # fmt: skip


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    good=st.fixed_dictionaries({}, optional=GOOD), odd=st.dictionaries(FIELDS, VALUES, max_size=2), chat=st.booleans()
)
def test_no_body_breaks_the_server(chat_url: str, good: dict[str, Any], odd: dict[str, Any], chat: bool):
    prompt = {"messages": [{"role": "user", "content": "Hi"}]} if chat else {"prompt": PROMPT}
    body = {"model": "greedy", "max_tokens": 6, **prompt} | good | odd
    body.pop("prompt" if chat else "messages", None)
    with contextlib.closing(send(f"{chat_url}/v1/{'chat/' if chat else ''}completions", body)) as connection:
        answer = connection.getresponse()
        content = answer.read()
    assert answer.status in (200, 400, 404), (answer.status, content, body)
    if answer.status != 200:
        assert set(json.loads(content)["error"]) == {"message", "type", "param", "code"}
    elif body.get("stream"):
        assert content.endswith(b"data: [DONE]\n\n")
        assert b'"error"' not in content


# many at once


def test_200_at_once_none_lost_each_its_own(lab: Engine):
    canned = CannedEngine(lab, seconds=0.005)
    prompts = [f"Q: What is {i}?\nA:" for i in range(200)]
    expected = [o.response for o in cot_decode(canned, prompts, k=4, stop=())]

    async def all_of_them(url: str) -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=60) as client:
            asked = [client.completions.create(model="cot-decoding:k=4", prompt=p) for p in prompts]
            return await asyncio.gather(*asked)

    with serving(create_app(canned)) as url:
        answers = asyncio.run(all_of_them(url))
        assert get(f"{url}/health")[1]["running"] == 0
    assert [a.choices[0].text for a in answers] == expected
    assert len(set(expected)) == len({a.id for a in answers}) == 200


def test_who_finds_all_places_taken_is_told_to_come_again(lab: Engine):
    held = HeldEngine(lab)
    with serving(create_app(held, Settings(running=1, waiting=1))) as url, ThreadPoolExecutor(2) as threads:
        body = {"model": "greedy", "prompt": PROMPT}
        two = [threads.submit(post, f"{url}/v1/completions", body) for _ in range(2)]
        wait_until(lambda: get(f"{url}/health")[1]["waiting"] == 1)
        status, headers, answer = post(f"{url}/v1/completions", body)
        assert (status, headers["retry-after"]) == (503, "5")
        assert answer["error"]["message"] == "2 requests are being answered or waiting; come again later"
        held.give(2)
        assert [done.result()[0] for done in two] == [200, 200]
        held.give(1)
        assert post(f"{url}/v1/completions", body)[0] == 200


@pytest.mark.parametrize("stream", [False, True])
def test_work_that_nobody_waits_for_stops(stream: bool, lab: Engine):
    held = HeldEngine(lab)
    body = {"model": "self-consistency:n=50", "prompt": PROMPT, "max_tokens": 20, "stream": stream}
    with serving(create_app(held, Settings(running=1, waiting=5, keep_alive=0.05))) as url:
        leaving = [send(f"{url}/v1/completions", body) for _ in range(3)]
        wait_until(lambda: get(f"{url}/health")[1]["waiting"] == 2)
        held.give(4)
        wait_until(lambda: held.handed == 4)
        for connection in leaving:
            connection.close()
        wait_until(lambda: get(f"{url}/health")[1]["waiting"] == 0)
        time.sleep(0.3)  # the disconnect of the one that runs
        held.give(1)
        wait_until(lambda: get(f"{url}/health")[1]["running"] == 0)
        assert (held.begun, held.closed, held.handed) == (1, 1, 5)


def test_the_key(lab: Engine):
    with serving(create_app(lab, Settings(key="open sesame"))) as url:
        with pytest.raises(openai.AuthenticationError, match="Bearer KEY"):
            client_of(url).models.list()
        assert post(f"{url}/v1/completions", b"{")[0] == 401
        answer = client_of(url, key="open sesame").completions.create(model="greedy", prompt=PROMPT, max_tokens=3)
        assert answer.choices[0].text
        assert get(f"{url}/health")[0] == 200


# upstreams


@pytest.mark.parametrize(("error", "status"), [
    (RefusedError("http://there/v1", 400, "too long"), 400), (RefusedError("http://there/v1", 404, "no model"), 502),
    (UserError("the server at http://there/v1 does not return token ids"), 502), (ServerError("gone"), 502),
    (ZeroDivisionError("ours"), 500),
], ids=lambda v: str(v)[-20:])  # fmt: skip
def test_failures_of_the_engine_have_their_status(error: Exception, status: int, lab: Engine):
    with serving(create_app(HeldEngine(lab, error))) as url:
        got, _, answer = post(f"{url}/v1/completions", {"model": "greedy", "prompt": PROMPT})
    assert got == status
    ours = "forkpoint serve failed at this request; its log says where"
    assert answer["error"]["message"] == (ours if status == 500 else str(error))


@pytest.mark.slow
def test_an_upstream_cut_off_is_told_and_used_again_when_it_is_back(lab: Engine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(openai_calls, "RETRIES", 1)
    prompts = [f"Q: What is {i}?\nA:" for i in range(60)]
    with CompletionsServer(CannedEngine(lab), Behaviour(delay=0.02)) as there:
        expected = [o.response for o in cot_decode(load_openai("lab", there.url), prompts, k=3, stop=())]
        app = create_app(load_openai("lab", there.url), Settings(upstream=lambda: whats_wrong(there.url)))
        with serving(app) as url, ThreadPoolExecutor(60) as threads:

            def ask(prompt: str) -> tuple[int, Any, Any]:
                return post(f"{url}/v1/completions", {"model": "cot-decoding:k=3", "prompt": prompt})

            asked = [threads.submit(ask, prompt) for prompt in prompts]
            wait_until(lambda: sum(done.done() for done in asked) >= 3, 30)
            there.does.is_down = True
            answers = [done.result() for done in asked]
            for (status, _, answer), own in zip(answers, expected, strict=True):
                if status == 200:
                    assert answer["choices"][0]["text"] == own
                else:
                    assert (status, f"{there.url} does not answer" in answer["error"]["message"]) == (502, True)
            assert 3 <= sum(status == 200 for status, *_ in answers) < 60
            assert (ask(PROMPT)[0], get(f"{url}/health")[0]) == (502, 503)
            there.does.is_down = False
            wait_until(lambda: get(f"{url}/health")[0] == 200)
            assert [ask(prompt)[2]["choices"][0]["text"] for prompt in prompts] == expected


# the verb


@pytest.mark.parametrize(("arguments", "sentence"), [
    ("--model lab", "--upstream http://HOST:PORT/v1"),
    ("--upstream http://localhost:1/v1", "--model NAME"),
    ("--upstream http://localhost:1/v1 --model lab --running 0", "--running must be at least 1, but is 0"),
    ("--upstream http://127.0.0.1:1/v1 --model lab --port 0", "http://127.0.0.1:1/v1 does not answer"),
    ("--upstream http://127.0.0.1:1/v1 --model lab --host 203.0.113.1", "cannot listen at 203.0.113.1, port 8100"),
    ("--upstream http://127.0.0.1:1/v1 --model lab --port TAKEN", "Address already in use"),
])  # fmt: skip
def test_wrong_usage_is_one_sentence(arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", *arguments.replace("TAKEN", str(taken.getsockname()[1])).split()]) == 2
    message = capsys.readouterr().err
    assert sentence in message
    assert message.count("\n") == 1


@pytest.mark.slow
def test_the_verb_serves_until_it_is_interrupted(lab: Engine):
    body = {"model": "self-consistency:n=2", "prompt": PROMPT}
    with CompletionsServer(CannedEngine(lab)) as there, ThreadPoolExecutor(1) as threads:
        command = [sys.executable, "-m", "forkpoint", "serve", "--upstream", there.url, "--model", "lab"]
        process = subprocess.Popen(
            [*command, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
        )
        killer = threading.Timer(180, process.kill)
        killer.start()
        try:
            url = process.stdout.readline().split()[1].removesuffix("/v1")
            answer = client_of(url).completions.create(model="cot-decoding:k=2", prompt=PROMPT)
            assert extension(answer.choices[0])["answer"] is not None
            there.does.delay = 3.0
            under_way = threads.submit(post, f"{url}/v1/completions", body)
            wait_until(lambda: get(f"{url}/health")[1]["running"] == 1)
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            assert not under_way.done()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
            status, _, answer = under_way.result()
        finally:
            killer.cancel()
            process.kill()
    assert (status, answer["error"]["message"]) == (503, "this server is stopping")
    assert (process.returncode, out) == (130, "")
    assert "/v1/completions cot-decoding:k=2, 33 prompt tokens" in err
    assert err.endswith("forkpoint: serve was stopped\n")
    assert "Traceback" not in err
