"""The whole chain: the official client, `forkpoint serve` as its own process, and a real server of vLLM behind it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from serving_tools import Line, get

from forkpoint import cot_decode
from forkpoint.engines import Engine
from forkpoint.tasks import load_problems, prompt_text

LENGTH = 100
SAME = 0.98  # of 200 answers: logits of other batches differ in their last bits, and may turn a near tie


@pytest.fixture(scope="module")
def line(server: str) -> Iterator[Line]:
    """What lies between forkpoint serve and vLLM."""
    line = Line(server)
    yield line
    line.cut()


@pytest.fixture(scope="module")
def url(line: Line) -> Iterator[str]:
    """The address of `forkpoint serve`."""
    command = [sys.executable, "-m", "forkpoint", "serve", "--upstream", line.url, "--model", "lab", "--port", "0"]
    process = subprocess.Popen([*command, "--quiet"], stdout=subprocess.PIPE, text=True)
    try:
        address = process.stdout.readline()
        assert address, "it did not start"
        yield address.split()[1].removesuffix("/v1")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    finally:
        process.kill()


def prompts(n: int) -> list[str]:
    return [prompt_text(p, "plain") for p in load_problems("lab", limit=n)]


def ask_all(url: str, asked: list[str], spec: str, meanwhile: Any = None) -> list[Any]:
    """The answer to each prompt, or the error it ended with, all asked at once; nothing is asked twice."""

    async def ask() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=300) as client:
            calls = [client.completions.create(model=spec, prompt=p, max_tokens=LENGTH) for p in asked]
            answers = asyncio.gather(*calls, return_exceptions=True)
            if meanwhile is not None:
                await asyncio.to_thread(meanwhile)
            return await answers

    return asyncio.run(ask())


def test_answers_are_those_of_the_transformers_engine(url: str, lab: Engine):
    asked = prompts(20)
    answers = ask_all(url, asked, "cot-decoding:k=10")
    for answer, own in zip(answers, cot_decode(lab, asked, k=10, max_tokens=LENGTH, stop=()), strict=True):
        path, extension = own.paths[own.chosen], answer.choices[0].model_extra["forkpoint"]
        assert (answer.choices[0].text, extension["answer"]) == (path.text, path.answer)
        assert extension["confidence"] == pytest.approx(path.confidence, abs=1e-3)
        assert [p["answer"] for p in extension["paths"]] == [p.answer for p in own.paths]


def test_seeds_hold_through_the_chain(url: str):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        asked: dict[str, Any] = {"model": "self-consistency:n=8", "prompt": prompts(1)[0], "max_tokens": LENGTH}
        paths = [
            client.completions.create(**asked, seed=seed, extra_body={"return_paths": True}).choices[0].model_extra
            for seed in (1, 1, 2)
        ]
        texts = [[p["text"] for p in extension["forkpoint"]["paths"]] for extension in paths]
        assert texts[0] == texts[1] != texts[2]
        chunks = list(client.completions.create(**asked, seed=1, stream=True))
        assert "".join(c.choices[0].text for c in chunks) in texts[0]


@pytest.mark.parametrize(("n", "interrupted"), [(200, False), (60, True)])
def test_many_at_once_none_lost_and_a_short_cut_is_bridged(
    n: int, interrupted: bool, url: str, line: Line, lab: Engine
):
    def cut() -> None:
        time.sleep(1.0)
        line.cut()
        time.sleep(3.0)
        line.restore()

    asked = prompts(n)
    answers = ask_all(url, asked, "cot-decoding:k=4", cut if interrupted else None)
    own = [o.response for o in cot_decode(lab, asked, k=4, max_tokens=LENGTH, stop=())]
    same = sum(a.choices[0].text == response for a, response in zip(answers, own, strict=True))
    assert same >= SAME * n


def test_a_long_cut_is_reported_and_over_when_the_upstream_is_back(url: str, line: Line):
    def cut() -> None:
        time.sleep(1.0)
        line.cut()

    began = time.monotonic()
    answers = ask_all(url, prompts(60), "cot-decoding:k=4", cut)
    seconds = time.monotonic() - began
    failed = [a for a in answers if isinstance(a, openai.APIStatusError)]
    assert failed
    assert len(failed) + sum(not isinstance(a, Exception) for a in answers) == 60
    assert {a.status_code for a in failed} == {502}
    assert all(f"the server at {line.url} does not answer" in a.body["message"] for a in failed)
    assert seconds < 120
    assert get(f"{url}/health")[0] == 503
    line.restore()
    assert get(f"{url}/health")[0] == 200
    assert not [a for a in ask_all(url, prompts(10), "cot-decoding:k=4") if isinstance(a, Exception)]
