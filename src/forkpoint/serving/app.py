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
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from forkpoint.engines import Engine
from forkpoint.serving import errors, responses, streaming
from forkpoint.serving.errors import ApiError
from forkpoint.serving.jobs import Job, job_of, served_strategy
from forkpoint.serving.requests import Body, ChatBody, CompletionBody, read_body
from forkpoint.serving.responses import CHAT, COMPLETION, CompletionShape
from forkpoint.serving.settings import READY_MADE, Settings
from forkpoint.serving.work import Abandoned, ServingEngine, WorkPool

log = logging.getLogger("forkpoint.serving")
Payload = list[dict[str, Any]]
"""A whole response as its only element, or the chunks of a stream."""


def create_app(engine: Engine, settings: Settings = Settings()) -> FastAPI:  # noqa: B008 (frozen)
    """The application; run it with any ASGI server, in one process. `app.state.pool` is its work."""
    pool = WorkPool(settings.running, settings.waiting)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        pool.close()

    app = FastAPI(title="forkpoint serve", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    errors.install(app)
    app.state.pool = pool
    app.add_middleware(KeyCheck, key=settings.key)
    started = int(time.time())

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(name, engine, started) for name in READY_MADE]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        return _model(served_strategy(name).spec, engine, started)

    @app.get("/health")
    async def health() -> JSONResponse:
        wrong = await asyncio.to_thread(settings.upstream) if settings.upstream else None
        state = {"status": "ok" if wrong is None else "upstream down", "model": engine.name, **pool.counts()}
        return JSONResponse(state | {"upstream": wrong or "ok"}, 200 if wrong is None else 503)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await answer(request, CompletionBody, COMPLETION)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await answer(request, ChatBody, CHAT)

    async def answer(request: Request, kind: type[Body], shape: CompletionShape) -> Response:
        began = time.monotonic()
        try:
            raw = await _read(request, settings.most_bytes)
            body, job = await asyncio.to_thread(_understand, engine, kind, raw, settings)
            piece = pool.start(lambda abandoned: _payload(ServingEngine(engine, abandoned), job, body, shape))
        except ApiError as error:
            log.info("%s refused, %d: %s", request.url.path, error.status, error.message)
            raise
        result: asyncio.Future[Payload] = piece.result
        result.add_done_callback(lambda done: _log(request, body, job, done, time.monotonic() - began))
        if not body.stream:
            return JSONResponse((await _unless_gone(request, result, piece.abandon))[0])
        await asyncio.wait({result}, timeout=settings.keep_alive)  # a failure this early has a status of its own
        if result.done():
            result.result()
        stream = _abandoning(streaming.events(result, settings.keep_alive), piece.abandon)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    return app


def _understand(engine: Engine, kind: type[Body], raw: bytes, settings: Settings) -> tuple[Body, Job]:
    body = read_body(kind, raw)
    return body, job_of(engine, body, settings)


def _payload(engine: Engine, job: Job, body: Body, shape: CompletionShape) -> Payload:
    """Solve a job. In a thread of the pool."""
    outcomes = job.strategy.solve(engine, job.cases)
    choices = responses.choices_of(job, outcomes, with_texts=body.return_paths)
    usage = responses.usage_of(job, outcomes)
    if not body.stream:
        return [responses.whole(shape, body.model, choices, usage)]
    wanted = usage if body.stream_options and body.stream_options.include_usage else None
    return list(streaming.chunks(shape, body.model, choices, wanted, engine.tokenizer))


def _model(name: str, engine: Engine, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "forkpoint", "root": engine.name}


async def _read(request: Request, most: int) -> bytes:
    """The body, refused (413) as soon as it is too long."""
    raw = bytearray()
    async for part in request.stream():
        raw += part
        if len(raw) > most:
            raise ApiError(413, f"the body is longer than the {most} bytes that this server reads")
    return bytes(raw)


async def _unless_gone(request: Request, result: asyncio.Future[Payload], abandon: Callable[[], None]) -> Payload:
    """The result; abandoned when the client is gone before."""
    left = asyncio.create_task(_gone(request))
    first: set[asyncio.Future[Any]] = {result, left}
    try:
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise ApiError(499, "the client left before its answer was there")
        return result.result()
    finally:
        left.cancel()
        abandon()  # does nothing to what is done


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _abandoning(stream: AsyncIterator[str], abandon: Callable[[], None]) -> AsyncIterator[str]:
    try:
        async for event in stream:
            yield event
    finally:
        abandon()


def _log(request: Request, body: Body, job: Job, done: asyncio.Future[Payload], seconds: float) -> None:
    """One line a request that reached the engine."""
    error = None if done.cancelled() else done.exception()
    left = done.cancelled() or isinstance(error, Abandoned)
    said = "the client left" if left else "done" if error is None else str(error) or type(error).__name__
    log.info(
        "%s %s, %d prompt tokens, %.2f s: %s", request.url.path, job.strategy.spec, job.prompt_tokens, seconds, said
    )


class KeyCheck:
    """Refuses what does not bring the key, the health check apart."""

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self._app, self._wanted = app, key and f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._wanted or scope["path"] == "/health":
            return await self._app(scope, receive, send)
        given = dict(scope["headers"]).get(b"authorization", b"")
        if hmac.compare_digest(given, self._wanted):
            return await self._app(scope, receive, send)
        error = ApiError(401, "this server wants its key: Authorization: Bearer KEY", code="invalid_api_key")
        return await error.response()(scope, receive, send)
