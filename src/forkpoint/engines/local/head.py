"""The output matrix of a model apart from its body: hidden states first, logits in blocks, never [B, T, V] at once.

Shapes: B sequences, T positions, n rows (wanted positions of a batch), H hidden size, V vocabulary, v a part of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import PreTrainedModel

from forkpoint.engines.local.probe import IDS, TOLERANCE, distance, probe_logits, tolerance
from forkpoint.engines.local.products import VOCAB_CHUNK, products_with_rows
from forkpoint.engines.local.trunk_attention import forward_lock
from forkpoint.types import UserError


@dataclass(frozen=True, slots=True)
class Head:
    """The output matrix [V, H], and what the model does to its logits afterwards."""

    weight: Tensor
    bias: Tensor | None
    scale: float
    cap: float | None

    def logits(self, hidden: Float[Tensor, "n H"], first: int, last: int) -> Float[Tensor, "n v"]:
        """Float32 logits of tokens first..last-1."""
        bias = None if self.bias is None else self.bias[first:last]
        return self.finish(products_with_rows(hidden, self.weight[first:last], bias))

    def finish(self, products: Float[Tensor, "n v"]) -> Float[Tensor, "n v"]:
        """Logits from products: scaled, then capped."""
        logits = products if self.scale == 1 else products * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap

    def unfinish(self, gradient: Float[Tensor, "n v"], logits: Float[Tensor, "n v"]) -> Float[Tensor, "n v"]:
        """The gradient for the products from that for the finished logits, in place."""
        if self.cap is not None:
            gradient *= 1 - (logits / self.cap) ** 2
        return gradient if self.scale == 1 else gradient.mul_(self.scale)

    def parts(self) -> list[tuple[int, int]]:
        """The vocabulary in runs of at most VOCAB_CHUNK tokens."""
        size = self.weight.shape[0]
        return [(first, min(first + VOCAB_CHUNK, size)) for first in range(0, size, VOCAB_CHUNK)]

    def all_logits(self, hidden: Float[Tensor, "n H"]) -> Float[Tensor, "n V"]:
        """Float32 logits of the whole vocabulary, for few rows."""
        return torch.cat([self.logits(hidden, *part) for part in self.parts()], -1)


@contextmanager
def in_eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """The model without dropout for as long as the context lasts."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@torch.inference_mode()
def head_of(model: PreTrainedModel) -> Head:
    """The model's output matrix as a `Head`. UserError where that does not reproduce the model's own logits."""
    config = model.config.get_text_config(decoder=True)
    layer = model.get_output_embeddings()
    scale = float(getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1))
    head = Head(layer.weight, getattr(layer, "bias", None), scale, getattr(config, "final_logit_softcapping", None))
    ids, rows = torch.tensor([IDS], device=model.device), torch.arange(len(IDS), device=model.device)
    with in_eval_mode(model):
        own, ours = probe_logits(model, tuple(range(len(IDS)))), head.all_logits(hidden_at(model, ids, rows))
        allowed = TOLERANCE if own.dtype == torch.float32 else tolerance(model)
    if distance(ours, own) > allowed:  # NaN passes: its sentence comes later
        raise UserError(
            f"the logits of {type(model).__name__} are not its hidden states times its output matrix, "
            "with a known scale or cap, so they cannot be computed in blocks"
        )
    return head


def hidden_at(
    model: PreTrainedModel, ids: Int64[Tensor, "B T"], rows: Int64[Tensor, " n"], *, call: Any = None, **inputs: Tensor
) -> Float[Tensor, "n H"]:
    """What reaches the output matrix at rows of the flattened [B*T] positions of right-padded sequences.

    `call` stands for the model where something is wrapped around it, and gets the further `inputs`, too.
    """
    kept: list[Tensor] = []

    def keep(_: torch.nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = arguments[0].flatten(0, 1)
        kept.append(hidden[rows])
        return (hidden[None, :1], *arguments[1:])  # one row of logits, which nobody reads

    with forward_lock, model.get_output_embeddings().register_forward_pre_hook(keep):
        (model if call is None else call)(input_ids=ids, use_cache=False, **inputs)
    return kept[0]
