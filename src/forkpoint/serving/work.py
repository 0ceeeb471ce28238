"""Where strategies run: a bounded pool of threads, and an engine that can be told to stop.

A request waits for a thread, and then holds it until its strategy is done. Who comes when all places to wait are taken
is told to come again. Work that nobody waits for any more is dropped: at once while it waits for a thread, else
before the next completion that the engine hands out.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from forkpoint.engines import Engine
from forkpoint.engines.openai_calls import RefusedError, ServerError
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

    @property
    def settings(self) -> Mapping[str, str | int | None]:
        """See `Engine.settings`."""
        return self._engine.settings

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


class Pool:
    """At most `running` pieces of work at a time, each in a thread, and `waiting` more in line.

    The threads are daemons: a process that ends does not wait for an upstream's answer.
    """

    def __init__(self, running: int, waiting: int) -> None:
        self._most_running, self._most = running, running + waiting
        self._line: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._unfinished: dict[Future[Any], threading.Event] = {}
        self._threads = 0

    def start(self, work: Callable[[threading.Event], T]) -> tuple[asyncio.Future[T], Callable[[], None]]:
        """The future result of `work(abandoned)`, and what to call when nobody waits for it any more.

        Call it in the event loop. Raises ApiError (503) where all places are taken.
        """
        if len(self._unfinished) >= self._most:
            raise ApiError(
                503, f"{self._most} requests are being answered or waiting; come again later",
                code="overloaded", headers={"Retry-After": "5"},
            )  # fmt: skip
        abandoned: threading.Event = threading.Event()
        future: Future[T] = Future()
        self._unfinished[future] = abandoned
        future.add_done_callback(lambda done: self._unfinished.pop(done, None))
        if self._threads < self._most_running:
            self._threads += 1
            threading.Thread(target=self._run, name=f"forkpoint-serve-{self._threads}", daemon=True).start()
        self._line.put((future, lambda: work(abandoned)))

        def abandon() -> None:
            abandoned.set()
            future.cancel()  # does nothing once it runs

        return asyncio.wrap_future(future), abandon

    def counts(self) -> dict[str, int]:
        """How many requests are worked on, and how many wait."""
        unfinished = len(self._unfinished)
        running = min(unfinished, self._most_running)
        return {"running": running, "waiting": unfinished - running}

    def close(self) -> None:
        """Drop all work: nothing new starts, what runs stops at its next step."""
        for future, abandoned in list(self._unfinished.items()):
            abandoned.set()
            future.cancel()

    def _run(self) -> None:
        while True:
            future, work = self._line.get()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:
                    future.set_exception(error)
            del future, work  # while it waits it keeps nobody's answer
