"""`forkpoint eval` through Ray with 2 replicas and with 1, beside the same command without Ray.

    python benchmarks/bench_ray.py [--repeats 3] [--problems 640] [--note TEXT]

One thread a replica (OMP_NUM_THREADS=1), the lab model, sampled self-consistency in equal units: about a minute of work
for one core. "command" is a whole process, start-up of Python and Ray included; "map" the units alone, on an engine
that is loaded and has done one map before. All in turn, medians; all three must write the same samples. A small fixed
piece of work in one process before each map tells what the machine did meanwhile; its spread is in the results.
Prints a table and writes benchmarks/results/ray.json.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import machine

from forkpoint.engines import Engine, load_engine
from forkpoint.engines.cluster.ray_engine import load_ray
from forkpoint.evaluation.evaluate import evaluate
from forkpoint.lab.problem_generator import load_problems

STRATEGY = "self-consistency:n=40,temperature=1"
WAYS: dict[str, list[str]] = {
    "without ray": [],
    "ray, 1 replica": ["--engine", "ray", "--replicas", "1"],
    "ray, 2 replicas": ["--engine", "ray", "--replicas", "2"],
}


def command(problems: int, way: list[str]) -> tuple[float, bytes]:
    """Seconds of the whole command, and the samples that it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "forkpoint", "eval", "--limit", str(problems), "--prompt", "cot",
             "--strategy", STRATEGY, "--quiet", "--out", str(out), *way],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        return time.perf_counter() - started, (out / "samples.jsonl").read_bytes()


def mapped(engine: Engine, problems: int) -> float:
    """Seconds of the evaluation alone."""
    started = time.perf_counter()
    evaluate(engine, load_problems(limit=problems), [STRATEGY], task="lab", prompt="cot", max_tokens=256)
    return time.perf_counter() - started


def maps(problems: int, repeats: int) -> tuple[dict[str, list[float]], list[float]]:
    """Seconds of each way, and of the fixed piece of work before each."""
    alone = load_engine("lab")
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    fixed = []
    for _ in range(repeats):
        for name, replicas in (("without ray", 0), ("ray, 1 replica", 1), ("ray, 2 replicas", 2)):
            engine = load_ray(partial(load_engine, "lab"), replicas, gpus_each=0) if replicas else alone
            mapped(engine, 16)
            fixed.append(mapped(alone, 32))
            taken[name].append(mapped(engine, problems))
            del engine  # its replicas end with it
            time.sleep(3)
    return taken, fixed


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--problems", type=int, default=640)
    parser.add_argument("--note", default="", help="what else ran on the machine, for the results")
    options = parser.parse_args()
    busy = os.getloadavg()[0]
    runs: dict[str, list[float]] = {name: [] for name in WAYS}
    written = set()
    for _ in range(options.repeats):
        for name, way in WAYS.items():
            seconds, samples = command(options.problems, way)
            runs[name].append(seconds)
            written.add(samples)
    assert len(written) == 1, "the ways wrote different samples"
    taken, fixed = maps(options.problems, options.repeats)
    figures: dict[str, Any] = {
        "problems": options.problems,
        "strategy": STRATEGY,
        "note": options.note,
        "load_average_before": round(busy, 2),
        "fixed_work_seconds": {"least": round(min(fixed), 2), "most": round(max(fixed), 2)},
        "same_bytes": True,
    }
    for kind, seconds in (("command", runs), ("map", taken)):
        medians = {name: median(one) for name, one in seconds.items()}
        figures[kind] = {
            "seconds": {name: round(one, 2) for name, one in medians.items()},
            "all_seconds": {name: [round(one, 2) for one in several] for name, several in seconds.items()},
            "speedup_of_2_replicas_over_1": round(medians["ray, 1 replica"] / medians["ray, 2 replicas"], 2),
            "speedup_of_2_replicas_over_none": round(medians["without ray"] / medians["ray, 2 replicas"], 2),
        }
        print(f"{kind:8}", "  ".join(f"{name} {one:.1f} s" for name, one in medians.items()),
              f" 2 over 1: {figures[kind]['speedup_of_2_replicas_over_1']}")  # fmt: skip
    print(machine.save("ray", figures))


if __name__ == "__main__":
    main()
