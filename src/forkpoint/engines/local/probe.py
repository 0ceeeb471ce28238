"""How far logits may differ that one model gives in two ways: rounding, and nothing else."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from forkpoint.engines.local.memory import is_out_of_memory
from forkpoint.engines.local.products import HALF
from forkpoint.engines.local.scoring import logits_at
from forkpoint.engines.local.trunk_attention import CannotShareError

IDS = (2, 3, 4, 5, 6, 7)
TOLERANCE = 1e-3  # of the spread of logits, as a root mean square; another method lands near 1
MOST_IN_HALF = 0.1


def probe_logits(model: PreTrainedModel, positions: tuple[int, ...]) -> Tensor:
    """The model's own logits [positions, V] after some of the `IDS`."""
    ids = torch.tensor([IDS], device=model.device)
    return logits_at(model, ids, torch.tensor(positions, device=model.device))


def distance(ours: Tensor, own: Tensor) -> float:
    """Root mean square of a difference, over the spread of `own`; infinite where one alone masks a token."""
    finite = own.isfinite()
    if not torch.equal(ours.isfinite(), finite):
        return math.inf
    ours, own = ours[finite].float(), own[finite].float()
    return float((ours - own).square().mean().sqrt() / own.std(correction=0).clamp(min=1e-6))


@torch.no_grad()
def tolerance(model: PreTrainedModel) -> float:
    """The most that `distance` may be, in eval mode.

    In half precision each layer rounds, by an amount that depends on the model: two attention kernels of transformers
    were up to 0.75 times as far apart as the model's logits are when its embeddings change by one unit in the last
    place (24 models of 2 to 48 layers). Twice that is allowed.
    """
    if model.dtype not in HALF:
        return TOLERANCE

    def nudge(_: torch.nn.Module, __: Any, out: Tensor) -> Tensor:
        signs = torch.arange(out.numel(), device=out.device).view(out.shape) % 2 * 2 - 1
        return (out * (1 + torch.finfo(out.dtype).eps * signs)).to(out.dtype)

    own = probe_logits(model, (3, 5))
    with model.get_input_embeddings().register_forward_hook(nudge):
        nudged = probe_logits(model, (3, 5))
    return min(MOST_IN_HALF, max(TOLERANCE, 2 * distance(nudged, own)))


def is_refusal(error: Exception) -> bool:
    """Whether a model's code may raise this because it takes no such mask, position, cache or attention.

    A RuntimeError is one of shapes, unless it names memory or the device.
    """
    if type(error) is RuntimeError:
        return not is_out_of_memory(error) and "CUDA" not in str(error)
    kinds = (CannotShareError, TypeError, ValueError, AttributeError, LookupError, AssertionError, NotImplementedError)
    return isinstance(error, kinds)
