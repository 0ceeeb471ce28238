"""The command line in one process or two, as torchrun starts these: forked from one that has imported it all.

Read from stdin, a launch a line, as JSON: `argv`, `environment`, the number of `processes`, and `killed_at`, the moment
at which each kills itself, such as "step 3", or null. Answers with the exit codes; log-0.out and log-0.err, in the
working directory, are what the first process says.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from functools import partial
from importlib import import_module

import torch
from accelerate import DistributedType, PartialState
from kills import MOMENTS, exit_code, started
from torch.distributed import TCPStore

UNIT = 12  # responses, or trajectories, of one unit of work
HEAVY = (
    "trl",
    "peft",
    "forkpoint.training.preference_trainer",
    "forkpoint.training.selective_trainer",
    "forkpoint.cli.pretrain",
    "forkpoint.report.figures.charts",
)


def main() -> None:
    for name in HEAVY:
        import_module(name)
    small_units(setattr)
    gc.freeze()
    for line in sys.stdin:
        print(json.dumps(exit_codes(**json.loads(line))), flush=True)


def small_units(patch) -> None:
    """Have work journalled in units of a few responses, by a function that sets attributes."""
    from forkpoint.training import contrast_run, rounds
    from forkpoint.trajectories import rows

    for module, name in ((rounds, "SAMPLED_UNIT"), (rows, "SAMPLED_UNIT"), (contrast_run, "SCORED_UNIT")):
        patch(module, name, UNIT)


def exit_codes(argv, environment, killed_at, processes):
    """Those of the processes, by rank; -9 for one that was killed."""
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    together = {
        "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0",
    }  # fmt: skip
    children = []
    for rank in range(processes):
        ranked = together | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        children.append(started(partial(run, argv, f"log-{rank}", environment | ranked, killed_at)))
    return [exit_code(child) for child in children]


def run(argv, log, environment, killed_at):
    """One process' work."""
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{log}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ |= environment
    if os.environ.get("ACCELERATE_USE_FSDP") == "true" and "ON_A_CPU" not in os.environ:
        as_if_on_gpus()
    from forkpoint.cli import main as forkpoint

    if killed_at:
        kind, at = killed_at.split()
        MOMENTS[kind](at)
    return forkpoint(argv)


def as_if_on_gpus():
    """Have accelerate shard models over these processes, too: it does so on GPUs alone."""
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    torch.distributed.init_process_group("gloo")
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)


if __name__ == "__main__":
    main()
