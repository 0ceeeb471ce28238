"""Matrix products in float32 of factors in half precision: the factors stay as they are stored, no sum is rounded.

In bfloat16 a logit near 20 is a multiple of 0.125, and a score of the attention is as coarse.

Shapes: n rows, H hidden size, V vocabulary, v a part of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
        return torch.bmm(a.flatten(0, 1), b.flatten(0, 1), out_dtype=torch.float32).unflatten(0, b.shape[:2])
    return a.float() @ b.float()


def products_with_rows(
    hidden: Float[Tensor, "n H"], weight: Float[Tensor, "V H"], bias: Float[Tensor, " V"] | None
) -> Float[Tensor, "n V"]:
    """Float32 hidden states times the rows of an output matrix, plus a bias; autocast does not reach it."""
    with torch.autocast(weight.device.type, enabled=False):
        if weight.dtype not in HALF:
            return torch.nn.functional.linear(hidden.to(weight.dtype), weight, bias).float()
        if _FUSED and weight.is_cuda:
            out = torch.mm(hidden.to(weight.dtype), weight.T, out_dtype=torch.float32)
        else:
            out = hidden.new_empty(len(hidden), len(weight), dtype=torch.float32)
            wide = hidden.float()
            for at in range(0, len(weight), VOCAB_CHUNK):
                out[:, at : at + VOCAB_CHUNK] = wide @ weight[at : at + VOCAB_CHUNK].float().T
        return out if bias is None else out.add_(bias.float())


@contextmanager
def float32_logits(model: PreTrainedModel) -> Iterator[None]:
    """The model's logits in float32 for as long as the context lasts, which holds `forward_lock`.

    An output layer that is no plain matrix, as of a quantised model, stays as it is.
    """
    layer = model.get_output_embeddings()
    if type(layer) is not torch.nn.Linear or layer.weight.dtype not in HALF:
        yield
        return

    def forward(hidden: Tensor) -> Tensor:
        rows = products_with_rows(hidden.flatten(0, -2), layer.weight, layer.bias)
        return rows.unflatten(0, hidden.shape[:-1])

    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward
