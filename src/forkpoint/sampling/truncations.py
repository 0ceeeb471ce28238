"""The truncations that transformers lacks: top-nσ, min-p anywhere, p-less, min-k.

All are one rule, keep every logit from a row's lowest kept one on, and differ in how that follows from the row. Each
returns logits of the same dtype with the rest at -inf, never changes the input, knows no temperature, and raises
LogitsError, naming the row, for NaN, +inf, or no finite logit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from forkpoint.types import UserError

SOFT_BAN = 1e4
"""A logit this far or further under its row's maximum is a ban in the form of a number, not a score."""

BLOCK_LOGITS = 2**19  # 2 MiB of float32: a few rows of a large vocabulary, all rows of a small one
MIN_K_HEAD = 128  # how many of the largest logits min-k sorts at first; more only where a row needs it


class LogitsError(UserError, ValueError):
    """A row of logits from which no token can be chosen; the message names the row."""


def top_n_sigma(logits: Float[Tensor, "rows V"], n: float) -> Float[Tensor, "rows V"]:
    """Keep the logits within n standard deviations of the row's maximum; n <= 0 is off.

    Tang et al. 2024, "Top-nσ: Not All Logits Are You Need" (arXiv 2411.07641): keep l >= M - nσ with M = max l and
    σ the population standard deviation over the finite logits that are not soft bans (`SOFT_BAN`). A temperature scales
    M and σ alike, so the kept set is that of the unscaled logits (but for soft bans, whose limit is not scaled).
    """
    return logits if n <= 0 else cut_below(logits, lambda block, top: top - n * _sigma(block, top))


def min_p(logits: Float[Tensor, "rows V"], base: float) -> Float[Tensor, "rows V"]:
    """Keep the tokens at least `base` (0 to 1) times as probable as the most probable one; 0 is off.

    Nguyen et al. 2024, "Turning Up the Heat" (arXiv 2407.01082): keep p >= base · max p, in logits a gap of -ln(base).
    """
    return logits if base <= 0 else cut_below(logits, lambda _, top: top + math.log(base))


def p_less(logits: Float[Tensor, "rows V"]) -> Float[Tensor, "rows V"]:
    """Keep the tokens at least as probable as two draws from the distribution are to agree.

    Tan, Wu & Howard 2025, "p-less Sampling" (arXiv 2509.23234): keep p >= Σ p². With s = l - max l, Z = Σ e^s and
    Z2 = Σ e^2s this is a gap of ln Z - ln Z2, never below 0.
    """

    def lowest(block: Tensor, top: Tensor) -> Tensor:
        weights = (block - top).exp_()
        z = weights.sum(-1, keepdim=True)
        z2 = weights.square_().sum(-1, keepdim=True)
        return top - (z.log() - z2.log()).clamp_(min=0.0)

    return cut_below(logits, lowest)


def min_k(logits: Float[Tensor, "rows V"], tau: float) -> Float[Tensor, "rows V"]:
    """Keep the logits before the steepest position-weighted drop of the sorted row; tau <= 0 is off.

    Ding et al. 2026, "Min-k Sampling: Decoupling Truncation from Temperature Scaling via Relative Logit Dynamics"
    (ACL 2026, arXiv 2604.11012). With l_1 >= ... >= l_V and the range R = l_1 - l_V:
        w_i = (l_i - l_{i+1}) / R · 1/i,   k = max(argmax_i w_i, floor(tau / R)),   keep the k largest.
    tau / R keeps nearly flat rows from collapsing to one token (the paper's tau is 3.0), and does not scale with a
    temperature: apply this to unscaled logits. Ours: l_V is the least logit that is finite and not a soft ban, and only
    those can be kept; logits equal to the k-th are kept with it.
    """
    return logits if tau <= 0 else cut_below(logits, lambda block, top: _kth_largest(block, top, tau))


def _kth_largest(logits: Tensor, top: Tensor, tau: float) -> Tensor:
    """The k-th largest logit [b, 1] of each row [b, V], whose maxima are `top` [b, 1].

    A drop at rank i weighs at most (l_i - l_V) / i (R scales all alike). So if the best of the first m - 1 drops weighs
    as much as that at i = m, no later drop beats it, and the m largest are all that must be sorted.
    """
    vocab = logits.shape[-1]
    least = logits.masked_fill(logits <= top - SOFT_BAN, math.inf).amin(-1, keepdim=True)
    fallback = torch.where(top > least, tau / (top - least), 0.0).clamp_(max=vocab).long()
    head = min(max(MIN_K_HEAD, int(fallback.max())), vocab)
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


def row_blocks(logits: Float[Tensor, "rows V"]) -> Iterator[slice]:
    """Slices of rows that stay in a CPU's cache for all passes over them; all rows at once on a GPU."""
    rows, vocab = logits.shape
    step = max(1, BLOCK_LOGITS // max(1, vocab)) if logits.device.type == "cpu" else max(1, rows)
    for start in range(0, rows, step):
        yield slice(start, start + step)


def row_maximum(logits: Float[Tensor, "rows V"], first_row: int = 0) -> Float[Tensor, "rows 1"]:
    """The largest logit of each row; LogitsError naming the first that has none, counted from `first_row`."""
    top = logits.amax(-1, keepdim=True)  # NaN where the row holds one
    if not bool(torch.isfinite(top).all()):
        bad = int((~torch.isfinite(top)).flatten().nonzero()[0])
        value = {math.inf: "+inf", -math.inf: "no finite value"}.get(float(top[bad]), "NaN")
        raise LogitsError(f"no token can be chosen from row {first_row + bad} of the logits: it holds {value}")
    return top


def cut_below(
    logits: Float[Tensor, "rows V"], lowest_kept: Callable[[Tensor, Tensor], Tensor]
) -> Float[Tensor, "rows V"]:
    """Put every logit under its row's lowest kept one at -inf; gradients pass to the others.

    `lowest_kept` maps rows [b, V], float32 or wider, and their maxima [b, 1] to the lowest kept logit [b, 1].
    """
    source, lowest = logits.detach(), []
    for rows in row_blocks(source):
        block = source[rows]
        wide = block.float() if block.dtype in (torch.float16, torch.bfloat16) else block
        lowest.append(lowest_kept(wide, row_maximum(wide, rows.start)))
    return logits.masked_fill(source < torch.cat(lowest), -math.inf) if lowest else logits


def _sigma(logits: Tensor, top: Tensor) -> Tensor:
    """Population standard deviation [b, 1] of the logits [b, V] that are neither -inf nor soft bans."""
    below = logits - top  # else, and in one pass, float32 loses digits when all logits lie far from 0
    if float(below.amin()) > -SOFT_BAN:  # the sums of `live_sigma`, bit for bit, without their masks
        below -= below.sum(-1, keepdim=True) / below.shape[-1]
        return (below.square_().sum(-1, keepdim=True) / below.shape[-1]).sqrt_()
    return live_sigma(below)


def live_sigma(below: Float[Tensor, "b V"]) -> Float[Tensor, "b 1"]:
    """`_sigma` of rows already shifted by their maximum, which it overwrites; NaN where that is not finite.

    The host looks at no value here: nothing waits for a GPU.
    """
    dead = below <= -SOFT_BAN
    live = (~dead).sum(-1, keepdim=True)
    below.masked_fill_(dead, 0.0)
    below -= below.sum(-1, keepdim=True) / live
    return (below.masked_fill_(dead, 0.0).square_().sum(-1, keepdim=True) / live).sqrt_()
