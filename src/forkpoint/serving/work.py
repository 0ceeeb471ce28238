"""Where strategies run: a bounded pool of threads, and an engine that can be stopped.

A request waits for a thread, then holds it until its strategy is done. Work that nobody waits for any more is dropped:
at once while it waits for a thread, else before the next completion that the engine hands out.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from forkpoint.engines import Engine
from forkpoint.engines.remote.openai_calls import RefusedError, ServerError
from forkpoint.serving.errors import ApiError, bad
from forkpoint.types import Completion, Request, Sampling, Scored, TokenIds, UserError

T = TypeVar("T")
OF_THE_REQUEST = (400, 413, 422)  # an upstream's refusals that are passed on; of others the client is innocent


class Abandoned(Exception):  # noqa: N818 (nobody's error)
    """Nobody waits for this work any more."""


class ServingEngine(Engine):
    """An engine's work for one request, until `abandoned` is set, with its errors told apart.

    What an engine refuses before it starts is the request's fault (400). What it raises while it works is not (502),
    unless an upstream says that the request is wrong.
    """

    def __init__(self, engine: Engine, abandoned: threading.Event) -> None:
        self._engine, self._abandoned = engine, abandoned
        self.name, self.tokenizer, self.ends = engine.name, engine.tokenizer, engine.ends
        self.vocab_size, self.most_top, self.context = engine.vocab_size, engine.most_top, engine.context
        self.settings = engine.settings

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """See `Engine.generate`."""
        return self._each(lambda: self._engine.generate(requests, sampling))

    def score(self, sequences: Sequence[TokenIds], **options: Any) -> Iterator[Scored]:
        """See `Engine.score`."""
        return self._each(lambda: self._engine.score(sequences, **options))

    def beam_search(self, requests: Sequence[Request], num_beams: int, sampling: Sampling) -> Iterator[Completion]:
        """See `Engine.beam_search`."""
        return self._each(lambda: self._engine.beam_search(requests, num_beams, sampling))

    def _each(self, start: Callable[[], Iterator[T]]) -> Iterator[T]:
        self._check()
        try:
            results = start()
        except UserError as error:
            raise bad(str(error)) from error
        try:
            for result in results:
                self._check()
                yield result
        except RefusedError as error:
            raise ApiError(400 if error.status in OF_THE_REQUEST else 502, str(error)) from error
        except (ServerError, UserError) as error:
            raise ApiError(502, str(error), code="upstream_failed") from error
        finally:  # closing a generator drops what it has not done yet
            getattr(results, "close", lambda: None)()

    def _check(self) -> None:
        if self._abandoned.is_set():
            raise Abandoned


@dataclass(eq=False)
class Piece:
    """One piece of work, its result in the event loop, and whether anybody still waits for that."""

    work: Callable[[threading.Event], Any]
    result: asyncio.Future[Any]
    abandoned: threading.Event = field(default_factory=threading.Event)

    def abandon(self) -> None:
        """Nobody waits any more; does nothing to what is done."""
        self.abandoned.set()
        self.result.cancel()


class WorkPool:
    """At most `running` pieces of work at a time, each in a thread, and `waiting` more in line.

    The threads are daemons: a process that ends does not wait for an upstream's answer. The methods are for the thread
    of the event loop.
    """

    def __init__(self, running: int, waiting: int) -> None:
        self._most_running, self._most = running, running + waiting
        self._running: set[Piece] = set()
        self._line: dict[Piece, None] = {}  # in order
        self._closed = False

    def start(self, work: Callable[[threading.Event], Any]) -> Piece:
        """Let `work(abandoned)` be done. Raises ApiError (503) where all places are taken."""
        if self._closed:
            raise _stopping()
        if len(self._running) + len(self._line) >= self._most:
            message = f"{self._most} requests are being answered or waiting; come again later"
            raise ApiError(503, message, code="overloaded", headers={"Retry-After": "5"})
        piece = Piece(work, asyncio.get_running_loop().create_future())
        piece.result.add_done_callback(lambda _: self._line.pop(piece, None))
        self._line[piece] = None
        self._start_next()
        return piece

    def counts(self) -> dict[str, int]:
        """How many requests are worked on, and how many wait."""
        return {"running": len(self._running), "waiting": len(self._line)}

    def close(self) -> None:
        """Drop all work and take no more: each request that waits is answered that the server stops."""
        self._closed = True
        for piece in [*self._running, *self._line]:
            if not piece.result.done():
                piece.result.set_exception(_stopping())
            piece.abandon()

    def _start_next(self) -> None:
        while self._line and len(self._running) < self._most_running:
            piece = next(iter(self._line))
            del self._line[piece]
            if piece.result.done():
                continue
            self._running.add(piece)
            try:
                threading.Thread(target=self._run, args=(piece,), name="forkpoint-serve", daemon=True).start()
            except RuntimeError as error:  # the system gives no more threads
                self._running.discard(piece)
                piece.result.set_exception(error)

    def _run(self, piece: Piece) -> None:
        """What each thread does."""
        value, error = None, None
        try:
            value = piece.work(piece.abandoned)
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
            piece.result.get_loop().call_soon_threadsafe(self._settle, piece, value, error)
        del piece, value, error  # else an error's traceback, which holds this frame, would keep all that it passed

    def _settle(self, piece: Piece, value: Any, error: BaseException | None) -> None:
        self._running.discard(piece)
        if not piece.result.done():
            if error is None:
                piece.result.set_result(value)
            else:
                piece.result.set_exception(error)
        self._start_next()


def _stopping() -> ApiError:
    return ApiError(503, "this server is stopping", code="stopping", headers={"Retry-After": "30"})
