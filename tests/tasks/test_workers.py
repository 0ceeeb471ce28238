"""Workers answer from any thread, die at the deadline and beyond their memory, and are replaced."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from forkpoint.tasks import grade_response
from forkpoint.tasks.answers import compare_math
from forkpoint.tasks.workers import MEMORY_BYTES, POOL, Pool, Worker
from forkpoint.types import Problem

SLACK = 6.0
"""Seconds on top for starting a new process on a busy machine, which the deadline does not count."""

HOSTILE = ["9^{9^{9^{9}}}", "7^{7^{7^{7}}}", "((9!)!)!", r"\sin(10^{10^{8}})", r"\sum_{k=1}^{1000000}\sin k"]


@pytest.fixture(scope="module", autouse=True)
def _started() -> None:
    POOL.compare("x+1", "1+x", 30.0)
    assert resource.prlimit(POOL.idle[-1].process.pid, resource.RLIMIT_AS) == (MEMORY_BYTES, MEMORY_BYTES)


@pytest.mark.parametrize("expression", HOSTILE)
def test_endless_algebra_is_killed_at_the_deadline(expression: str) -> None:
    started = time.perf_counter()
    verdict = compare_math("5", expression, deadline=0.5)
    assert time.perf_counter() - started < 0.5 + SLACK
    assert (verdict.correct, verdict.error) == (False, "no verdict within 0.5 s")
    assert POOL.compare("x+1", "1+x", 30.0) == (True, None)


def test_a_timeout_reaches_the_grade_and_is_remembered() -> None:
    problem = Problem("1", "How many?", "5", "math")
    grade = grade_response(r"\boxed{9^{9^{9^9}}}", problem, deadline=0.4)
    assert (grade.correct, grade.error) == (False, "no verdict within 0.4 s")
    started = time.perf_counter()
    assert grade_response(r"\boxed{9^{9^{9^9}}}", problem, deadline=0.4) == grade
    assert time.perf_counter() - started < 0.1


def test_a_process_that_cannot_start_costs_no_verdict_and_raises_nothing(monkeypatch) -> None:
    pool = Pool(size=1)
    assert pool.compare("x+1", "1+x", 30.0) == (True, None)
    pool.idle.popleft().kill()

    def none(*_: object, **__: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("forkpoint.tasks.workers.subprocess.Popen", none)
    assert pool.compare("x+1", "1+x", 30.0) == (True, None)
    pool.close()
    result = pool.compare("x", "x", 30.0)
    assert result == (False, "the grading process did not start: Resource temporarily unavailable")


def test_a_worker_that_dies_is_reported_and_replaced() -> None:
    pool = Pool(size=1)
    assert pool.compare("x+1", "1+x", 30.0) == (True, None)
    for worker in pool.idle:
        worker.process.kill()
        worker.process.wait()
    assert pool.compare("x+1", "1+x", 30.0) == (True, None)
    pool.close()
    worker = Worker()
    worker.process.kill()
    assert worker.compare("x+1", "1+x", 30.0) == (False, "the grading process died")
    assert worker.process.poll() is not None


def test_many_threads_at_once() -> None:
    def check(n: int) -> tuple[bool, bool]:
        return compare_math(f"x+{n}", f"{n}+x").correct, compare_math(f"x+{n}", f"x+{n + 1}").correct

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(check, range(40))) == {(True, False)}
    assert len(POOL.idle) <= POOL.size + 1


def test_a_script_without_a_main_guard_leaves_no_process(tmp_path: Path) -> None:
    script = tmp_path / "plain.py"
    script.write_text(
        "import sys, forkpoint\n"
        "print(forkpoint.grade(r'\\boxed{x+1}', '1+x', 'math500').correct)\n"
        "from forkpoint.tasks.workers import POOL\n"
        "print(*[worker.process.pid for worker in POOL.idle])\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True)
    correct, pids = done.stdout.splitlines()
    assert (correct, done.stderr) == ("True", "")
    assert pids
    for pid in pids.split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_workers_of_its_own() -> None:
    if (child := os.fork()) == 0:
        same = False
        try:
            same = POOL.compare("y+2", "2+y", 30.0) == (True, None)
        finally:
            os._exit(not same)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert POOL.compare("y+3", "3+y", 30.0) == (True, None)
