"""What tests of servers need: an app on a free port, a line that can be cut, a small upstream, an engine held back."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar
from urllib.parse import urlsplit

import numpy as np
import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse

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


def post(url: str, body: bytes | dict[str, Any], headers: dict[str, str] | None = None) -> tuple[int, Any, Any]:
    """Status, headers and decoded body of a POST."""
    parts = urlsplit(url)
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with contextlib.closing(http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)) as connection:
        connection.request("POST", parts.path, raw, {"Content-Type": "application/json"} | (headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.headers, json.loads(answer.read())


def get(url: str) -> tuple[int, Any]:
    """Status and decoded body of a GET."""
    parts = urlsplit(url)
    with contextlib.closing(http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)) as connection:
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def wait_until(condition: Any, seconds: float = 10.0) -> None:
    """Return when the condition holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


class Line:
    """A TCP line to a server that can be cut, connections and all, and restored at the same port."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._port = 0
        self.restore()
        self.url = f"http://127.0.0.1:{self._port}{parts.path}"

    def restore(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", self._port), backlog=1024)
        self._port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def cut(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listening.close()
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                near = listening.accept()[0]
            except OSError:
                return
            far = socket.create_connection(self._target)
            with self._lock:
                self._open |= {near, far}
            for a, b in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(a, b), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def small_upstream(engine: Engine) -> FastAPI:
    """Of vLLM's completions what forkpoint asks for: token ids in and out, greedy, one prompt, no echo."""
    app = FastAPI()

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"data": [{"id": "lab", "owned_by": "test", "max_model_len": 4096}]}

    @app.post("/v1/completions", response_model=None)
    def completions(body: dict[str, Any]) -> JSONResponse | dict[str, Any]:
        if body.get("echo") or not isinstance(body["prompt"], list):
            return JSONResponse({"error": {"message": "ids only, and no echo"}}, 400)
        prompt, names = tuple(body["prompt"]), body["logprobs"]
        if body["max_tokens"] == 1:
            (scored,) = engine.score([prompt], top=names, starts=[len(prompt)])
            ids, tops = [int(scored.top_ids[-1][0])], [_named(scored.top_ids[-1], scored.top_logprobs[-1])]
            own = [float(scored.top_logprobs[-1][0])]
        else:
            sampling = Sampling(temperature=0.0, max_tokens=body["max_tokens"], stop=tuple(body.get("stop") or ()))
            (done,) = engine.generate([Request("one", prompt)], sampling)
            ids, own = list(done.token_ids), list(done.logprobs)
            seconds = [math.log(max(math.exp(p) - gap, 1e-30)) for p, gap in zip(own, done.gaps, strict=True)]
            tops = [_named([i, i + 1], pair) for i, *pair in zip(ids, own, seconds, strict=True)]
        ends = [i for i, token in enumerate(ids) if token in body.get("stop_token_ids", ())]
        n = ends[0] + 1 if ends else len(ids)
        stopped = bool(ends) or (body["max_tokens"] > 1 and done.finish_reason == "stop")
        logprobs = {"tokens": [f"token_id:{i}" for i in ids[:n]], "token_logprobs": own[:n], "top_logprobs": tops[:n]}
        choice = {"index": 0, "text": "", "logprobs": logprobs, "finish_reason": "stop" if stopped else "length"}
        return {"choices": [choice], "usage": {"prompt_tokens": len(prompt)}}

    return app


def _named(ids: Sequence[Any], logprobs: Sequence[Any]) -> dict[str, float]:
    return {f"token_id:{int(i)}": float(p) for i, p in zip(ids, logprobs, strict=True)}


class CannedEngine(Engine):
    """Answers at once, and every prefix with a number of its own; its vocabulary is the lab model's."""

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
            ids = (*self.tokenizer(f" The answer is {number}.")["input_ids"], self.ends[0])
            yield Completion(request.key, ids, (-0.1,) * len(ids), (0.8,) * len(ids), "", "stop")

    def score(self, sequences: Sequence[TokenIds], *, top: int = 0, **_: Any) -> Iterator[Scored]:
        for sequence in sequences:
            rows = len(sequence) + 1
            ids = np.tile(self._likeliest[:top], (rows, 1))
            logprobs = np.tile(-np.log(2) * np.arange(1, top + 1), (rows, 1))
            flat = np.full(rows, 0.25)
            yield Scored(flat, flat, flat, flat, ids, logprobs, logprobs)


class HeldEngine(ServingEngine):
    """An engine that hands out a completion only when `give` is called; `handed` counts them, `closed` says how
    many calls of generate were ended."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, threading.Event())
        self._engine_held, self._given = engine, threading.Semaphore(0)
        self.handed = self.closed = self.begun = 0

    def give(self, count: int) -> None:
        self._given.release(count)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        self.begun += 1
        try:
            for completion in self._engine_held.generate(requests, sampling):
                self._given.acquire()
                self.handed += 1
                yield completion
        finally:
            self.closed += 1
