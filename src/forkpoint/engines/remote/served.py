"""Between forkpoint and engines that sample by themselves (vLLM, servers): what is asked, and what came back.

A server names of each distribution the likeliest tokens with their log-probabilities. What lies outside of them is
known as a whole only. It is spread evenly over the unnamed tokens, which leaves what is stated of named tokens exact
and makes the entropy an upper bound. For the policy it is spread so that the unnamed tokens get the most they can have,
but for the rounding of the log-probabilities: below temperature 1 over as few as can hold it without being likelier
than the least named.

Shapes: n rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from forkpoint.engines.local.branches import response_of
from forkpoint.engines.local.scoring import describe, padded
from forkpoint.sampling.draw import key_hash
from forkpoint.sampling.limits import validate
from forkpoint.text import StopCheck
from forkpoint.types import Completion, Request, Sampling, Scored, TokenIds, UserError

T = TypeVar("T")
TEMPERATURES = 0.01, 2.0  # vLLM raises lower ones, and refuses higher ones
FROM_NAMED = ("temperature", "top_k", "top_p", "min_p")  # whose probabilities few named tokens tell
SERVED = (*FROM_NAMED, "top_n_sigma")
BLOCK = 2**23  # numbers in the rows that are filled in at once
JUST_BELOW = 1e-6  # relative distance of the likeliest unnamed token from the least likely named one
TINY = 1e-30


def _parts(sampling: Sampling) -> dict[str, Any]:
    """What of a policy differs from plain sampling at temperature 1."""
    names = {f.name: f.default for f in fields(Sampling) if f.name not in ("max_tokens", "stop", "seed")}
    return {name: value for name, plain in names.items() if (value := getattr(sampling, name)) != plain}


def check_served(sampling: Sampling) -> None:
    """UserError for a policy out of range, or that vLLM samples otherwise than forkpoint, or not at all."""
    validate(sampling)
    if unknown := [name for name in _parts(sampling) if name not in SERVED]:
        raise UserError(f"{unknown[0]} is not sampled by this engine, which knows {', '.join(SERVED)}")
    least, most = TEMPERATURES
    if sampling.temperature and not least <= sampling.temperature <= most:
        raise UserError(
            f"temperature must be 0 (greedy) or from {least} to {most} on vLLM, but is {sampling.temperature}"
        )
    if sampling.min_p > 0 and (sampling.top_p < 1 or sampling.top_n_sigma > 0):
        other = "top_p" if sampling.top_p < 1 else "top_n_sigma"
        raise UserError(f"min_p and {other} do not go together on vLLM, which applies min_p before {other}")


def check_nameable(sampling: Sampling | None, most_top: int, vocab_size: int, name: str) -> None:
    """UserError for a sampling whose probabilities do not follow from the `most_top` likeliest tokens."""
    unknown = [name for name in _parts(sampling) if name not in FROM_NAMED] if sampling else []
    if unknown and most_top < vocab_size:
        raise UserError(
            f"probabilities under {unknown[0]} depend on all {vocab_size} tokens, of which {name} names at most "
            f"{most_top}; use temperature, top_k, top_p or min_p, or let it name all"
        )


def policy_arguments(sampling: Sampling) -> dict[str, Any]:
    """The policy under vLLM's names, but for top-nσ and what is plain."""
    names = FROM_NAMED[:1] if sampling.temperature == 0 else FROM_NAMED
    return {"temperature": 1.0} | {name: value for name, value in _parts(sampling).items() if name in names}


def sigma_arguments(sampling: Sampling) -> dict[str, float] | None:
    """What forkpoint's plugin of vLLM is asked; None where top-nσ is off."""
    return {"top_n_sigma": sampling.top_n_sigma} if sampling.top_n_sigma > 0 and sampling.temperature > 0 else None


def request_seed(sampling: Sampling, key: str) -> int:
    """The seed of a request: its own, whatever runs beside it; below 2^63."""
    return key_hash(sampling.seed, key) >> 1


def in_order(numbered: Iterable[tuple[int, T]]) -> Iterator[T]:
    """The values by their numbers from 0, each as soon as all before it are there."""
    early: dict[int, T] = {}
    following = 0
    for number, value in numbered:
        early[number] = value
        while following in early:
            yield early.pop(following)
            following += 1


@dataclass(frozen=True, slots=True)
class Named:
    """The likeliest tokens of a distribution with their natural log-probabilities, and one more that may be among them.

    `own` is the sequence's own token, or any where the sequence has none.
    """

    ids: Sequence[int]
    logprobs: Sequence[float]
    own: int
    own_logprob: float


def served_completion(request: Request, rows: Sequence[Named], *, ended: bool, stops: StopCheck) -> Completion:
    """What came back for a request, cut after the token that completes a stop string of the whole response.

    A server looks for stop strings in the new tokens alone, and misses one that begins in the request's written tokens.
    `ended` says that the response ended by itself. Each row names at least two tokens.
    """
    response = response_of(request, [row.own for row in rows])
    if first := stops.first_end(response, len(response) - len(rows)):
        rows, ended = rows[:first], True
    tokens = tuple(row.own for row in rows)
    tops = [sorted(row.logprobs, reverse=True)[:2] for row in rows]
    return Completion(
        request.key, tokens, tuple(row.own_logprob for row in rows), tuple(math.exp(a) - math.exp(b) for a, b in tops),
        stops.text(response_of(request, tokens)), "stop" if ended else "length",
    )  # fmt: skip


def scored_rows(
    tokens: TokenIds, start: int, rows: Sequence[Named], vocab_size: int, top: int, sampling: Sampling | None
) -> Scored:
    """The `Scored` of a sequence from the named tokens of rows start..len(tokens)."""
    targets = torch.tensor([*tokens, 0][start:])[:, None]
    size, cold = max(1, BLOCK // vocab_size), sampling is not None and 0 < sampling.temperature < 1
    parts = []
    for first in range(0, len(rows), size):
        block = slice(first, first + size)
        even = torch.stack([filled(row, vocab_size, dense=False) for row in rows[block]])
        drawn = torch.stack([filled(row, vocab_size, dense=True) for row in rows[block]]) if cold else even
        parts.append(describe(even, targets[block], top, sampling, drawn))
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
