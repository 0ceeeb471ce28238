"""Drawing tokens: one uniform number per (seed, request key, step), and the token it picks from logits.

So a request draws the same numbers alone, in any batch, and after any restart.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, UInt64
from torch import Tensor

from forkpoint.sampling.truncations import row_blocks

# splitmix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators"): the odd increment
# nearest to 2^64 / golden ratio, and the shifts and multipliers of its finaliser (Stafford's variant 13).
_INCREMENT = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


def key_hash(seed: int, key: str) -> int:
    """A 64-bit hash of (seed, key): blake2b of "seed:key", little-endian. The same everywhere and always."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest(), "little")


def uniforms(
    key_hashes: UInt64[np.ndarray, " rows"], step: int | Int64[np.ndarray, " rows"]
) -> Float64[np.ndarray, " rows"]:
    """One uniform number in [0, 1) a row: output `step`, from 0, of the splitmix64 stream seeded by the hash.

    `step` is one number for all rows or one a row. The 53 high bits of the output make the number.
    """
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is the point
        count = np.asarray(step, dtype=np.uint64) + np.uint64(1)
        z = np.asarray(key_hashes, dtype=np.uint64) + count * _INCREMENT
        z = (z ^ (z >> _SHIFTS[0])) * _MULTIPLIERS[0]
        z = (z ^ (z >> _SHIFTS[1])) * _MULTIPLIERS[1]
        z = z ^ (z >> _SHIFTS[2])
    numbers: np.ndarray = (z >> np.uint64(11)) * 2.0**-53
    return numbers


def inverse_cdf(
    logits: Float[Tensor, "rows V"], u: Float64[Tensor, " rows"] | Float64[np.ndarray, " rows"]
) -> Int64[Tensor, " rows"]:
    """The token of each row at which the cumulative probability, in token order, first exceeds u in [0, 1).

    `logits` need not be normalised; each row has a finite maximum (see `policy_logits`). Sums are float64, so that the
    last tokens of a large vocabulary get their due; a token of probability 0 is never picked.
    """
    draws = torch.as_tensor(u, dtype=torch.float64, device=logits.device).unsqueeze(-1)
    picked = torch.empty(len(logits), dtype=torch.long, device=logits.device)
    for rows in row_blocks(logits):
        block = logits[rows].float()
        weights = (block - block.amax(-1, keepdim=True)).exp_()
        cumulative = weights.double().cumsum_(-1)
        total = cumulative[:, -1:]
        # u · total may round up to total, which nothing exceeds
        target = (draws[rows] * total).minimum(torch.nextafter(total, total.new_zeros(())))
        picked[rows] = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    return picked
