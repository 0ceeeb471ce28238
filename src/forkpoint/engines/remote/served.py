"""Between forkpoint and engines that sample by themselves (vLLM, servers): what is asked, and what came back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from forkpoint.engines.local.trunks import response_of
from forkpoint.sampling.draw import key_hash
from forkpoint.sampling.limits import validate
from forkpoint.text import StopCheck
from forkpoint.types import Completion, Request, Sampling, UserError

T = TypeVar("T")
TEMPERATURES = 0.01, 2.0  # vLLM raises lower ones, and refuses higher ones
SERVED = ("temperature", "top_k", "top_p", "min_p", "top_n_sigma")


def check_served(sampling: Sampling) -> None:
    """UserError for a policy out of range, or that vLLM samples otherwise than forkpoint, or not at all."""
    validate(sampling)
    plain = Sampling()
    policy = [f.name for f in fields(Sampling) if f.name not in ("max_tokens", "stop", "seed", *SERVED)]
    if others := [name for name in policy if getattr(sampling, name) != getattr(plain, name)]:
        raise UserError(f"{others[0]} is not sampled by this engine, which knows {', '.join(SERVED)}")
    least, most = TEMPERATURES
    if sampling.temperature and not least <= sampling.temperature <= most:
        raise UserError(
            f"temperature must be 0 (greedy) or from {least} to {most} on vLLM, but is {sampling.temperature}"
        )
    if sampling.min_p > 0 and (sampling.top_p < 1 or sampling.top_n_sigma > 0):
        other = "top_p" if sampling.top_p < 1 else "top_n_sigma"
        raise UserError(f"min_p and {other} do not go together on vLLM, which applies min_p before {other}")


def policy_arguments(sampling: Sampling) -> dict[str, Any]:
    """What of a policy differs from plain sampling at temperature 1, under vLLM's names."""
    names = ("temperature",) if sampling.temperature == 0 else ("temperature", "top_k", "top_p", "min_p")
    chosen = {name: getattr(sampling, name) for name in names if getattr(sampling, name) != getattr(Sampling(), name)}
    return {"temperature": 1.0} | chosen


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


def served_completion(
    request: Request,
    token_ids: Sequence[int],
    logprobs: Sequence[float],
    gaps: Sequence[float],
    *,
    ended: bool,
    stops: StopCheck,
) -> Completion:
    """What came back for a request, cut after the token that completes a stop string of the whole response.

    A server looks for stop strings in the new tokens alone, and one that begins in the request's written tokens is not
    there. `ended` says that the response ended by itself.
    """
    n = len(token_ids)
    response = response_of(request, tuple(token_ids))
    if first := stops.first_end(response, len(response) - n):
        n, ended = first, True
    kept = tuple(token_ids[:n])
    return Completion(
        request.key, kept, tuple(logprobs[:n]), tuple(gaps[:n]), stops.text(response_of(request, kept)),
        "stop" if ended else "length",
    )  # fmt: skip
