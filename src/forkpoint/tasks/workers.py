"""A few processes that compare mathematical answers, with a deadline for every request and a memory limit.

Works from any thread and in scripts without a ``__main__`` guard: a worker is a plain subprocess, JSON lines in and
out. A kernel timer ends it at the deadline, whatever it is doing. Workers end with the program.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path

START_SECONDS = 120  # that a worker may take to load what it needs
MAX_WORKERS = max(1, min(8, os.cpu_count() or 1))
MEMORY_BYTES = 4 << 30
SOURCE = str(Path(__file__).parents[2])


class Worker:
    """One process. `compare` must not be called from two threads at once."""

    def __init__(self) -> None:
        path = os.pathsep.join(filter(None, (SOURCE, os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from forkpoint.tasks.workers import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="ascii",
            env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )

    def compare(self, gold: str, answer: str, deadline: float) -> tuple[bool, str | None]:
        """See `Pool.compare`."""
        assert self.process.stdout
        try:
            print(json.dumps([gold, answer, deadline]), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except OSError:
            line = ""
        except BaseException:  # interrupted: its late reply would be taken for the next request's
            self.kill()
            raise
        if line.endswith("\n"):
            same, error = json.loads(line)
            return same, error
        self.kill()
        late = self.process.returncode == -signal.SIGALRM
        return False, f"no verdict within {deadline:g} s" if late else "the grading process died"

    def kill(self) -> None:
        with contextlib.suppress(OSError), self.process:  # closes the pipes, where a request may be unread, and waits
            self.process.kill()


class Pool:
    """At most `size` workers at work, started when first needed, and a spare that takes the place of a killed one."""

    def __init__(self, size: int = MAX_WORKERS) -> None:
        self.size = size
        self.start_over()

    def start_over(self) -> None:
        """Forget all workers: those of its parent are not a forked child's."""
        self._free, self._lock = threading.BoundedSemaphore(self.size), threading.Lock()
        self.idle: deque[Worker] = deque()

    def compare(self, gold: str, answer: str, deadline: float) -> tuple[bool, str | None]:
        """Whether two cleaned answers are the same, and what kept it from being found.

        The deadline, in seconds, counts from when a worker is free and has started.
        """
        with self._free:
            with self._lock:
                self.idle = deque(worker for worker in self.idle if worker.process.poll() is None)
                try:
                    worker = self.idle.pop() if self.idle else Worker()
                except OSError as error:
                    return False, f"the grading process did not start: {error.strerror}"
            try:
                return worker.compare(gold, answer, deadline)
            finally:
                with self._lock:
                    if worker.process.poll() is None:
                        self.idle.append(worker)
                    if len(self.idle) < 2:
                        with contextlib.suppress(OSError):  # whoever needs a worker next meets the failure
                            self.idle.appendleft(Worker())

    def close(self) -> None:
        while self.idle:
            self.idle.pop().kill()


POOL = Pool()
atexit.register(POOL.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=POOL.start_over)


def serve() -> None:
    """The worker: replies to each line `[gold, answer, seconds]` by `[same, error]`, until standard input ends."""
    import resource

    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what libraries print goes nowhere
    with contextlib.suppress(ValueError, OSError):  # a lower limit is set already
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    signal.setitimer(signal.ITIMER_REAL, START_SECONDS)
    logging.disable(logging.CRITICAL)
    from forkpoint.tasks.equivalence import equivalent

    equivalent(r"\frac{1}{2}", "x+1")  # everything is loaded and built before the first deadline runs
    signal.setitimer(signal.ITIMER_REAL, 0)
    for line in sys.stdin:
        gold, answer, seconds = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
        try:
            reply: list[bool | str | None] = [equivalent(gold, answer), None]
        except Exception as error:
            reply = [False, f"{type(error).__name__} while comparing"]
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(reply), file=replies, flush=True)
