"""The whole chain: the official client, `forkpoint serve` as its own process, and a real server of vLLM behind it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from forkpoint import cot_decode
from forkpoint.engines import Engine
from forkpoint.tasks import load_problems, prompt_text

LENGTH = 100
SAME = 0.98  # of 200 answers: logits of other batches differ in their last bits, and may turn a near tie


@pytest.fixture(scope="module")
def url(server: str) -> Iterator[str]:
    """The address of `forkpoint serve`."""
    command = [sys.executable, "-m", "forkpoint", "serve", "--upstream", server, "--model", "lab", "--port", "0"]
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


def ask_all(url: str, asked: list[str], spec: str) -> list[Any]:
    """The answer to each prompt, all asked at once, nothing twice."""

    async def ask() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=300) as client:
            calls = [client.completions.create(model=spec, prompt=p, max_tokens=LENGTH) for p in asked]
            return await asyncio.gather(*calls)

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


def test_many_at_once_none_lost(url: str, lab: Engine):
    asked = prompts(200)
    answers = ask_all(url, asked, "cot-decoding:k=4")
    own = [o.response for o in cot_decode(lab, asked, k=4, max_tokens=LENGTH, stop=())]
    same = sum(a.choices[0].text == response for a, response in zip(answers, own, strict=True))
    assert same >= SAME * len(asked)
