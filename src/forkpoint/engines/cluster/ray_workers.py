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
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import ray
from ray import cloudpickle

from forkpoint.engines.base import Engine
from forkpoint.types import FailedError, UserError

log = logging.getLogger("forkpoint")
Load = Callable[[], Engine]


@dataclass(frozen=True, slots=True)
class Facts:
    """What an engine says of itself, and the warnings that loading it gave."""

    name: str
    tokenizer: Any
    ends: tuple[int, ...]
    vocab_size: int
    most_top: int
    context: int | None
    warnings: tuple[str, ...]


class Replica:
    """An engine in a process of its own, with `threads` for its sums; loaded when it is first needed."""

    def __init__(self, load: bytes, threads: str) -> None:
        os.environ["OMP_NUM_THREADS"] = threads  # read when torch is imported, here and in processes of the engine's
        self._load = load
        self._work: tuple[bytes, Callable[[Engine, Any], Any]] | None = None
        self._claims: dict[str, str] = {}
        self._warnings = _Warnings()

    @cached_property
    def engine(self) -> Engine:
        """The engine itself."""
        log.addHandler(self._warnings)
        try:
            load: Load = pickle.loads(self._load)
            return load()
        finally:
            log.removeHandler(self._warnings)

    def here(self) -> None:
        """Says that the process runs."""

    def claim(self, run: str, feeder: str) -> bool:
        """Whether this replica is the feeder's in this map: it is of the first that asks."""
        return self._claims.setdefault(run, feeder) == feeder

    def settings(self) -> bytes:
        """The engine's settings."""
        return answer(lambda: dict(self.engine.settings))

    def facts(self) -> bytes:
        """What the engine says of itself."""
        return answer(self._facts)

    def run(self, work: bytes, item: bytes) -> bytes:
        """work(engine, item)."""
        return answer(lambda: self._unpickled(work)(self.engine, pickle.loads(item)))

    def _facts(self) -> Facts:
        one = self.engine
        return Facts(
            one.name, one.tokenizer, one.ends, one.vocab_size, one.most_top, one.context, tuple(self._warnings.given)
        )

    def _unpickled(self, work: bytes) -> Callable[[Engine, Any], Any]:
        """The work, unpickled once for all items of a map."""
        if self._work is None or self._work[0] != work:
            self._work = work, pickle.loads(work)
        return self._work[1]


class Feeder:
    """An actor of Ray Data's pool, which makes the first replica its own that no other of the map's feeders has."""

    def __init__(self, replicas: Sequence[Any], run: str, work: Any) -> None:
        atexit.register(os._exit, 0)  # Ray's own clean-up at exit, of a process that called others, can wait for itself
        me = ray.get_runtime_context().get_actor_id()  # the same after a restart
        self.work = work
        for replica in replicas:
            self.replica = replica
            if ray.get(replica.claim.remote(run, me)):
                break

    def __call__(self, row: Mapping[str, bytes]) -> dict[str, bytes]:
        """{"item"} to {"answer"}; the answer says so where the replica died on every attempt."""
        try:
            return {"answer": ray.get(self.replica.run.remote(self.work, row["item"]))}
        except ray.exceptions.RayError as error:
            return {"answer": answer(partial(_give_up, error))}


def _give_up(error: Exception) -> None:
    raise FailedError(f"a replica died on each attempt at an item of work: {said(error)}")


class _Warnings(logging.Handler):
    """Keeps what is logged, for the driver to say."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.given: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.given.append(record.getMessage())


def answer(do: Callable[[], Any]) -> bytes:
    """What do() returns or raises, as bytes for `opened`."""
    try:
        return bytes(cloudpickle.dumps(("value", do(), "")))
    except UserError as error:
        return bytes(cloudpickle.dumps(("wrong", str(error), "")))
    except FailedError as error:
        return bytes(cloudpickle.dumps(("gave up", str(error), "")))
    except Exception as error:
        return bytes(cloudpickle.dumps(("failed", f"{type(error).__name__}: {error}", traceback.format_exc())))


def opened(answer: bytes) -> Any:
    """The value of an answer. Raises the UserError or FailedError of a replica, RuntimeError for all else it raised."""
    kind, value, trace = pickle.loads(answer)
    if kind == "value":
        return value
    if kind == "wrong":
        raise UserError(value)
    if kind == "gave up":
        raise FailedError(value)
    failure = RuntimeError(f"a replica failed: {value}")
    failure.add_note(f"In the replica:\n{trace}")
    raise failure


def said(error: Exception) -> str:
    """The line of one of Ray's errors that names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
