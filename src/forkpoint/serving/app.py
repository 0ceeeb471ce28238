"""The server: OpenAI's routes over an `Engine`, one strategy call a request.

GET  /v1/models, /v1/models/NAME      the ready-made strategies; whether a name is one
POST /v1/completions                  prompts
POST /v1/chat/completions             messages, by the tokenizer's chat template
GET  /health                          this server, its load, and its upstream
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from forkpoint.engines import Engine
from forkpoint.engines.remote.openai_calls import CompletionsServer
from forkpoint.serving import errors, responses
from forkpoint.serving.errors import ApiError
from forkpoint.serving.jobs import Job, job_of, served_strategy
from forkpoint.serving.requests import Body, ChatBody, CompletionBody, read_body
from forkpoint.serving.settings import READY_MADE, Settings
from forkpoint.serving.work import Abandoned, Piece, ServingEngine, WorkPool
from forkpoint.types import FailedError, UserError

log = logging.getLogger("forkpoint.serving")
ONCE: Any = {"max_retries": 0, "timeout": 3.0}  # seconds


def create_app(engine: Engine, settings: Settings = Settings()) -> FastAPI:  # noqa: B008 (frozen)
    """The application; run it with any ASGI server, in one process. `app.state.pool` is its work."""
    pool = WorkPool(settings.running, settings.waiting)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        pool.close()

    app = FastAPI(
        title="forkpoint serve", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None,
        exception_handlers=errors.HANDLERS,
    )  # fmt: skip
    app.state.pool = pool
    app.add_middleware(KeyCheck, key=settings.key)
    started = int(time.time())

    def described(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": started, "owned_by": "forkpoint", "root": engine.name}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [described(name) for name in READY_MADE]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        return described(served_strategy(name).spec)

    @app.get("/health")
    async def health() -> JSONResponse:
        wrong = await asyncio.to_thread(settings.upstream) if settings.upstream else None
        state = {"status": "ok" if wrong is None else "upstream down", "model": engine.name, **pool.counts()}
        return JSONResponse(state | {"upstream": wrong or "ok"}, 200 if wrong is None else 503)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await answer(request, CompletionBody)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await answer(request, ChatBody)

    async def answer(request: Request, kind: type[Body]) -> Response:
        began = time.monotonic()
        try:
            raw = await _read(request, settings.most_bytes)
            job = await asyncio.to_thread(lambda: job_of(engine, read_body(kind, raw), settings))
            piece = pool.start(lambda abandoned: responses.payload(ServingEngine(engine, abandoned), job))
        except ApiError as error:
            log.info("%s refused, %d: %s", request.url.path, error.status, error.message)
            raise
        piece.result.add_done_callback(lambda done: _log(request, job, done, time.monotonic() - began))
        if not job.body.stream:
            return JSONResponse((await _unless_gone(request, piece))[0])
        await asyncio.wait({piece.result}, timeout=settings.keep_alive)  # a failure this early has a status of its own
        if piece.result.done():
            piece.result.result()
        events = responses.events(piece, settings.keep_alive)
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    return app


async def _read(request: Request, most: int) -> bytes:
    """The body, refused (413) as soon as it is too long."""
    raw = bytearray()
    async for part in request.stream():
        raw += part
        if len(raw) > most:
            raise ApiError(413, f"the body is longer than the {most} bytes that this server reads")
    return bytes(raw)


async def _unless_gone(request: Request, piece: Piece) -> list[dict[str, Any]]:
    """The piece's result; the piece is abandoned when the client is gone before."""
    gone = asyncio.create_task(_gone(request))
    either: set[asyncio.Future[Any]] = {piece.result, gone}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not piece.result.done():
            raise ApiError(499, "the client left before its answer was there")
        return list(piece.result.result())
    finally:
        gone.cancel()
        piece.abandon()  # does nothing to what is done


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _log(request: Request, job: Job, done: asyncio.Future[Any], seconds: float) -> None:
    """One line a request that reached the engine."""
    error = None if done.cancelled() else done.exception()
    left = done.cancelled() or isinstance(error, Abandoned)
    end = "the client left" if left else "done" if error is None else str(error) or type(error).__name__
    log.info(
        "%s %s, %d prompt tokens, %.2f s: %s", request.url.path, job.strategy.spec, job.prompt_tokens, seconds, end
    )


class KeyCheck:
    """Refuses what does not bring the key, the health check apart."""

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self._app, self._wanted = app, key and f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answers: ASGIApp = self._app
        if scope["type"] == "http" and self._wanted and scope["path"] != "/health":
            sent = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(sent, self._wanted):
                message = "this server wants its key: Authorization: Bearer KEY"
                answers = ApiError(401, message, code="invalid_api_key").response()
        await answers(scope, receive, send)


def whats_wrong(url: str) -> str | None:
    """None where the server at `url` (http://HOST:PORT/v1) lists its models, else why it does not, in one sentence."""
    try:
        _upstream(url).get("/models", ONCE)
    except (UserError, FailedError) as error:
        return str(error)
    return None


@cache
def _upstream(url: str) -> CompletionsServer:
    return CompletionsServer(url, "", os.environ.get("OPENAI_API_KEY", "").strip())


def serve_until_stopped(app: FastAPI, listening: socket.socket, grace: float) -> None:
    """Serve until SIGINT or SIGTERM; then for `grace` seconds more, or to a second signal, what is under way."""
    after = int(grace) + 5  # seconds, for bodies that never end
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=after)
    DrainingServer(config, app, grace).run(sockets=[listening])


class DrainingServer(uvicorn.Server):
    """Uvicorn's, but instead of cancelling work it answers 503 to each request that waits for it."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, grace: float) -> None:
        super().__init__(config)
        self._app, self._grace, self._dropped = app, grace, False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins the end, the second ends what is under way, a third ends at once."""
        loop = asyncio.get_running_loop()
        if not self.should_exit:
            timer = threading.Timer(self._grace, lambda: loop.call_soon_threadsafe(self._drop))
            timer.daemon = True
            timer.start()
        elif not self._dropped:
            loop.call_soon_threadsafe(self._drop)
            return
        super().handle_exit(sig, frame)

    def _drop(self) -> None:
        self._dropped = True
        self._app.state.pool.close()
