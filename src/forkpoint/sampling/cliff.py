"""Min-k: truncation at the steepest early drop of the sorted logits."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from forkpoint.sampling.gaps import SOFT_BAN, cut_below

_HEAD = 128  # how many of the largest logits are sorted at first; more only where a row needs it


def min_k(logits: Float[Tensor, "rows V"], tau: float) -> Float[Tensor, "rows V"]:
    """Keep the logits before the steepest position-weighted drop of the sorted row; tau <= 0 is off.

    Ding et al. 2026, "Min-k Sampling: Decoupling Truncation from Temperature Scaling via Relative Logit
    Dynamics" (ACL 2026, arXiv 2604.11012). With l_1 >= ... >= l_V and the range R = l_1 - l_V:
        w_i = (l_i - l_{i+1}) / R · 1/i,   k = max(argmax_i w_i, floor(tau / R)),   keep the k largest.
    The second term keeps nearly flat rows from collapsing to one token; the paper's tau is 3.0. A temperature
    cancels in w_i but not in tau / R, so apply this to unscaled logits.

    Ours: l_V is the least logit that is finite and not a soft ban (`SOFT_BAN` under the maximum), and only
    those can be kept; logits equal to the k-th are kept with it; where all are equal, all are kept.

    Returns logits of the same dtype with the rest at -inf. Raises LogitsError, naming the row, for NaN, +inf,
    or a row without any finite logit.
    """
    if tau <= 0:
        return logits
    return cut_below(logits, lambda block, top: _kth_largest(block, top, tau))


def _kth_largest(logits: Tensor, top: Tensor, tau: float) -> Tensor:
    """The k-th largest logit [b, 1] of each row [b, V], whose maxima are `top` [b, 1].

    A drop at rank i weighs at most (l_i - l_V) / i. So if the best of the first m - 1 drops weighs as much as
    that at i = m, no later drop beats it, and the m largest are all that must be sorted. (R scales all w_i
    alike: the argmax needs no R.)
    """
    vocab = logits.shape[-1]
    least = logits.masked_fill(logits <= top - SOFT_BAN, math.inf).amin(-1, keepdim=True)
    fallback = torch.where(top > least, tau / (top - least), 0.0).clamp_(max=vocab).long()
    head = min(max(_HEAD, int(fallback.max())), vocab)
    ordered, cliff, settled = _steepest_drop(logits, least, head)
    while not settled:  # at the latest with all V sorted
        head = min(16 * head, vocab)
        ordered, cliff, settled = _steepest_drop(logits, least, head)
    return ordered.gather(-1, cliff.maximum(fallback - 1))


def _steepest_drop(logits: Tensor, least: Tensor, head: int) -> tuple[Tensor, Tensor, bool]:
    """The `head` largest [b, head], where among them w is largest [b, 1], and if that holds among all V."""
    ordered = logits.topk(head, dim=-1).values.maximum(least)  # bans rise to l_V: no drop there
    if head == 1:
        return ordered, torch.zeros_like(ordered, dtype=torch.long), True
    ranks = torch.arange(1, head, device=logits.device, dtype=logits.dtype)
    steepest, cliff = ((ordered[:, :-1] - ordered[:, 1:]) / ranks).max(-1, keepdim=True)
    return ordered, cliff, bool((steepest >= (ordered[:, -1:] - least) / head).all())
