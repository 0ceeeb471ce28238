"""Engines: where models run. `load_engine` gives one; `Engine` says what each can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from forkpoint.engines.base import Engine
from forkpoint.types import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Engine", "load_engine"]


def load_engine(
    model: str | PreTrainedModel,
    tokenizer: Any = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    attn_implementation: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    memory_gib: float | None = None,
) -> Engine:
    """An engine for `lab`, a model directory, a Hub id, or a model already in memory (with its `tokenizer`).

    `device`, `dtype`, `attn_implementation` and `revision` go to transformers as they are ("auto": a GPU where there is
    one, and the dtype the weights are stored in). `memory_gib` bounds what keys, values and logits may take. Only
    safetensors weights are read. Raises UserError where the model or its tokenizer cannot be loaded.
    """
    from forkpoint.engines.loading import check_memory, load_pretrained
    from forkpoint.engines.local.transformers_engine import TransformersEngine

    memory = check_memory(memory_gib)
    if not isinstance(model, str):
        if tokenizer is None:
            raise UserError("a model in memory needs its tokenizer: load_engine(model, tokenizer)")
        return TransformersEngine(model, tokenizer, name=type(model).__name__, memory_bytes=memory)
    loaded, own_tokenizer = load_pretrained(
        model, device=device, dtype=dtype, attn_implementation=attn_implementation,
        revision=revision, trust_remote_code=trust_remote_code,
    )  # fmt: skip
    return TransformersEngine(loaded, tokenizer or own_tokenizer, name=model, memory_bytes=memory)
