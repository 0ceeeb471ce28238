"""How much fits: bytes a branch and a trunk take, and how many branches a budget allows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import psutil
import torch
from transformers import PreTrainedModel

from forkpoint.engines.local.trunks import MAX_OWN, Group
from forkpoint.types import UserError

MOST_BRANCHES = 2048
SHARE_OF_MEMORY = {"cpu": 0.4, "cuda": 0.85}  # of the device's memory, when no budget is given
LOGITS_COPIES = 10  # float32 rows of the vocabulary held at once while a token is chosen: sorting, float64 sums
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
PREFILL_TOKENS = 16_384  # tokens computed at once while trunks are prepared


def default_budget(model: PreTrainedModel) -> int:
    """Bytes that keys, values and logits may take together.

    Depends only on the machine and the model, not on what happens to be free: a resumed run must batch alike.
    """
    if model.device.type == "cuda":
        total = int(torch.cuda.get_device_properties(model.device).total_memory)
    else:
        total = host_memory()
    share = SHARE_OF_MEMORY.get(model.device.type, 0.4)
    return max(2**28, int(share * total) - int(model.get_memory_footprint()))


def host_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its container's limit where that is less."""
    total = int(psutil.virtual_memory().total)
    try:
        limit = CGROUP_LIMIT.read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdecimal() else total


def cache_bytes_per_token(model: PreTrainedModel) -> int:
    """Bytes of keys and values that one token takes over all layers; a model without heads is taken to have one."""
    config = model.config.get_text_config(decoder=True)
    query_heads = getattr(config, "num_attention_heads", None) or 1
    heads = getattr(config, "num_key_value_heads", None) or query_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // query_heads
    size: int = 2 * config.num_hidden_layers * heads * head_dim * model.dtype.itemsize
    return size


def live_branches(model: PreTrainedModel, groups: Sequence[Group], max_tokens: int, budget: int) -> int:
    """How many branches may be live at once so that the worst case of all stays within the budget.

    Raises UserError where not even one branch fits.
    """
    per_token = cache_bytes_per_token(model)
    config = model.config.get_text_config(decoder=True)
    n_branches = sum(len(g.branches) for g in groups)
    width = max(len(g.trunk) for g in groups)
    suffix = MAX_OWN + max_tokens
    scores = 4 * 4 * (getattr(config, "num_attention_heads", None) or 1) * (width + suffix)
    per_branch = 2 * suffix * per_token + LOGITS_COPIES * 4 * config.vocab_size + scores
    trunks_per_branch = len(groups) / n_branches
    needed = per_branch + 2 * width * per_token * trunks_per_branch
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
