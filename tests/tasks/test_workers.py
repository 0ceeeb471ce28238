"""Workers answer from any thread, die at the deadline, and are replaced."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from forkpoint.tasks import grade_response
from forkpoint.tasks.answers import compare_math
from forkpoint.tasks.workers import Pool, Worker, WorkerFailure, compare
from forkpoint.types import Problem

SLACK = 6.0
"""Seconds on top for starting a new process on a busy machine, which the deadline does not count."""

HOSTILE = ["9^{9^{9^{9}}}", "7^{7^{7^{7}}}", "((9!)!)!", r"\sin(10^{10^{8}})", r"\sum_{k=1}^{1000000}\sin k"]


@pytest.fixture(scope="module", autouse=True)
def _started() -> None:
    compare("x+1", "1+x", 30.0)


@pytest.mark.parametrize("expression", HOSTILE)
def test_endless_algebra_is_killed_at_the_deadline(expression: str) -> None:
    started = time.perf_counter()
    verdict = compare_math("5", expression, deadline=0.5)
    assert time.perf_counter() - started < 0.5 + SLACK
    assert not verdict.same
    assert verdict.error == "no verdict within 0.5 s"


def test_the_next_request_after_a_kill_is_answered() -> None:
    with pytest.raises(WorkerFailure, match="no verdict within"):
        compare("5", "7^{7^{7^{7}}}", 0.3)
    assert compare("x+1", "1+x", 30.0)


def test_a_timeout_reaches_the_grade_and_is_remembered() -> None:
    problem = Problem("1", "How many?", "5", "math")
    grade = grade_response(r"\boxed{9^{9^{9^9}}}", problem, deadline=0.4)
    assert (grade.correct, grade.error) == (False, "no verdict within 0.4 s")
    started = time.perf_counter()
    assert grade_response(r"\boxed{9^{9^{9^9}}}", problem, deadline=0.4) == grade
    assert time.perf_counter() - started < 0.1


def test_a_worker_that_dies_is_reported_and_replaced() -> None:
    pool = Pool(size=1)
    assert pool.compare("x+1", "1+x", 30.0)
    for worker in list(pool._idle):
        worker.process.kill()
        worker.process.wait()
    assert pool.compare("x+1", "1+x", 30.0)
    pool.close()
    worker = Worker()
    worker.process.kill()
    with pytest.raises(WorkerFailure, match="died"):
        worker.compare("x+1", "1+x", 30.0)
    assert not worker.alive()


def test_many_threads_at_once() -> None:
    wrong = threading.Event()

    def check(n: int) -> None:
        same = compare_math(f"x+{n}", f"{n}+x").same
        other = compare_math(f"x+{n}", f"x+{n + 1}").same
        if not same or other:
            wrong.set()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(check, range(40)))
    assert not wrong.is_set()


def test_a_script_without_a_main_guard_leaves_no_process(tmp_path: Path) -> None:
    script = tmp_path / "plain.py"
    script.write_text(
        "import forkpoint\n"
        "print(forkpoint.grade(r'\\boxed{x+1}', '1+x', 'math500').correct)\n"
        "from forkpoint.tasks import workers\n"
        "import time; time.sleep(0.1)\n"
        "with workers._pool._starting_spare: pass\n"
        "print(*[w.process.pid for w in workers._pool._idle])\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True)
    correct, pids = done.stdout.splitlines()
    assert correct == "True"
    assert done.stderr == ""
    assert pids
    for pid in pids.split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_workers_of_its_own() -> None:
    compare("y+1", "1+y", 30.0)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if compare("y+2", "2+y", 30.0) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert compare("y+3", "3+y", 30.0)
