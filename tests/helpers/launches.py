"""The command line in two processes at once, as torchrun starts it: forked from one process that has imported it all.

Read from stdin, a launch a line, as JSON: `argv`; `log`, the beginning of the names of the files of what each process
says; `environment`; and `killed_at`, the step after which each process kills itself. Answers with the exit codes.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from importlib import import_module

import torch
from accelerate import DistributedType, PartialState
from torch.distributed import TCPStore

PROCESSES = 2
HEAVY = (
    "trl",
    "peft",
    "forkpoint.training.preference_trainer",
    "forkpoint.training.selective_trainer",
    "forkpoint.cli.pretrain",
)


def main() -> None:
    for name in HEAVY:
        import_module(name)
    gc.freeze()
    for line in sys.stdin:
        print(json.dumps(exit_codes(**json.loads(line))), flush=True)


def exit_codes(argv, log, environment, killed_at):
    """Those of the processes, by rank; -9 for one that was killed."""
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    children = []
    for rank in range(PROCESSES):
        children.append(os.fork())
        if not children[-1]:
            os.environ |= environment | {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(PROCESSES),
                "LOCAL_WORLD_SIZE": str(PROCESSES), "MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port),
                "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0",
            }  # fmt: skip
            run(argv, f"{log}-{rank}", killed_at)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def run(argv, log, killed_at):
    """One process' work, in place of what this one is."""
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{log}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    if os.environ.get("ACCELERATE_USE_FSDP") == "true" and "ON_A_CPU" not in os.environ:
        as_if_on_gpus()
    from forkpoint.cli import main as forkpoint
    from forkpoint.training import fit

    step = fit._Report.on_step_end

    def or_stop(self, args, state, control, **more):
        if state.global_step == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        step(self, args, state, control, **more)

    fit._Report.on_step_end = or_stop
    try:
        code = forkpoint(argv)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    os._exit(code)


def as_if_on_gpus():
    """Have accelerate shard models over these processes, too: it does so on GPUs alone."""
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    torch.distributed.init_process_group("gloo")
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)


if __name__ == "__main__":
    main()
