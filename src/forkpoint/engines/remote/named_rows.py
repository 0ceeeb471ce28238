"""Scores from what a server names: of each distribution the likeliest tokens with their log-probabilities.

What lies outside of them is known as a whole only. It is spread evenly over the unnamed tokens, which leaves what is
said of named tokens exact and makes the entropy an upper bound. For the policy it is spread so that the unnamed tokens
get the most they can have, but for the rounding of the log-probabilities: below temperature 1 over as few as can hold
it without being likelier than the least named.

Shapes: n rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from forkpoint.engines.local.scoring import describe, padded
from forkpoint.types import Sampling, Scored, TokenIds, UserError

BLOCK = 2**23  # numbers in the rows that are filled in at once
JUST_BELOW = 1e-6  # relative distance of the likeliest unnamed token from the least likely named one
COLUMNS = tuple(f.name for f in fields(Scored))
POLICY = ("policy", "top_policy")
TINY = 1e-30
FROM_NAMED = frozenset({"temperature", "top_k", "top_p", "min_p"})


@dataclass(frozen=True, slots=True)
class Named:
    """The likeliest tokens of a distribution with their natural log-probabilities, and one more that may be among them.

    `own` is the sequence's own token, or any where the sequence has none.
    """

    ids: Sequence[int]
    logprobs: Sequence[float]
    own: int
    own_logprob: float


def check_nameable(sampling: Sampling, most_top: int, vocab_size: int, name: str) -> None:
    """UserError for a sampling whose probabilities cannot be told from the `most_top` likeliest tokens."""
    plain = Sampling()
    policy = {f.name for f in fields(Sampling)} - FROM_NAMED - {"max_tokens", "stop", "seed"}
    beyond = [key for key in sorted(policy) if getattr(sampling, key) != getattr(plain, key)]
    if beyond and most_top < vocab_size:
        raise UserError(
            f"probabilities under {beyond[0]} depend on all {vocab_size} tokens, of which {name} names at most "
            f"{most_top}; use temperature, top_k, top_p or min_p, or let it name all"
        )


def scored_rows(
    tokens: TokenIds, start: int, rows: Sequence[Named], vocab_size: int, top: int, sampling: Sampling | None
) -> Scored:
    """The `Scored` of a sequence from the named tokens of rows start..len(tokens)."""
    targets = torch.tensor([*tokens, 0][start:])[:, None]
    parts = []
    for first, some in _blocks(rows, vocab_size):
        own = targets[first : first + len(some)]
        columns = describe(_filled(some, vocab_size, dense=False), own, top, sampling)
        if sampling is not None and 0 < sampling.temperature < 1:
            dense = describe(_filled(some, vocab_size, dense=True), own, top, sampling)
            columns = [
                now if name not in POLICY else then for name, now, then in zip(COLUMNS, columns, dense, strict=True)
            ]
        parts.append(columns)
    return padded(start, len(tokens), [np.concatenate(column) for column in zip(*parts, strict=True)])


def filled(row: Named, vocab_size: int, *, dense: bool) -> Float[Tensor, " V"]:
    """Log-probabilities of all tokens; those that are not named evenly, or `dense`, over as few as can hold them."""
    ids, logprobs = torch.tensor(row.ids), torch.tensor(row.logprobs, dtype=torch.float32)
    full = torch.full((vocab_size,), -math.inf)
    full[ids] = logprobs
    full[row.own] = row.own_logprob
    unnamed = torch.isneginf(full).nonzero().flatten()
    rest = 1.0 - float(full.double().exp().sum())
    if rest <= 0 or not len(unnamed):
        return full
    most = float(logprobs.min()) - JUST_BELOW
    if dense:
        whole = min(int(rest / math.exp(most)), len(unnamed) - 1)  # as likely as can be, and one with what remains
        full[unnamed[:whole]] = most
        full[unnamed[whole]] = min(math.log(max(rest - whole * math.exp(most), TINY)), most)
    else:
        full[unnamed] = min(math.log(rest / len(unnamed)), most)
    return full


def _filled(rows: Sequence[Named], vocab_size: int, *, dense: bool) -> Float[Tensor, "n V"]:
    return torch.stack([filled(row, vocab_size, dense=dense) for row in rows])


def _blocks(rows: Sequence[Named], vocab_size: int) -> Iterator[tuple[int, Sequence[Named]]]:
    size = max(1, BLOCK // vocab_size)
    for first in range(0, len(rows), size):
        yield first, rows[first : first + size]
