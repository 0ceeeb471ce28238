"""The ray engine against one process: the same bytes, whatever is killed on the way."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from engine_contract import GREEDY, EngineContract, assert_same, requests
from ray import cloudpickle

from forkpoint.cli import main
from forkpoint.engines import Engine, load_engine
from forkpoint.engines.cluster.ray_engine import check_address, chunks, load_ray, resources
from forkpoint.engines.cluster.ray_workers import Replica, opened
from forkpoint.evaluation import evaluate as evaluation
from forkpoint.tasks import load_problems
from forkpoint.types import FailedError, Request, UserError

pytestmark = pytest.mark.slow

STRATEGIES = ["greedy", "cot-decoding:k=4"]
N = 12  # problems


@pytest.fixture(scope="module")
def engine() -> Engine:
    """Two replicas on a Ray of this process."""
    return load_ray(partial(load_engine, "lab"), 2, gpus_each=0)


@pytest.fixture(autouse=True, scope="module")
def _small_units():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "UNIT_PATHS", 8)
        yield


def evaluate(engine: Engine, out: Path, progress: Any = None) -> dict[str, bytes]:
    """The files of an evaluation, timings aside."""
    problems = load_problems("lab", limit=N)
    evaluation.evaluate(engine, problems, STRATEGIES, task="lab", max_tokens=80, out=out, progress=progress)
    return files(out)


def files(out: Path) -> dict[str, bytes]:
    own = [path for path in out.iterdir() if not path.name.startswith(".")]
    return {path.name: re.sub(rb'"seconds": [\d.e-]+', b"", path.read_bytes()) for path in own}


@pytest.fixture(scope="module")
def alone(lab, tmp_path_factory) -> dict[str, bytes]:
    """What one process writes."""
    return evaluate(lab, tmp_path_factory.mktemp("alone"))


class TestContract(EngineContract):
    """With two replicas."""

    def test_settings_are_those_of_one_process(self, engine, lab):
        assert (engine.settings, engine.most_top) == (lab.settings, lab.most_top)


def test_critical_tokens_are_the_bytes_of_one_process(engine, tmp_path, monkeypatch):
    """By the verb, with the replicas that run already in place of new ones."""
    asked: list[int] = []
    monkeypatch.setattr("forkpoint.engines.cluster.ray_engine.load_ray", lambda _, n, **__: asked.append(n) or engine)
    monkeypatch.setattr("forkpoint.curves.critical_tokens.UNIT", 2)
    monkeypatch.setattr("forkpoint.trajectories.rows.SAMPLED_UNIT", 4)
    command = ["critical", "--limit=8", "--budget=64", "--max-tokens=160", "--seed=1", "--replace", "--quiet"]
    assert main([*command, "--out", str(tmp_path / "one")]) == 0
    assert main([*command, "--engine", "ray", "--replicas", "2", "--out", str(tmp_path / "two")]) == 0
    assert asked == [2]
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert len(one["critical.jsonl"].splitlines()) > 2
    for name in ("critical.jsonl", "summary.json"):
        assert two[name] == one[name], name


def test_results_come_in_order_from_both_replicas_as_they_are_done(engine, tmp_path):
    results = engine.map(meeting(tmp_path), range(8))
    first = [next(results) for _ in range(6)]
    (tmp_path / "go").touch()
    assert [item for item, _ in (*first, *results)] == list(range(8))
    assert len({pid for _, pid in first}) == 2


def meeting(place: Path) -> Callable[[Engine, int], tuple[int, int]]:
    """Gives the item and its process. Items 0 and 1 wait for each other, so for two replicas, and item 6 for `go`."""

    def work(_: Engine, item: int) -> tuple[int, int]:
        (place / str(item)).touch()
        while not (place / {0: "1", 1: "0", 6: "go"}.get(item, str(item))).exists():
            time.sleep(0.05)
        return item, os.getpid()

    return work  # a local function travels by value


def test_a_killed_replica_does_its_item_again(engine, alone, tmp_path):
    pids = [pid for _, pid in engine.map(meeting(tmp_path), range(2))]
    assert len(set(pids)) == 2

    def kill(*_: Any) -> None:
        if pids:
            os.kill(pids.pop(), signal.SIGKILL)

    assert evaluate(engine, tmp_path / "killed", kill) == alone
    assert not pids


def test_an_item_that_kills_each_replica_ends_the_run(engine, lab):
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    class Deadly:
        """Kills the process that unpickles it."""

        def __reduce__(self) -> Any:
            return die, ()

    with pytest.raises(FailedError, match=r"^a replica died on each attempt at an item of work: "):
        list(engine.map(lambda *_: None, [Deadly()]))
    assert list(engine.map(lambda engine, _: engine.name, [1, 2])) == [lab.name] * 2


def test_errors_of_a_replica_are_those_of_one_process(engine):
    def wrong(_: Engine, item: int) -> int:
        if item == 1:
            raise UserError("one is too many")
        return item

    def broken(_: Engine, item: int) -> float:
        return item / 0

    results = engine.map(wrong, range(3))
    assert next(results) == 0
    with pytest.raises(UserError, match=r"^one is too many$"):
        next(results)
    with pytest.raises(RuntimeError, match="a replica failed: ZeroDivisionError: division by zero") as raised:
        list(engine.map(broken, [1]))
    assert "return item / 0" in raised.value.__notes__[0]


def test_beams_and_many_scores_are_those_of_the_inner_engine(engine, lab):
    asked = requests(lab, 40)
    sequences, starts = [r.prefix for r in asked], [1 + i % 5 for i in range(40)]
    for one, other in zip(*(e.score(sequences, starts=starts) for e in (engine, lab)), strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-5)
    for one, other in zip(*(e.beam_search(asked[:3], 3, GREEDY) for e in (engine, lab)), strict=True):
        assert_same(one, other)
    with pytest.raises(UserError, match="empty prompt"):
        engine.beam_search([Request("a", ())], 2, GREEDY)


def test_what_loading_raises_and_warns_of_reaches_the_caller():
    threads = os.environ["OMP_NUM_THREADS"]
    replica = Replica(cloudpickle.dumps(partial(load_engine, "/nowhere")), threads)
    for answer in (replica.settings(), replica.facts(), replica.run(cloudpickle.dumps(max), cloudpickle.dumps(1))):
        with pytest.raises(UserError, match=r"^/nowhere is not a model directory$"):
            opened(answer)

    def load() -> Engine:
        logging.getLogger("forkpoint").warning("it is %s", "slow")
        return load_engine("lab")

    facts, warnings = opened(Replica(cloudpickle.dumps(load), threads).facts())
    assert (facts[0], warnings) == ("lab", ["it is slow"])


STUCK = """
import sys, time
from forkpoint import files
from forkpoint.cli import main
from forkpoint.evaluation import evaluate

evaluate.UNIT_PATHS = 8
append = files.Journal.append

def at_third(journal, entry):
    append(journal, entry)
    while journal.path.read_bytes().count(b"\\n") >= 3:
        time.sleep(1)

files.Journal.append = at_third
main(sys.argv[1:])
"""


def test_a_killed_run_goes_on_with_other_replicas(engine, alone, tmp_path):
    """The driver dies with -9 and leaves no process behind; what it began is finished by two replicas."""
    out = tmp_path / "begun"
    strategies = [word for strategy in STRATEGIES for word in ("--strategy", strategy)]
    command = ["eval", "--limit", str(N), "--max-tokens", "80", *strategies, "--quiet", "--engine", "ray"]
    driver = subprocess.Popen([sys.executable, "-c", STUCK, *command, "--out", str(out)], start_new_session=True)
    journal = out / "journal.jsonl"
    await_true(lambda: journal.exists() and journal.read_bytes().count(b"\n") == 3, 60)
    session = descendants(driver.pid)
    assert session
    driver.kill()
    driver.wait()
    assert not (out / "results.json").exists()
    begun, seen = journal.read_bytes(), [b""]
    assert evaluate(engine, out, lambda *_: seen.append(journal.read_bytes())) == alone
    assert seen[-1].startswith(begun)
    assert seen[-1].count(b"\n") == 8  # units: two of greedy and six of CoT-decoding, none of them done twice
    await_true(lambda: not any(map(running, session)), 30)


def descendants(pid: int) -> list[psutil.Process]:
    """But for two small helpers of Ray's, which look after their parent every few seconds only."""
    children = psutil.Process(pid).children(recursive=True)
    return [child for child in children if "Agent" not in " ".join(child.cmdline())]


def await_true(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)


def running(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(("nodes", "replicas", "gpus_each", "expected"), [
    ([{"CPU": 2.0}], 2, 0, ({"num_cpus": 1}, 1)),
    ([{"CPU": 16.0}], 3, 1, ({"num_cpus": 5}, 5)),
    ([{"CPU": 2.0}], 3, 0, ({"num_cpus": 0.5}, 1)),
    ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 2.0}], 4, 1, ({"num_gpus": 1, "num_cpus": 0}, 4)),
    ([{}, {"CPU": 8.0, "GPU": 4.0}], 2, 2, ({"num_gpus": 2, "num_cpus": 0}, 4)),
])  # fmt: skip
def test_replicas_share_the_cluster(nodes, replicas, gpus_each, expected):
    assert resources(nodes, replicas, gpus_each) == expected


def test_a_cluster_without_room_is_refused():
    with pytest.raises(UserError, match=r"3 replicas with 2 GPUs each were asked for, but .* has 3 \+ 3"):
        resources([{"CPU": 8.0, "GPU": 3.0}, {"GPU": 3.0}], 3, 2)
    with pytest.raises(UserError, match="no CPUs"):
        resources([{}], 3, 2)


def test_a_cluster_that_does_not_answer_is_one_sentence():
    with pytest.raises(UserError, match=r"^RAY_ADDRESS is localhost:1, but no Ray cluster answers there: "):
        check_address("localhost:1")
    for address in (None, "", "auto", "local", "ray://localhost:1"):
        check_address(address)


def test_chunks_keep_a_trunk_together():
    def cut(prefixes: list[tuple[int, ...]]) -> list[tuple[int, int]]:
        return [(part.start, part.stop) for part in chunks(prefixes, 4)]

    trunks = [tuple(range(100 * t, 100 * t + 20)) for t in range(8)]
    assert cut([]) == []
    assert cut(trunks) == [(0, 4), (4, 8)]
    assert cut([trunks[0]] * 20) == [(0, 8), (8, 16), (16, 20)]
    branches = [t[:n] for t in trunks[:4] for n in (14, 16, 18, 20, 15)]  # each but a few tokens off its trunk
    assert cut(branches) == [(0, 5), (5, 10), (10, 15), (15, 20)]


def test_options_of_other_engines_are_refused(tmp_path, capsys):
    for options, words in (
        (["--replicas", "2"], "--replicas is an option of --engine ray, but the engine is transformers"),
        (["--engine", "ray", "--replicas", "0"], "--replicas must be at least 1, but is 0"),
        (["--engine", "ray", "--tensor-parallel-size", "2"], "--tensor_parallel_size is an option of --engine vllm"),
    ):
        assert main(["eval", "--limit", "2", "--out", str(tmp_path / "run"), *options]) == 2
        assert words in capsys.readouterr().err
