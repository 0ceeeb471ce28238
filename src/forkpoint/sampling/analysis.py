"""Statistics of single steps' logits, and how many tokens samplers keep of them: the numbers of top-nσ's figures.

Pure functions on logits [rows, V], in float64. A constant added to a row moves its maximum and mean and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from forkpoint.sampling.limits import check, parse_value, validate
from forkpoint.sampling.processors import policy_logits
from forkpoint.sampling.truncations import SOFT_BAN, live_sigma, row_blocks, row_maximum
from forkpoint.types import Sampling, UserError, nearest, sampling_fields

TRUNCATIONS = tuple(f for f in sampling_fields() if f not in ("temperature", "max_tokens", "stop", "seed"))


@dataclass(frozen=True, slots=True)
class RowStatistics:
    """Of each row, float64 [rows]: statistics of the logits that are finite and not soft bans, and the entropy.

    `sigma` is that of top-nσ; `distance` is (maximum - mean) / sigma, or 0; `entropy` is that of softmax(l), in nats.
    """

    maximum: Float64[np.ndarray, " rows"]
    mean: Float64[np.ndarray, " rows"]
    sigma: Float64[np.ndarray, " rows"]
    distance: Float64[np.ndarray, " rows"]
    entropy: Float64[np.ndarray, " rows"]


def row_statistics(logits: Float[Tensor, "rows V"]) -> RowStatistics:
    """The statistics of each row (at least one). LogitsError, naming the row, for NaN, +inf, or no finite logit."""
    blocks = []
    for rows in row_blocks(logits):
        block = logits[rows].double()
        top = row_maximum(block, rows.start)
        below = block - top
        live = below > -SOFT_BAN
        mean = below.where(live, 0.0).sum(-1, keepdim=True) / live.sum(-1, keepdim=True)
        entropy = torch.special.entr(torch.softmax(below, -1)).sum(-1)
        sigma = live_sigma(below)
        blocks.append((top, top + mean, sigma, torch.where(sigma > 0, -mean / sigma, 0.0), entropy))
    return RowStatistics(*(torch.cat(column).flatten().cpu().numpy() for column in zip(*blocks, strict=True)))


def histogram(row: Float[Tensor, " V"]) -> tuple[Int64[np.ndarray, " bins"], Float64[np.ndarray, " bins_1"]]:
    """Counts of a row's logits (soft bans left out) in equal bins, and the edges; 40 to 100 bins by Rice's rule."""
    live = row[row > row.amax() - SOFT_BAN].double().cpu().numpy()
    bins = int(np.clip(np.ceil(2 * len(live) ** (1 / 3)), 40, 100))
    counts, edges = np.histogram(live, bins)
    return counts.astype(np.int64), edges


def most_probable(row: Float[Tensor, " V"], count: int) -> tuple[Int64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """The ids of the `count` most probable possible tokens or fewer, of equals the lower first, and softmax(l)."""
    probabilities = torch.softmax(row.double(), -1)
    ordered, ids = probabilities.sort(descending=True, stable=True)
    n = min(count, int((ordered > 0).sum()))
    return ids[:n].cpu().numpy(), ordered[:n].cpu().numpy()


def kept(logits: Float[Tensor, "rows V"], sampler: Sampling, temperature: float) -> Bool[Tensor, "rows V"]:
    """Which tokens the sampler's truncations keep at a temperature above 0; errors as in `policy_logits`."""
    return policy_logits(logits, replace(sampler, temperature=temperature)).isfinite()


def kept_sizes(
    logits: Float[Tensor, "rows V"], samplers: Sequence[Sampling], temperatures: Sequence[float]
) -> Int64[np.ndarray, "samplers temperatures rows"]:
    """How many tokens each sampler keeps of each row at each temperature."""
    sizes = [[kept(logits, s, t).sum(-1).cpu().numpy() for t in temperatures] for s in samplers]
    return np.array(sizes, np.int64).reshape(len(samplers), len(temperatures), len(logits))


def parse_sampler(spec: str) -> Sampling:
    """The truncations that a text names, `min_p=0.1` or `top_k=50,top_p=0.9`; UserError for what is none."""
    options: dict[str, Any] = {}
    for part in spec.split(","):
        name, equals, text = (s.strip() for s in part.partition("="))
        if name not in TRUNCATIONS:
            hint = nearest(name.replace("-", "_"), TRUNCATIONS, otherwise=f"there are {', '.join(TRUNCATIONS)}")
            raise UserError(f"unknown sampler {name!r}: {hint}")
        if not equals or not text:
            raise UserError(f"the sampler {name} has no value; write {name}=VALUE")
        if name in options:
            raise UserError(f"the sampler {spec!r} gives {name} twice")
        options[name] = parse_value(text, sampling_fields()[name], f"the sampler {name}")
    sampling = Sampling(**options)
    validate(sampling)
    return sampling


def parse_temperatures(text: str) -> tuple[float, ...]:
    """Temperatures of a text, `0.5,1,2`, in ascending order, each once. UserError for what is none, and for 0."""
    try:
        temperatures = sorted({float(part) for part in text.split(",")})
    except ValueError:
        raise UserError(f"temperatures must be numbers with commas between them, 0.5,1,2, but are {text!r}") from None
    for temperature in temperatures:
        check("temperature", temperature)
    if 0 in temperatures:
        raise UserError("temperatures must be above 0: at 0 (greedy) every sampler keeps one token")
    return tuple(temperatures)
