"""How many modules of forkpoint one unit of work enters: what a reader has open to follow it.

    python benchmarks/modules_entered.py [eval] [critical] [critical-dpo] [slm]

Counts the modules whose functions are called, by the `__name__` of each called frame's globals, in all threads
(`sys.setprofile`). Everything is imported before: the same work is done once uncounted, on another problem.

- eval: `forkpoint.evaluate` of one problem, greedy, with a directory; model and problem are loaded before.
- critical: `forkpoint.find_critical` of one sampled response, by the fork estimator, likewise.
- critical-dpo: `forkpoint train critical-dpo` of one pair and one step, without the modules of `cli` and `report`.
- slm: `forkpoint train slm` of one document and one step, with the lab as reference, likewise.

The first two also print the number from the command line on: arguments, loading, terminal and page included. The last
two also print the modules within `Trainer.train` alone. Processes that compare mathematics are not seen; the
lab's answers are numbers. Half a minute.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import transformers

import forkpoint
from forkpoint.cli import main as command

SHELL = ("forkpoint.cli", "forkpoint.report")


@contextlib.contextmanager
def counted(names: set[str]) -> Iterator[None]:
    """Collect the modules of forkpoint that are entered meanwhile."""

    def seen(frame: FrameType, event: str, _: Any) -> None:
        name = str(frame.f_globals.get("__name__"))
        if event == "call" and name.startswith("forkpoint."):
            names.add(name)

    before = sys.getprofile()
    threading.setprofile(seen)
    sys.setprofile(seen)
    try:
        yield
    finally:
        sys.setprofile(before)
        threading.setprofile(None)


def evaluation(engine: Any, problem: Any, out: Path) -> None:
    """A prompt."""
    forkpoint.evaluate(engine, [problem], ["greedy"], task="lab", max_tokens=120, out=out)


def critical(engine: Any, problem: Any, out: Path) -> None:
    """A trajectory."""
    config = forkpoint.CriticalConfig(sampling=forkpoint.Sampling(max_tokens=120), which="all", budget=64)
    forkpoint.find_critical(engine, [problem], config, out, task="lab")


def of_function(work: Callable[[Any, Any, Path], None], scratch: Path) -> set[str]:
    """The modules that the work on a second problem enters."""
    engine, names = forkpoint.load_engine("lab"), set[str]()
    first, second = forkpoint.load_problems("lab", limit=2)
    work(engine, first, scratch / "warm")
    with counted(names):
        work(engine, second, scratch / "counted")
    return names


def of_command(argv: list[str], scratch: Path) -> set[str]:
    """The modules that a verb enters, from its arguments to its page."""
    names = set[str]()
    assert command([*argv, "--quiet", "--out", str(scratch / "warm command")]) == 0
    with counted(names):
        assert command([*argv, "--quiet", "--seed", "1", "--out", str(scratch / "command")]) == 0
    return names


def of_training(argv: list[str], scratch: Path) -> tuple[set[str], set[str]]:
    """The modules that a training verb enters, without the shell, and those within its steps."""
    names, steps = set[str](), set[str]()
    step = ["--max_steps", "1", "--per_device_train_batch_size", "1", "--quiet"]
    assert command(["train", *argv, *step, "--out", str(scratch / "warm")]) == 0
    whole = transformers.Trainer.train

    def train(*args: Any, **options: Any) -> Any:
        with counted(steps):
            return whole(*args, **options)

    transformers.Trainer.train = train
    try:
        with counted(names):
            assert command(["train", *argv, *step, "--out", str(scratch / "counted")]) == 0
    finally:
        transformers.Trainer.train = whole
    return {name for name in names | steps if not name.startswith(SHELL)}, steps


def pair_file(scratch: Path) -> Path:
    """One pair of the lab with weights, as `forkpoint pairs` writes it."""
    out = scratch / "pairs"
    assert command(["pairs", "--limit", "8", "--n", "8", "--quiet", "--out", str(out)]) == 0
    row = json.loads((out / "pairs.jsonl").read_text().splitlines()[0])
    row["rejected_weights"] = [0.5] * len(row["rejected_ids"])
    (scratch / "one.jsonl").write_text(json.dumps(row) + "\n")
    return scratch / "one.jsonl"


def text_file(scratch: Path) -> Path:
    """One document."""
    (scratch / "text.jsonl").write_text(
        json.dumps({"text": "Tom has 5 apples. Tom buys 3 more. He has 8. " * 8}) + "\n"
    )
    return scratch / "text.jsonl"


def show(name: str, modules: set[str]) -> None:
    """The list and its length."""
    print(f"\n{name}: {len(modules)} modules")
    print("\n".join(f"  {module}" for module in sorted(modules)))


def main() -> None:
    """Count the works that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("works", nargs="*", default=["eval", "critical", "critical-dpo", "slm"])
    works = parser.parse_args().works
    for work in works:
        with tempfile.TemporaryDirectory() as directory:
            scratch = Path(directory)
            if work in ("eval", "critical"):
                show(work, of_function({"eval": evaluation, "critical": critical}[work], scratch))
                options = ["--strategy", "greedy"] if work == "eval" else ["--which", "all", "--budget", "64"]
                names = of_command([work, "--limit", "1", *options], scratch)
                print(f"{work}, from the command line on: {len(names)} modules")
                continue
            argv = ["critical-dpo", "--model", "lab", "--pairs", str(pair_file(scratch))]
            if work == "slm":
                argv = ["slm", "--model", "lab", "--data", str(text_file(scratch)), "--reference", "lab"]
            names, steps = of_training(argv, scratch)
            show(work, names)
            show(f"{work}, within Trainer.train", steps)


if __name__ == "__main__":
    main()
