"""What runs in Ray's processes: a replica holds an engine, a feeder hands one replica its items.

Ray Data makes the actors of its pool anew for every map. The engines live in actors of their own, so that a model is
loaded once for all maps of a run; each actor of the pool is bound to one of them. Work, items and answers travel as
pickled bytes between processes that one program started; none of it is ever read from a file. Imports neither torch
nor transformers, so that feeders start fast.
"""

from __future__ import annotations

import atexit
import logging
import os
import pickle
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import ray
from ray import cloudpickle

from forkpoint.engines.base import Engine
from forkpoint.types import FailedError, UserError

log = logging.getLogger("forkpoint")
FACTS = ("name", "tokenizer", "ends", "vocab_size", "most_top", "context")


class Replica:
    """An engine in a process of its own, with `threads` for its sums; loaded when it is first needed."""

    def __init__(self, load: bytes, threads: str) -> None:
        os.environ["OMP_NUM_THREADS"] = threads  # read when torch is imported, here and in processes of the engine's
        self._load = load
        self._warnings: list[str] = []

    @cached_property
    def engine(self) -> Engine:
        """The engine itself. What loading it warns of is kept for the driver."""
        handler = logging.Handler(logging.WARNING)
        handler.emit = lambda record: self._warnings.append(record.getMessage())  # type: ignore[method-assign]
        log.addHandler(handler)
        try:
            load: Callable[[], Engine] = pickle.loads(self._load)
            return load()
        finally:
            log.removeHandler(handler)

    def settings(self) -> bytes:
        """The engine's settings."""
        return packed(lambda: dict(self.engine.settings))

    def facts(self) -> bytes:
        """The engine's attributes, as `FACTS` names them, and the warnings that loading it gave."""
        return packed(lambda: (tuple(getattr(self.engine, name) for name in FACTS), self._warnings))

    def run(self, work: bytes, item: bytes) -> bytes:
        """work(engine, item)."""
        return packed(lambda: _work(work)(self.engine, pickle.loads(item)))


@lru_cache(maxsize=1)
def _work(pickled: bytes) -> Callable[[Engine, Any], Any]:
    """The work, unpickled once for all items of a map."""
    work: Callable[[Engine, Any], Any] = pickle.loads(pickled)
    return work


class Roster:
    """Numbers the feeders of each map, in a process of its own: a replica does not answer while it works."""

    def __init__(self) -> None:
        self._feeders: dict[str, dict[str, int]] = {}

    def number(self, run: str, feeder: str) -> int:
        """How many feeders of this map asked before this one; the same on every call."""
        feeders = self._feeders.setdefault(run, {})
        return feeders.setdefault(feeder, len(feeders))


class Feeder:
    """An actor of Ray Data's pool, bound to the replica of its number in the roster."""

    def __init__(self, replicas: Sequence[Any], roster: Any, run: str, work: Any) -> None:
        atexit.register(os._exit, 0)  # Ray's own clean-up at exit, of a process that called others, can wait for itself
        me = ray.get_runtime_context().get_actor_id()  # the same after a restart
        self.work = work
        self.replica = replicas[ray.get(roster.number.remote(run, me)) % len(replicas)]

    def __call__(self, row: Mapping[str, bytes]) -> dict[str, bytes]:
        """{"item"} to {"answer"}, which is a FailedError where the replica died on every attempt."""
        try:
            return {"answer": ray.get(self.replica.run.remote(self.work, row["item"]))}
        except ray.exceptions.RayError as error:
            words = f"a replica died on each attempt at an item of work: {cause_of(error)}"
            return {"answer": _pickled(FailedError, words)}


def packed(do: Callable[[], Any]) -> bytes:
    """What do() returns or raises, as bytes for `opened`."""
    try:
        return _pickled(None, do())
    except (UserError, FailedError) as error:
        return _pickled(UserError if isinstance(error, UserError) else FailedError, str(error))
    except Exception as error:
        return _pickled(RuntimeError, f"a replica failed: {type(error).__name__}: {error}", traceback.format_exc())


def _pickled(kind: type[Exception] | None, value: Any, trace: str = "") -> bytes:
    return bytes(cloudpickle.dumps((kind, value, trace)))


def opened(answer: bytes) -> Any:
    """The value of an answer. Raises the UserError or FailedError of a replica, RuntimeError for any other error."""
    kind, value, trace = pickle.loads(answer)
    if kind is None:
        return value
    failure = kind(value)
    if trace:
        failure.add_note(f"In the replica:\n{trace}")
    raise failure


def cause_of(error: Exception) -> str:
    """The line of one of Ray's errors that names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
