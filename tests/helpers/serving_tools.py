"""What tests of servers need: an app on a free port, requests, an engine held back."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar
from urllib.parse import urlsplit

import numpy as np
import uvicorn

from forkpoint.engines import Engine
from forkpoint.sampling.draw import key_hash
from forkpoint.serving.work import ServingEngine
from forkpoint.types import Completion, Request, Sampling, Scored, TokenIds


@contextlib.contextmanager
def serving(app: Any) -> Iterator[str]:
    """The address of an app that runs in a thread: http://127.0.0.1:PORT."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


def send(url: str, body: bytes | dict[str, Any] | None = None) -> http.client.HTTPConnection:
    """A connection on which a POST is under way, or without a body a GET."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    raw = json.dumps(body).encode() if isinstance(body, dict) else body
    connection.request("GET" if body is None else "POST", parts.path, raw, {"Content-Type": "application/json"})
    return connection


def post(url: str, body: bytes | dict[str, Any]) -> tuple[int, Any, Any]:
    """Status, headers and decoded body of a POST."""
    with contextlib.closing(send(url, body)) as connection:
        answer = connection.getresponse()
        return answer.status, answer.headers, json.loads(answer.read())


def get(url: str) -> tuple[int, Any]:
    """Status and decoded body of a GET."""
    with contextlib.closing(send(url)) as connection:
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def wait_until(condition: Any, seconds: float = 10.0) -> None:
    """Return when the condition holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


class CannedEngine(Engine):
    """Answers every prefix with a number of its own; the vocabulary is the lab model's."""

    settings: ClassVar[dict[str, str | int | None]] = {}

    def __init__(self, lab: Engine, seconds: float = 0.0) -> None:
        self.name, self.tokenizer, self.ends = "canned", lab.tokenizer, lab.ends
        self.vocab_size, self.most_top, self.context = lab.vocab_size, lab.most_top, lab.context
        self.seconds = seconds
        first = self.tokenizer(" The")["input_ids"][0]
        self._likeliest = [first, *(i for i in range(20, self.vocab_size) if i != first), *range(20)]

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        for request in requests:
            time.sleep(self.seconds)
            number = key_hash(0, str(request.prefix)) % 10**6
            ids = (*self.tokenizer(f" The answer is {number}.")["input_ids"], self.ends[0])[: sampling.max_tokens]
            text = self.tokenizer.decode(ids, skip_special_tokens=True)
            yield Completion(request.key, ids, (-0.1,) * len(ids), (0.8,) * len(ids), text, "stop")

    def score(self, sequences: Sequence[TokenIds], *, top: int = 0, **_: Any) -> Iterator[Scored]:
        for sequence in sequences:
            rows = len(sequence) + 1
            ids = np.tile(self._likeliest[:top], (rows, 1))
            logprobs = np.tile(-np.log(2) * np.arange(1, top + 1), (rows, 1))
            flat = np.full(rows, -np.log(2))
            yield Scored(flat, flat, flat, flat, ids, logprobs, logprobs)


class HeldEngine(ServingEngine):
    """Hands out a completion only when `give` is called, or fails with the `error` while it works.

    `handed` counts the completions, `begun` and `closed` the calls of `generate`.
    """

    def __init__(self, engine: Engine, error: Exception | None = None) -> None:
        super().__init__(engine, threading.Event())
        self.error = error
        self._engine_held, self._given = engine, threading.Semaphore(0)
        self.handed = self.closed = self.begun = 0

    def give(self, count: int) -> None:
        self._given.release(count)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        self.begun += 1
        if self.error:
            time.sleep(0.3)
            raise self.error
        try:
            for completion in self._engine_held.generate(requests, sampling):
                self._given.acquire()
                self.handed += 1
                yield completion
        finally:
            self.closed += 1
