"""The HTTP side of a completions server: calls, how many at a time, again after failures, errors as sentences.

The `openai` client asks again after a lost connection, 408, 409, 429 and 5xx, after exponentially growing pauses with
jitter or after what Retry-After says (up to two minutes). Nothing here knows of models or tokens.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import cache
from typing import Any

from forkpoint.redaction import parse_address, shown_address, without_secrets
from forkpoint.types import FailedError, UserError

try:
    from openai import APIConnectionError, APIError, APIStatusError, AsyncOpenAI, OpenAIError, Timeout
except ImportError as error:
    raise UserError("--engine openai needs the openai package: pip install 'forkpoint[openai]'") from error

RETRIES = 8  # pauses of 0.5, 1, 2, 4 and then 8 seconds: a server has half a minute to come back
AT_FIRST: Any = {"max_retries": 2, "timeout": 120.0}  # a wrong address is reported at once
TIMEOUT = Timeout(3600.0, connect=10.0)  # a long response in a busy server's queue takes its time
ASK_AGAIN = frozenset({408, 409, 429})  # beside 5xx; every other 4xx says that the request itself is wrong
LONGEST_MESSAGE = 300
ANY_KEY = "EMPTY"  # for a server without keys; the client wants one
for name in ("httpx", "httpx2"):  # a line for each request, with its whole address
    logging.getLogger(name).setLevel(logging.WARNING)


class ServerError(FailedError):
    """The server fails although nothing is wrong with what it was asked, and still did after all retries."""


class RefusedError(UserError):
    """The server says that the request itself is wrong; `message` is its own, `status` the HTTP one."""

    def __init__(self, url: str, status: int, message: str) -> None:
        super().__init__(f"the server at {url} refuses a request: {message} ({status})")
        self.status, self.message = status, message


class CompletionsServer:
    """A completions server, `model` being what it calls the model; `url` is its address without secrets, `above` its
    address without /v1."""

    def __init__(self, url: str, model: str, key: str) -> None:
        self.url, self.model = shown_address(url), model
        try:
            address = parse_address(url)
            login = {"Authorization": f"Basic {address.basic}"} if address.login else {}
            self._client = AsyncOpenAI(base_url=address.bare, api_key=key or ANY_KEY, timeout=TIMEOUT,
                                       default_headers=login, default_query=address.query)  # fmt: skip
        except Exception as error:  # of several libraries for addresses, which may repeat it
            raise UserError(f"{self.url} is no address of a server: {without_secrets(str(error))}") from None
        self._secrets = (key, *address.secrets)
        self.above = address.bare.removesuffix("/v1")

    def get(self, address: str, options: Any = AT_FIRST) -> Any:
        """What is at a path under the server's address, or at an address of its own."""
        return self._send(self._client.get(address, cast_to=object, options=options)).result()

    def complete(self, body: Mapping[str, Any]) -> Any:
        """The answer to one small completion, to learn what the server can do."""
        return self._post(body, AT_FIRST).result()

    def complete_each(self, bodies: Iterable[Mapping[str, Any]], at_once: int) -> Iterator[tuple[int, Any]]:
        """Each body's number and answer as they come, `at_once` of them in flight; closing it cancels these."""
        waiting = enumerate(bodies)
        live: dict[Future[Any], int] = {}
        try:
            while True:
                for i, body in itertools.islice(waiting, at_once - len(live)):
                    live[self._post(body, {"max_retries": RETRIES})] = i
                if not live:
                    return
                done = next(iter(wait(live, return_when=FIRST_COMPLETED).done))
                yield live.pop(done), done.result()
        finally:
            for future in live:
                future.cancel()

    def _post(self, body: Mapping[str, Any], options: Any) -> Future[Any]:
        whole = {"model": self.model, **body}
        return self._send(self._client.post("/completions", cast_to=object, body=whole, options=options))

    def _send(self, call: Coroutine[Any, Any, object]) -> Future[Any]:
        async def answer() -> object:
            try:
                return await call
            except OpenAIError as error:
                raise self._failure(error) from None

        return asyncio.run_coroutine_threadsafe(answer(), _loop())

    def _public(self, words: str) -> str:
        """A message without secrets, not too long."""
        shown = without_secrets(words, *self._secrets)
        return shown if len(shown) <= LONGEST_MESSAGE else shown[:LONGEST_MESSAGE] + "..."

    def _failure(self, error: OpenAIError) -> Exception:
        if isinstance(error, APIConnectionError):
            reason = self._public(str(error.__cause__ or "").strip() or error.message)
            return ServerError(f"the server at {self.url} does not answer: {reason}")
        if not isinstance(error, APIStatusError):
            return ServerError(f"the server at {self.url} fails: {self._public(str(error))}")
        status, message = error.status_code, self._public(_message(error))
        if status in (401, 403):  # a server's own words may repeat the key
            return UserError(f"the server at {self.url} does not accept the key in OPENAI_API_KEY ({status})")
        if status in ASK_AGAIN or status >= 500:
            pause = error.response.headers.get("retry-after")
            wish = f", and asks to come back after {pause} seconds" if pause else ""
            return ServerError(f"the server at {self.url} fails, however often it is asked: {message} ({status}){wish}")
        return RefusedError(self.url, status, message)


def _message(error: APIError) -> str:
    """The server's own words on one line, else the client's."""
    body = error.body
    while isinstance(body, Mapping):  # {"error": {"message": "..."}}, {"detail": "..."}, {"message": "..."}
        body = next((body[name] for name in ("error", "message", "detail") if body.get(name)), None)
    return " ".join(str(body or error.message).split())


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """The one event loop of this process, in a thread of its own."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="completions", daemon=True).start()
    return loop
