"""Where a response sampled from a prefix leaves its trajectory, and with which token: drawn, not generated.

A response follows the trajectory from prefix i up to position d with probability Π_{i≤t<d} π_t, and leaves it there
with (1 - π_d), by a token from the policy without the trajectory's own, renormalised: all known from one forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from forkpoint.curves.rollout_policy import Policy
from forkpoint.engines import Engine
from forkpoint.types import Sampling, Trajectory

_WIDEN = 8  # how many times more tokens are named when a draw lies outside those named so far


@dataclass(frozen=True, slots=True)
class Fork:
    """A position of a trajectory at which another token is wanted; u in [0, 1) decides which."""

    trajectory: Trajectory
    policy: Policy
    position: int
    u: float


def divergence_positions(
    own: Float64[np.ndarray, " T"], prefix: int, u: Float64[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """The first position, from `prefix` on, at which each of n responses leaves the trajectory; T where it never does.

    `own` is π of the trajectory's own tokens and u, uniform in [0, 1), decides: a response still follows after
    position d while u < Π_{prefix≤t≤d} π_t.
    """
    following = np.cumprod(own[prefix:])
    return prefix + np.searchsorted(-following, -u, side="left").astype(np.int64)


def other_tokens(engine: Engine, forks: Sequence[Fork], sampling: Sampling) -> list[int | None]:
    """For each fork a token drawn from the policy there without the trajectory's own token, renormalised.

    None where the policy has no other token. Tokens stand in the order of their logits, and u picks the one at which
    the cumulative probability exceeds it. Where that is not among those that the policy names, the engine names more of
    them, up to the whole vocabulary, so the draw is exact.
    """
    drawn: list[int | None] = [None] * len(forks)
    pending = []
    for i, fork in enumerate(forks):
        policy, at = fork.policy, fork.position
        all_named = policy.outside[at] == 0
        drawn[i] = _pick(policy.ids[at], policy.probs[at], fork, all_named)
        if drawn[i] is None and not all_named:
            pending.append(i)
    top = max((forks[i].policy.ids.shape[1] for i in pending), default=0)
    while pending:
        top = min(top * _WIDEN, engine.vocab_size)
        rest = [forks[i] for i in pending]
        for i, token in zip(pending, _pick_wider(engine, rest, sampling, top), strict=True):
            drawn[i] = token
        pending = [i for i in pending if drawn[i] is None and top < engine.vocab_size]
    return drawn


def _pick_wider(engine: Engine, forks: Sequence[Fork], sampling: Sampling, top: int) -> list[int | None]:
    prefixes = [(*f.trajectory.prompt_ids, *f.trajectory.token_ids[: f.position]) for f in forks]
    scores = engine.score(prefixes, top=top, sampling=sampling, starts=[len(p) for p in prefixes])
    picked = []
    for fork, scored in zip(forks, scores, strict=True):
        ids = scored.top_ids[-1]
        probs = np.where(ids == fork.trajectory.token_ids[fork.position], 0.0, scored.top_policy[-1].astype(np.float64))
        picked.append(_pick(ids, probs, fork, top == engine.vocab_size))
    return picked


def _pick(ids: np.ndarray, probs: np.ndarray, fork: Fork, all_named: bool) -> int | None:
    """The token that u falls on, None where that is beyond the given ones or where all of them have probability 0."""
    cumulative = np.cumsum(probs)
    total = cumulative[-1] if all_named else 1 - fork.policy.own[fork.position]
    target = fork.u * total
    if all_named:  # u · total may round up to total
        target = min(target, np.nextafter(total, 0))
    at = int(np.searchsorted(cumulative, target, side="right"))
    return int(ids[at]) if at < len(ids) else None
