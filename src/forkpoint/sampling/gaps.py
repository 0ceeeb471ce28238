"""Truncations of the form "keep every logit within a gap of the largest": top-nσ, min-p, p-less.

All three are one rule, `keep l >= max(l) - gap`, and differ only in how a row's gap follows from its logits,
so they share one code path. Pure functions on tensors: the input is never changed, and nothing here knows of
models, temperature or the order in which samplers apply.

Rows are handled in blocks that stay in cache: a block is read from memory once, and the four or five passes
over it that follow are cheap.
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

_CPU_BLOCK_ELEMENTS = 2**19  # 2 MiB of float32: a few rows of a large vocabulary, all rows of a small one


class LogitsError(UserError, ValueError):
    """A row of logits from which no token can be chosen; the message names the row."""


def top_n_sigma(logits: Float[Tensor, "rows V"], n: float) -> Float[Tensor, "rows V"]:
    """Keep the logits within n standard deviations of the row's maximum; n <= 0 is off.

    Tang et al. 2024, "Top-nσ: Not All Logits Are You Need" (arXiv 2411.07641): keep l >= M - nσ with
    M = max l and σ = std l: the population standard deviation over the finite logits that are not soft bans
    (`SOFT_BAN`). The maximum is always kept; a row with one finite logit keeps exactly that one. Dividing l
    by a temperature scales M and σ alike, so the kept set is that of the unscaled logits, up to rounding (and
    soft bans, whose limit is not scaled).

    Returns logits of the same dtype with the rest at -inf. Raises LogitsError, naming the row, for NaN, +inf,
    or a row without any finite logit.
    """
    if n <= 0:
        return logits
    return cut_below(logits, lambda block, top: top - n * _sigma(block, top))


def min_p(logits: Float[Tensor, "rows V"], base: float) -> Float[Tensor, "rows V"]:
    """Keep the tokens at least `base` (0 to 1) times as probable as the most probable one; 0 is off.

    Nguyen et al. 2024, "Turning Up the Heat" (arXiv 2407.01082): keep p >= base · max p, in logits a gap of
    -ln(base). Top-nσ is min-p with base e^(-nσ). Return value and errors as in `top_n_sigma`.
    """
    if base <= 0:
        return logits
    return cut_below(logits, lambda block, top: top + math.log(base))


def p_less(logits: Float[Tensor, "rows V"]) -> Float[Tensor, "rows V"]:
    """Keep the tokens at least as probable as two draws from the distribution are to agree.

    Tan, Wu & Howard 2025, "p-less Sampling" (arXiv 2509.23234): keep p >= Σ p². With s = l - max l, Z = Σ e^s
    and Z2 = Σ e^2s this is a gap of ln Z - ln Z2. Return value and errors as in `top_n_sigma`.
    """
    return cut_below(logits, lambda block, top: top - _collision_gap(block, top))


def row_blocks(logits: Float[Tensor, "rows V"]) -> Iterator[slice]:
    """Slices of rows that together stay in a CPU's cache; all rows at once on a GPU."""
    rows, vocab = logits.shape
    step = max(1, _CPU_BLOCK_ELEMENTS // max(1, vocab)) if logits.device.type == "cpu" else max(1, rows)
    for start in range(0, rows, step):
        yield slice(start, start + step)


def row_maximum(logits: Float[Tensor, "rows V"], first_row: int = 0) -> Float[Tensor, "rows 1"]:
    """The largest logit of each row; LogitsError naming the first that has none, counted from `first_row`."""
    top = logits.amax(-1, keepdim=True)  # NaN where the row holds one
    if not bool(torch.isfinite(top).all()):
        bad = int((~torch.isfinite(top)).flatten().nonzero()[0])
        value = float(top[bad])
        what = {math.inf: "+inf", -math.inf: "no finite value"}.get(value, "NaN")
        raise LogitsError(f"no token can be chosen from row {first_row + bad} of the logits: it holds {what}")
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
    """Population standard deviation [b, 1] of the logits [b, V] that are neither -inf nor soft bans.

    Shifted by the maximum and in two passes: else float32 loses digits when all logits lie far from 0.
    """
    below = logits - top
    if float(below.amin()) > -SOFT_BAN:  # the sums further down, bit for bit, without their masks
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


def _collision_gap(logits: Tensor, top: Tensor) -> Tensor:
    """ln Z - ln Z2 [b, 1] of logits [b, V]. Never below 0, as max p >= Σ p²."""
    weights = (logits - top).exp_()
    z = weights.sum(-1, keepdim=True)
    z2 = weights.square_().sum(-1, keepdim=True)
    return (z.log() - z2.log()).clamp_(min=0.0)
