"""How much memory there is to use, and work done again in halves where it ran out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import psutil
import torch
from transformers import PreTrainedModel

from forkpoint.types import UserError

T = TypeVar("T")
R = TypeVar("R")
HOST_SHARE, GPU_SHARE = 0.4, 0.85  # of the device's memory, when no budget is given
LOGITS_COPIES = 10  # float32 rows of the vocabulary held at once while a token is chosen: sorting, float64 sums
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def default_budget(model: PreTrainedModel) -> int:
    """Bytes that keys, values and logits may take together.

    Depends only on the machine and the model, not on what happens to be free: a resumed run must batch alike.
    """
    on_gpu = model.device.type == "cuda"
    total = int(torch.cuda.get_device_properties(model.device).total_memory) if on_gpu else host_memory()
    return max(2**28, int((GPU_SHARE if on_gpu else HOST_SHARE) * total) - int(model.get_memory_footprint()))


def host_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its container's limit where that is less."""
    total = int(psutil.virtual_memory().total)
    try:
        return min(total, int(CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no container, or "max"
        return total


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    message = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in message or "can't allocate memory" in message)


def half_after(error: Exception, size: int, noun: str) -> int:
    """Half of a batch that failed. Raises any error but lack of memory again, UserError where the batch was one."""
    if not is_out_of_memory(error):
        raise error
    if size == 1:
        raise UserError(f"memory ran out on a single {noun}: {str(error).splitlines()[0]}") from error
    return size // 2


def in_halves(batches: Iterable[Sequence[T]], work: Callable[[Sequence[T]], list[R]], noun: str) -> Iterator[R]:
    """The results of work(batch) in order; a batch on which memory runs out is done in halves."""
    pending = deque(batches)
    while pending:
        batch = pending.popleft()
        try:
            results = work(batch)
        except Exception as error:
            half = half_after(error, len(batch), noun)
            pending.extendleft([batch[half:], batch[:half]])
        else:
            yield from results
