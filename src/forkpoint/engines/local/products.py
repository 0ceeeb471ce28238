"""Matrix products in float32 of factors in half precision: the factors stay as they are stored, no sum is rounded.

Shapes: n rows, H hidden size, V vocabulary, v a part of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

HALF = (torch.bfloat16, torch.float16)
VOCAB_CHUNK = 4096  # rows of the output matrix at once
# whether the GPU multiplies halves into float32 by itself; elsewhere the factors are widened
_FUSED = torch.version.cuda is not None and tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 8)


def product(a: Float[Tensor, "x y n k"], b: Float[Tensor, "x y k m"]) -> Float[Tensor, "x y n m"]:
    """a @ b, with `a` rounded to b's precision, and float32 where that is half."""
    a = a.to(b.dtype)
    if b.dtype not in HALF:
        return a @ b
    if _FUSED and b.is_cuda:
        flat = torch.bmm(a.flatten(0, 1), b.flatten(0, 1), out_dtype=torch.float32)
        return flat.view(*b.shape[:2], *flat.shape[1:])
    return a.float() @ b.float()


def products_with_rows(
    hidden: Float[Tensor, "n H"], weight: Float[Tensor, "V H"], bias: Float[Tensor, " V"] | None
) -> Float[Tensor, "n V"]:
    """Float32 hidden states times the rows of a matrix, plus a bias; autocast does not reach it.

    Where a GPU multiplies bfloat16, float32 hidden states are given to it in two parts, which keeps 16 of their bits.
    """
    with torch.autocast(weight.device.type, enabled=False):
        if weight.dtype not in HALF:
            return torch.nn.functional.linear(hidden.to(weight.dtype), weight, bias).float()
        first = hidden.to(weight.dtype)
        if _FUSED and weight.is_cuda and (weight.dtype == torch.bfloat16 or hidden.dtype == weight.dtype):
            out = torch.mm(first, weight.T, out_dtype=torch.float32)
            if hidden.dtype != weight.dtype:
                rest = (hidden - first).to(weight.dtype)
                out += torch.mm(rest, weight.T, out_dtype=torch.float32)
        else:
            out = hidden.new_empty(len(hidden), len(weight), dtype=torch.float32)
            wide = hidden.float()
            for at in range(0, len(weight), VOCAB_CHUNK):
                out[:, at : at + VOCAB_CHUNK] = wide @ weight[at : at + VOCAB_CHUNK].float().T
        return out if bias is None else out.add_(bias.float())


def float32_logits(model: PreTrainedModel) -> AbstractContextManager[None]:
    """The model's logits in float32, unless its output layer is no plain matrix; the caller holds `forward_lock`."""
    layer = model.get_output_embeddings()
    return _wide_linear(layer) if type(layer) is torch.nn.Linear and layer.weight.dtype in HALF else nullcontext()


@contextmanager
def float32_activations(model: PreTrainedModel) -> Iterator[None]:
    """A model in half precision computes in float32 as `model.float()` would, widening one module's weights at a time.

    For passes without gradients; the context must not be entered by two threads.
    """
    with ExitStack() as changed:
        for module in model.modules() if model.dtype in HALF else ():
            if not any(p is not None and p.dtype in HALF for p in module._parameters.values()):
                continue
            if type(module) is torch.nn.Linear:
                changed.enter_context(_wide_linear(module))
            elif type(module) is torch.nn.Embedding:
                changed.enter_context(module.register_forward_hook(lambda _, __, out: out.float()))
            else:
                changed.enter_context(_wide_parameters(module))
        yield


@contextmanager
def _wide_linear(layer: torch.nn.Linear) -> Iterator[None]:
    def forward(hidden: Tensor) -> Tensor:
        rows = products_with_rows(hidden.flatten(0, -2), layer.weight, layer.bias)
        return rows.view(*hidden.shape[:-1], len(layer.weight))

    layer.forward = forward  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        del layer.forward


@contextmanager
def _wide_parameters(module: torch.nn.Module) -> Iterator[None]:
    own = dict(module._parameters)

    def widen(*_: Any) -> None:
        wide: Any = {n: p.float() for n, p in own.items() if p is not None and p.dtype in HALF}
        module._parameters.update(wide)

    def restore(*_: Any) -> None:
        module._parameters.update(own)

    with module.register_forward_pre_hook(widen), module.register_forward_hook(restore, always_call=True):
        try:
            yield
        finally:
            restore()
