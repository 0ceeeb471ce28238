"""The processes of one training, started by `accelerate launch` or torchrun: how they meet, fail and end as one.

A process that was started alone goes through all of it unchanged.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NoReturn

from forkpoint.types import UserError

WRONG = 2  # the exit code for what the user can mend
FSDP = {
    "FSDP_VERSION": ("2", "fsdp_version"),
    "FSDP_STATE_DICT_TYPE": ("FULL_STATE_DICT", "fsdp_state_dict_type"),  # sharded ones are read by pickle
    "FSDP_CPU_RAM_EFFICIENT_LOADING": ("FALSE", "fsdp_cpu_ram_efficient_loading"),  # each process looks at the weights
}
TIMEOUT = 1800  # seconds, as in transformers


def join(device: str, seconds: int = TIMEOUT) -> None:
    """Meet the other processes, of which accelerate's PartialState knows then; each gets its own `device`.

    One that waits for another longer than so many `seconds` gives up.
    """
    import torch
    from accelerate import PartialState

    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        raise UserError("DeepSpeed is not supported; shard a model with recipes/accelerate/fsdp2.yaml")
    for name, (expected, option) in FSDP.items() if is_sharded() else ():
        if (value := os.environ.get(name, "unset")).upper() != expected:
            raise UserError(f"FSDP needs {option}: {expected} in accelerate's configuration, but it is {value}")
    cpu = device == "cpu" or (device == "auto" and not torch.cuda.is_available())
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    state = PartialState(cpu=cpu, **({"timeout": timedelta(seconds=seconds)} if several else {}))
    if is_sharded() and state.distributed_type in ("NO", "MULTI_CPU"):
        raise UserError("FSDP takes several GPUs: accelerate would train without it, the whole model in each process")


def is_sharded() -> bool:
    """Whether accelerate is to spread weights, gradients and the optimizer's state over the processes, by FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def is_first() -> bool:
    """Whether this is the process that writes and prints."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


@contextmanager
def agreed() -> Iterator[None]:
    """What goes wrong within the context in the first process is raised in every one."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    mistake = None
    try:
        yield
    except UserError as error:
        mistake = error
    message = [mistake and str(mistake)]
    if PartialState().num_processes > 1:
        broadcast_object_list(message)
    if message[0] is not None:
        raise UserError(message[0]) from mistake


@contextmanager
def as_one() -> Iterator[None]:
    """A verb's work: of several processes one prints the user's mistake, and all end with its code."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    import torch.distributed as dist

    try:
        yield
    except UserError as error:  # before they have met, one process of each machine says it
        if _counted(1) == 1 if dist.is_initialized() else os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"forkpoint: {error}", file=sys.stderr)
        leave(WRONG)
    except Exception:
        if dist.is_initialized() and _counted(0):  # another one has left, and this one had waited for it
            leave(WRONG)
        raise
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
    leave(0)


def _counted(times: int) -> int:
    """Count, over all processes, how often a mistake was printed."""
    from torch.distributed.distributed_c10d import _get_default_store

    try:
        return int(_get_default_store().add("forkpoint: mistakes", times))
    except RuntimeError:  # it was kept by a process that has ended
        return times


def leave(code: int) -> NoReturn:
    """End this process at once, after what was registered for its end.

    An ordinary end aborts now and then: a thread of gloo's, which DistributedDataParallel keeps beyond
    destroy_process_group, lets go of tensors while the interpreter goes away.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
