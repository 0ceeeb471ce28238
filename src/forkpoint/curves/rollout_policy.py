"""What the sampling policy says along a trajectory: the probability of its own tokens, and of the tokens beside them.

A response sampled from any prefix of a trajectory follows it for a while and then takes another token: with the
probabilities along the trajectory known, nobody needs to sample the part where it follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from forkpoint.engines import Engine
from forkpoint.types import Sampling, Trajectory

ALTERNATIVES = 512
"""Other tokens known by name at each position, where the engine can name so many."""

ROUNDING = 1e-5
"""Less probability than this outside of the named tokens is taken for the rounding of a float32 sum."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The policy along a trajectory of T tokens, float64 probabilities after temperature and truncation.

    `own` [T] is π of the trajectory's own tokens; `ids` and `probs` [T, K] are the most probable tokens with their
    probabilities, 0 for the trajectory's own; `outside` [T] is the probability of all tokens that are neither.
    `unnamed` [T] is the probability of tokens that the engine cannot name, and that are left out: the others are scaled
    to make 1 without them. Raw, for the reader: `logprob`, `entropy` (nats) and `gap` (p(top1) - p(top2)), [T] each.
    """

    own: Float64[np.ndarray, " T"]
    ids: Int64[np.ndarray, "T K"]
    probs: Float64[np.ndarray, "T K"]
    outside: Float64[np.ndarray, " T"]
    unnamed: Float64[np.ndarray, " T"]
    logprob: np.ndarray
    entropy: np.ndarray
    gap: np.ndarray

    def bias_bound(self) -> Float64[np.ndarray, " T+1"]:
        """How far a success probability P(correct | the first i tokens) may lie from the truth for what is left out.

        With m_t = `unnamed` there, p_{t-1} = (1 - m_t) p'_{t-1} + m_t q for some q in [0, 1], where p' leaves m_t out:
        so the difference grows by at most m_t, beside π_t (1 - m_t) times that of p_t.
        """
        bound = np.zeros(len(self.own) + 1)
        for t in range(len(self.own) - 1, -1, -1):
            bound[t] = self.unnamed[t] + (1 - self.unnamed[t]) * self.own[t] * bound[t + 1]
        return np.minimum(bound, 1.0)


def policies(engine: Engine, trajectories: Iterable[Trajectory], sampling: Sampling) -> Iterator[Policy]:
    """The policy along each trajectory, in order, from one forward pass over each.

    Each is scored alone: the last bits, on which everything drawn later rests, do not depend on the others.
    """
    top = min(ALTERNATIVES, engine.most_top)
    for trajectory in trajectories:
        start = len(trajectory.prompt_ids)
        (scored,) = engine.score(
            [(*trajectory.prompt_ids, *trajectory.token_ids)], top=top, sampling=sampling, starts=[start]
        )
        rows = slice(start, start + len(trajectory.token_ids))
        own, probs = scored.policy[rows].astype(np.float64), scored.top_policy[rows].astype(np.float64)
        ids = scored.top_ids[rows].astype(np.int64)
        probs = np.where(ids == np.array(trajectory.token_ids)[:, None], 0.0, probs)
        named = own + probs.sum(1)
        rest = np.where((named > 1 - ROUNDING) | (top == engine.vocab_size), 0.0, 1 - named)
        lost = rest if engine.most_top < engine.vocab_size else np.zeros_like(rest)
        scale = np.where(rest > lost, 1.0, 1 / named)
        yield Policy(
            own * scale, ids, probs * scale[:, None], rest - lost, lost,
            scored.logprobs[rows], scored.entropy[rows], scored.gaps[rows],
        )  # fmt: skip
