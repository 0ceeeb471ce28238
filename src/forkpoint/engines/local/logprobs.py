"""Log-probabilities of given tokens, and KL divergences from a reference, with gradients, in blocks of rows.

Logits live for one block at a time: they are computed once in the forward pass and again in the backward pass, there
only for rows that have a gradient.

Shapes: n rows (positions that predict a wanted token), H hidden size, V vocabulary, r rows of one block.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import PreTrainedModel

from forkpoint.engines.local.head import Head
from forkpoint.engines.local.products import products_with_rows

BLOCK_ELEMENTS = 2**23  # logits of one block, float32: 32 MiB
LEAST = torch.finfo(torch.float32).min
LEAST_ROWS = 128  # of a block, however large the vocabulary: the matrix is read once a block
Hidden = Float[Tensor, "n H"]
Targets = Int64[Tensor, " n"]
Column = Float[Tensor, " n"]
Reference = tuple[Hidden, Head] | None


def current(head: Head, model: PreTrainedModel) -> Head:
    """The model's head with the output matrix as it is now: a sharded one is whole from the forward pass on."""
    layer = model.get_output_embeddings()
    return replace(head, weight=layer.weight, bias=getattr(layer, "bias", None))


def token_logprobs(hidden: Hidden, head: Head, targets: Targets) -> Column:
    """log π(target | ·) of each row, float32, with gradients for the hidden states and the head's parameters."""
    logprobs: Tensor = _apply(hidden, head.weight, head.bias, targets, head, None)[0]
    return logprobs


def token_logprobs_and_kl(
    hidden: Hidden, head: Head, targets: Targets, reference_hidden: Hidden, reference_head: Head
) -> tuple[Column, Column, Column]:
    """log π_θ(target), KL(π_ref ‖ π_θ) over the vocabulary, and log π_ref(target), of each row.

    The first two have gradients for π_θ; the reference has none.
    """
    reference = reference_hidden.detach(), reference_head
    rows: tuple[Tensor, Tensor, Tensor] = _apply(hidden, head.weight, head.bias, targets, head, reference)
    return rows


@torch.no_grad()
def token_losses_and_entropy(hidden: Hidden, head: Head, targets: Targets) -> tuple[Column, Column]:
    """−log π(target | ·) and the entropy −Σ_v π log π of each row, in nats, float32, without gradients."""
    matrix = _Matrix(head)
    losses, entropy = hidden.new_empty(2, len(hidden), dtype=torch.float32).unbind()
    for rows in _blocks(len(hidden), len(head.weight)):
        below = matrix.logits(hidden[rows])
        below -= below.amax(-1, keepdim=True)
        own = below.gather(-1, targets[rows, None])[:, 0]
        below.clamp_(min=LEAST)  # so that a token of probability 0 adds nothing to the entropy
        weights = below.exp()
        z = weights.sum(-1)
        entropy[rows] = (z.log() - torch.linalg.vecdot(weights, below) / z).clamp(min=0)  # rounding may go below
        losses[rows] = z.log() - own
    return losses, entropy


class _Rows(torch.autograd.Function):
    """Outputs logprobs, kl, reference logprobs [n] each; the last two are zeros without a reference.

    The weight and bias are the head's: autograd looks for tensors among the arguments only.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, _: Tensor | None, targets: Tensor, head: Head, reference: Reference
    ) -> tuple[Tensor, Tensor, Tensor]:
        reference_hidden, reference_head = reference or (None, None)
        ctx.policy, ctx.reference = _Matrix(head), reference_head and _Matrix(reference_head)
        out = hidden.new_zeros(3, len(hidden), dtype=torch.float32)
        for rows in _blocks(len(hidden), len(weight)):
            own = targets[rows, None]
            logs = ctx.policy.logits(hidden[rows]).log_softmax(-1)
            out[0, rows] = logs.gather(-1, own)[:, 0]
            if reference_hidden is not None:
                expected = ctx.reference.logits(reference_hidden[rows]).log_softmax(-1)
                out[2, rows] = expected.gather(-1, own)[:, 0]
                shares = expected.exp()  # a token of probability 0 adds nothing, though its logarithm be infinite
                out[1, rows] = (shares * (expected - logs)).masked_fill_(shares == 0, 0).sum(-1)
        ctx.save_for_backward(hidden, weight, targets, reference_hidden)
        logprobs, kl, reference_logprobs = out.unbind()
        ctx.mark_non_differentiable(reference_logprobs)
        return logprobs, kl, reference_logprobs

    @staticmethod
    def backward(ctx: Any, d_logprobs: Tensor, d_kl: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, reference_hidden = ctx.saved_tensors
        policy: _Matrix = ctx.policy
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        d_hidden = torch.zeros_like(hidden) if needs_hidden else None
        wide = torch.promote_types(weight.dtype, torch.float32)  # many blocks are summed
        d_weight = torch.zeros_like(weight, dtype=wide) if needs_weight else None
        d_bias = weight.new_zeros(len(weight), dtype=wide) if needs_bias else None
        live = ((d_logprobs != 0) | (d_kl != 0)).nonzero()[:, 0]
        for block in _blocks(len(live), len(weight)):
            rows = live[block]
            states = hidden[rows]
            logits = policy.logits(states)
            gradient = logits.softmax(-1).mul_((d_kl[rows] - d_logprobs[rows])[:, None])
            gradient.scatter_add_(-1, targets[rows, None], d_logprobs[rows, None])
            if ctx.reference is not None:
                shares = ctx.reference.logits(reference_hidden[rows]).softmax(-1)
                gradient.addcmul_(shares, d_kl[rows, None], value=-1)
            gradient = policy.head.unfinish(gradient, logits).to(policy.weight.dtype)
            if d_hidden is not None:
                d_hidden[rows] = (gradient @ policy.weight).to(hidden.dtype)
            if d_weight is not None:
                d_weight += gradient.T @ states.to(gradient.dtype)
            if d_bias is not None:
                d_bias += gradient.sum(0)
        rounded = (None if gradient is None else gradient.to(weight.dtype) for gradient in (d_weight, d_bias))
        return d_hidden, *rounded, None, None, None


_apply: Any = _Rows.apply


class _Matrix:
    """An output matrix in the precision of the factors: that of autocast where it is on. Products are float32."""

    def __init__(self, head: Head) -> None:
        kind = head.weight.device.type
        self.rounded = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        self.weight, self.head = head.weight.detach().to(self.rounded or head.weight.dtype), head
        self.bias = None if head.bias is None else head.bias.detach()

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 logits of the whole vocabulary."""
        return self.head.finish(products_with_rows(hidden.to(self.rounded or hidden.dtype), self.weight, self.bias))


def _blocks(n: int, vocabulary: int) -> list[slice]:
    size = max(LEAST_ROWS, BLOCK_ELEMENTS // vocabulary)
    return [slice(at, min(at + size, n)) for at in range(0, n, size)]
