"""A few processes that do algebra, each killed when it overruns its deadline.

Works from any thread and in scripts without a ``__main__`` guard: workers are plain subprocesses, and nothing
here uses signals. A worker's start-up does not count against the deadline. Processes end with the program.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections import deque

MAX_WORKERS = max(1, min(8, os.cpu_count() or 1))
START_SECONDS = 120.0


class WorkerFailure(Exception):  # noqa: N818 (not an error of ours, nor of the user)
    """The worker gave no verdict; the message says why, in words for a report."""


class Worker:
    """One process. `compare` must not be called from two threads at once."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "forkpoint.tasks.grading_worker"]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="ascii",
            env=_environment(),
        )
        if "ready" not in self._reply(START_SECONDS):
            raise WorkerFailure("the grading process did not start")

    def compare(self, gold: str, answer: str, deadline: float) -> bool:
        """Whether two normalised answers are the same. A late worker is killed."""
        assert self.process.stdin is not None
        request = {"gold": gold, "answer": answer, "seconds": deadline}
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except OSError:
            self.kill()
            raise WorkerFailure("the grading process died") from None
        reply = self._reply(deadline)
        if "error" in reply:
            raise WorkerFailure(str(reply["error"]))
        return bool(reply["same"])

    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                with contextlib.suppress(OSError):  # the rest of a request that nobody will read
                    pipe.close()

    def _reply(self, seconds: float) -> dict[str, object]:
        assert self.process.stdout is not None
        late = threading.Event()

        def overrun() -> None:
            late.set()
            self.process.kill()

        timer = threading.Timer(seconds, overrun)
        timer.daemon = True
        timer.start()
        try:
            line = self.process.stdout.readline()
        finally:
            timer.cancel()
        if not line.endswith("\n"):
            self.kill()
            raise WorkerFailure(f"no verdict within {seconds:g} s" if late.is_set() else "the grading process died")
        reply: dict[str, object] = json.loads(line)
        return reply


class Pool:
    """At most `size` workers at work, started when first needed, and one spare.

    The spare starts in the background, so that who comes after a worker was killed does not wait for a new
    one.
    """

    def __init__(self, size: int = MAX_WORKERS) -> None:
        self._free = threading.BoundedSemaphore(size)
        self._idle: deque[Worker] = deque()
        self._starting_spare = threading.Lock()

    def compare(self, gold: str, answer: str, deadline: float) -> bool:
        """Whether two normalised answers are the same. Raises WorkerFailure where there is no verdict.

        The deadline counts from when a worker is free and has started.
        """
        with self._free:
            worker = self._take()
            if not self._idle and self._starting_spare.acquire(blocking=False):
                threading.Thread(target=self._start_spare, daemon=True).start()
            try:
                return worker.compare(gold, answer, deadline)
            except BaseException as error:
                # Interrupted while it works: its late answer would be taken for the next request's.
                if not isinstance(error, WorkerFailure):
                    worker.kill()
                raise
            finally:
                if worker.alive():
                    self._idle.append(worker)

    def _take(self) -> Worker:
        for wait_for_spare in (True, False):
            while self._idle:
                with contextlib.suppress(IndexError):  # another thread took the last one
                    worker = self._idle.pop()
                    if worker.alive():
                        return worker
            if wait_for_spare:
                with self._starting_spare:
                    pass
        return Worker()

    def _start_spare(self) -> None:
        try:
            # Who needs a worker next meets the failure itself.
            with contextlib.suppress(WorkerFailure, OSError):
                self._idle.append(Worker())
        finally:
            self._starting_spare.release()

    def close(self) -> None:
        """End the idle workers."""
        while self._idle:
            self._idle.pop().kill()


_pool = Pool()


def compare(gold: str, answer: str, deadline: float) -> bool:
    """`Pool.compare` on the pool of this process."""
    return _pool.compare(gold, answer, deadline)


def _forget_workers() -> None:
    """In a forked child: its parent's workers are not its own."""
    global _pool
    _pool = Pool()


def _close_workers() -> None:
    _pool.close()


def _environment() -> dict[str, str]:
    """Lets the worker find this very package, and keeps numeric libraries to one thread each."""
    from forkpoint import __file__ as package

    source = os.path.dirname(os.path.dirname(os.path.abspath(package)))
    path = os.pathsep.join(p for p in (source, os.environ.get("PYTHONPATH")) if p)
    return {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


atexit.register(_close_workers)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_workers)
