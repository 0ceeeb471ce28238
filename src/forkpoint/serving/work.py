"""Where strategies run: a bounded pool of threads, and an engine that can be told to stop.

A request waits for a thread, and then holds it until its strategy is done. Who comes when all places to wait are taken
is told to come again. Work that nobody waits for any more is dropped: at once while it waits for a thread, else
before the next completion that the engine hands out.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
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
    """An engine's work for one request: until `abandoned` is set, and with its errors told apart.

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

    def score(
        self,
        sequences: Sequence[TokenIds],
        *,
        top: int = 0,
        sampling: Sampling | None = None,
        starts: Sequence[int] | None = None,
    ) -> Iterator[Scored]:
        """See `Engine.score`."""
        return self._each(lambda: self._engine.score(sequences, top=top, sampling=sampling, starts=starts))

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


@dataclass(frozen=True, eq=False)
class Piece:
    """One piece of work: what the thread tells, what the event loop waits for, and whether anybody still does."""

    told: Future[Any]
    result: asyncio.Future[Any]
    abandoned: threading.Event

    def abandon(self) -> None:
        """Nobody waits any more."""
        self.abandoned.set()
        self.told.cancel()  # does nothing once it runs

    def settle(self) -> None:
        """Hand on what the thread told, in the event loop."""
        if self.result.done():
            return
        if self.told.cancelled():
            self.result.cancel()
        elif error := self.told.exception():
            self.result.set_exception(error)
        else:
            self.result.set_result(self.told.result())


class WorkPool:
    """At most `running` pieces of work at a time, each in a thread, and `waiting` more in line.

    The threads are daemons: a process that ends does not wait for an upstream's answer. Its methods are for the thread
    of the event loop.
    """

    def __init__(self, running: int, waiting: int) -> None:
        self._most_running, self._most = running, running + waiting
        self._line: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._unfinished: set[Piece] = set()
        self._threads = 0
        self._closed = False

    def start(self, work: Callable[[threading.Event], Any]) -> Piece:
        """Let `work(abandoned)` be done. Raises ApiError (503) where all places are taken."""
        if self._closed:
            raise stopping()
        if len(self._unfinished) >= self._most:
            raise ApiError(
                503, f"{self._most} requests are being answered or waiting; come again later",
                code="overloaded", headers={"Retry-After": "5"},
            )  # fmt: skip
        loop = asyncio.get_running_loop()
        piece = Piece(Future(), loop.create_future(), threading.Event())
        self._unfinished.add(piece)

        def finish() -> None:
            self._unfinished.discard(piece)
            piece.settle()

        def finished(_: Future[Any]) -> None:  # in the thread, or where it was cancelled
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
                loop.call_soon_threadsafe(finish)

        piece.told.add_done_callback(finished)
        if self._threads < self._most_running:
            self._threads += 1
            threading.Thread(target=self._run, name=f"forkpoint-serve-{self._threads}", daemon=True).start()
        self._line.put((piece.told, lambda: work(piece.abandoned)))
        return piece

    def counts(self) -> dict[str, int]:
        """How many requests are worked on, and how many wait."""
        unfinished = len(self._unfinished)
        running = min(unfinished, self._most_running)
        return {"running": running, "waiting": unfinished - running}

    def close(self) -> None:
        """Drop all work and take no more: who waits for it is told that the server stops."""
        self._closed = True
        for piece in list(self._unfinished):
            if not piece.result.done():
                piece.result.set_exception(stopping())
            piece.abandon()

    def _run(self) -> None:
        while True:
            told, work = self._line.get()
            if told.set_running_or_notify_cancel():
                try:
                    told.set_result(work())
                except BaseException as error:
                    told.set_exception(error)
            del told, work  # while it waits it keeps nobody's answer


def stopping() -> ApiError:
    """What a server says that goes down."""
    return ApiError(503, "this server is stopping", code="stopping", headers={"Retry-After": "30"})
