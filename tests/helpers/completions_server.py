"""A server of completions for tests, backed by an engine, that can lack or break what a real one may.

Each request runs alone, so answers do not depend on what else is asked.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from forkpoint.engines import Engine
from forkpoint.types import Request, Sampling

ENGINE = threading.Lock()  # servers may share one
Fault = tuple[int, dict[str, str]] | str  # a status with headers, or "drop"


class RefusalError(Exception):
    """The request is refused with 400."""


@dataclass
class Behaviour:
    """What the server does otherwise than vLLM's; `faults` befall the next completions, one each."""

    faults: list[Fault] = field(default_factory=list)
    takes_ids: bool = True
    gives_ids: bool = True
    gives_logprobs: bool = True
    echoes: bool | None = True  # None: refuses to
    ends_at: bool = True  # honours stop_token_ids
    raw: bool = True  # log-probabilities before the temperature
    plugin: bool = True
    most_logprobs: int = 512
    added: int = 0  # tokens that it puts before a prompt
    delay: float = 0.0
    key: str | None = None
    repeats: bool = False  # in errors, the address and the key that it was sent
    reason: str | None = None  # reported instead of the true one
    fails_after: int | None = None  # completions, then 500 for ever
    is_down: bool = False  # every connection ends without an answer


class CompletionsServer(ThreadingHTTPServer):
    """`url` is its address while it is open (a context manager); `seen` are the bodies and times of completions."""

    daemon_threads = True

    def __init__(self, engine: Engine, behaviour: Behaviour | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.engine, self.does = engine, behaviour or Behaviour()
        self.seen: list[tuple[dict[str, Any], float]] = []
        self.keys: set[str | None] = set()
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *_: object) -> None:
        """A client may hang up."""

    def __enter__(self) -> CompletionsServer:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
        while self.in_flight:  # an interpreter that ends must not cut off a thread inside torch
            time.sleep(0.01)

    def completion(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request in vLLM's format."""
        does, number, prompt = self.does, body["logprobs"], self._prompt(body["prompt"])
        if number > does.most_logprobs:
            raise RefusalError(f"Requested sample logprobs of {number}, which is greater than max allowed")
        if does.echoes is None and body.get("echo"):
            raise RefusalError("echo is not supported")
        cut = body.get("vllm_xargs", {}).get("top_n_sigma", 0.0) if does.plugin else 0.0
        if isinstance(cut, str):
            raise RefusalError(f"top_n_sigma must be a number, but is {cut!r}")
        sampling = Sampling(
            temperature=body["temperature"], top_k=max(0, body["top_k"]), top_p=body["top_p"], min_p=body["min_p"],
            top_n_sigma=cut, max_tokens=body["max_tokens"], stop=tuple(body.get("stop", ())),
        )  # fmt: skip
        (one,) = self.engine.generate([Request(str(body.get("seed")), prompt)], sampling)
        new, reason = list(one.token_ids), one.finish_reason
        stops = [i for i, token in enumerate(new) if token in body.get("stop_token_ids", ()) and does.ends_at]
        if stops:
            new, reason = new[: stops[0] + 1], "stop"
        first = 0 if body.get("echo") and does.echoes else len(prompt)
        choice = {"index": 0, "text": one.text, "finish_reason": does.reason or reason}
        if does.gives_logprobs:
            choice["logprobs"] = self._logprobs([*prompt, *new], first, number, body["temperature"])
        return {"choices": [choice], "usage": {"prompt_tokens": len(prompt) + does.added}}

    def _prompt(self, prompt: str | Sequence[int]) -> tuple[int, ...]:
        if isinstance(prompt, str):
            return tuple(self.engine.tokenizer(prompt)["input_ids"])
        if not self.does.takes_ids:
            raise RefusalError("prompt must be a string")
        return tuple(prompt)

    def _logprobs(self, tokens: list[int], first: int, number: int, temperature: float) -> dict[str, Any]:
        (scored,) = self.engine.score([tuple(tokens)], top=min(number, self.engine.vocab_size), starts=[max(first, 1)])
        scale = 1.0 if self.does.raw or not temperature else 1 / temperature  # not normalised: it is to be noticed
        columns: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": []}
        for i in range(first, len(tokens)):
            named = zip(scored.top_ids[i].tolist(), scored.top_logprobs[i].tolist(), strict=True)
            own = float(scored.logprobs[i])
            tops = {self._spelt(token): logprob * scale for token, logprob in named} | {self._spelt(tokens[i]): own}
            columns["tokens"].append(self._spelt(tokens[i]))
            columns["token_logprobs"].append(own if i else None)
            columns["top_logprobs"].append(tops if i else None)
        return columns

    def _spelt(self, token: int) -> str:
        return f"token_id:{token}" if self.does.gives_ids else self.engine.tokenizer.decode([token])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: CompletionsServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        model = {"id": "lab", "owned_by": "tests", "max_model_len": self.server.engine.context}
        pages = {"/v1/models": {"data": [model]}, "/version": {"version": "1.0"}}
        self.close_connection = self.server.does.is_down
        if not self.server.does.is_down:
            self.answer(lambda: (200, pages[path]) if path in pages else (404, {"detail": "Not Found"}))

    def do_POST(self) -> None:
        body, there = json.loads(self.rfile.read(int(self.headers["content-length"]))), self.server
        with there.lock:
            there.seen.append((body, time.monotonic()))
            there.in_flight += 1
            there.most_in_flight = max(there.most_in_flight, there.in_flight)
            over = there.does.fails_after is not None and len(there.seen) > there.does.fails_after
            fault = (500, {}) if over else there.does.faults.pop(0) if there.does.faults else None
        try:
            time.sleep(there.does.delay)
            if fault == "drop" or there.does.is_down:
                self.close_connection = True
            elif fault:
                repeated = f": {self.path} {self.headers['authorization']}" if there.does.repeats else ""
                self.send(fault[0], {"error": {"message": f"out of order{repeated}"}}, fault[1])
            else:
                with ENGINE:
                    self.answer(lambda: (200, there.completion(body)))
        finally:
            with there.lock:
                there.in_flight -= 1

    def answer(self, make: Callable[[], tuple[int, Any]]) -> None:
        key = self.headers["authorization"]
        self.server.keys.add(key)
        if self.server.does.key and key != f"Bearer {self.server.does.key}":
            self.send(401, {"error": {"message": f"wrong key {key}"}})
            return
        try:
            self.send(*make())
        except RefusalError as refusal:
            self.send(400, {"error": {"message": str(refusal)}})

    def send(self, status: int, answer: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(body)
