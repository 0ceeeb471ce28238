"""How much fits: bytes that branches and trunks take, branches that a budget allows, halves where memory ran out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import psutil
import torch
from transformers import PreTrainedModel

from forkpoint.engines.local.branches import MAX_OWN, Group
from forkpoint.types import UserError

T = TypeVar("T")
R = TypeVar("R")
MOST_BRANCHES = 2048
HOST_SHARE, GPU_SHARE = 0.4, 0.85  # of the device's memory, when no budget is given
LOGITS_COPIES = 10  # float32 rows of the vocabulary held at once while a token is chosen: sorting, float64 sums
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
PREFILL_TOKENS = 16_384  # tokens computed at once while trunks are prepared


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
        limit = CGROUP_LIMIT.read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdecimal() else total


def live_branches(model: PreTrainedModel, groups: Sequence[Group], max_tokens: int, budget: int) -> int:
    """How many branches may be live at once so that the worst case of all stays within the budget.

    Raises UserError where not even one branch fits.
    """
    config = model.config.get_text_config(decoder=True)
    query_heads = getattr(config, "num_attention_heads", None) or 1  # a model without heads is taken to have one
    heads = getattr(config, "num_key_value_heads", None) or query_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // query_heads
    per_token = 2 * config.num_hidden_layers * heads * head_dim * model.dtype.itemsize
    n_branches = sum(len(g.branches) for g in groups)
    width = max(len(g.trunk) for g in groups)
    suffix = MAX_OWN + max_tokens
    scores = 4 * 4 * query_heads * (width + suffix)
    per_branch = 2 * suffix * per_token + LOGITS_COPIES * 4 * config.vocab_size + scores
    needed = per_branch + 2 * width * per_token * (len(groups) / n_branches)
    if (fitting := int(budget // needed)) < 1:
        raise UserError(
            f"one response of {max_tokens} tokens after a prompt of {width} takes {needed / 2**20:,.1f} MiB, "
            f"more than the memory budget of {budget / 2**20:,.1f} MiB: lower max_tokens or raise the budget"
        )
    return min(fitting, MOST_BRANCHES, n_branches)


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
