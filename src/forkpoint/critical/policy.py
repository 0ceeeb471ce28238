"""What the sampling policy says along a trajectory: the probability of its own tokens, and of the tokens beside them.

A response sampled from any prefix of a trajectory follows it for a while and then takes another token: with the
probabilities along the trajectory known, nobody needs to sample the part where it follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from forkpoint.engines import Engine
from forkpoint.types import Sampling, Trajectory

ALTERNATIVES = 512
"""Other tokens known by name at each position; what probability lies outside of them is reported."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The policy along a trajectory of T tokens, float64 probabilities after temperature and truncation.

    `own` [T] is π of the trajectory's own tokens; `ids` and `probs` [T, K] are the most probable tokens with their
    probabilities, 0 for the trajectory's own; `outside` [T] is the probability of all tokens that are neither. Raw, for
    the reader: `logprob`, `entropy` (nats) and `gap` (p(top1) - p(top2)), [T] each.
    """

    own: Float64[np.ndarray, " T"]
    ids: Int64[np.ndarray, "T K"]
    probs: Float64[np.ndarray, "T K"]
    outside: Float64[np.ndarray, " T"]
    logprob: np.ndarray
    entropy: np.ndarray
    gap: np.ndarray


def policies(engine: Engine, trajectories: Sequence[Trajectory], sampling: Sampling) -> Iterator[Policy]:
    """The policy along each trajectory, in order, from one forward pass over each."""
    sequences = [(*t.prompt_ids, *t.token_ids) for t in trajectories]
    starts = [len(t.prompt_ids) for t in trajectories]
    top = min(ALTERNATIVES, engine.vocab_size)
    scores = engine.score(sequences, top=top, sampling=sampling, starts=starts)
    for trajectory, start, scored in zip(trajectories, starts, scores, strict=True):
        rows = slice(start, start + len(trajectory.token_ids))
        own, probs = scored.policy[rows].astype(np.float64), scored.top_policy[rows].astype(np.float64)
        ids = scored.top_ids[rows].astype(np.int64)
        probs = np.where(ids == np.array(trajectory.token_ids)[:, None], 0.0, probs)
        named = own + probs.sum(1)
        scale = 1 / np.maximum(named, 1.0)  # float32 rounding may sum to a little over 1
        outside = np.maximum(1 - named, 0.0)
        if top == engine.vocab_size:
            scale, outside = 1 / named, np.zeros_like(named)
        yield Policy(
            own * scale, ids, probs * scale[:, None], outside,
            scored.logprobs[rows], scored.entropy[rows], scored.gaps[rows],
        )  # fmt: skip
