"""A model's view of responses as a score per token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from forkpoint.engines import Engine
from forkpoint.text import pieces
from forkpoint.types import Sampling, TokenScores, Trajectory


def score_trajectories(
    engine: Engine, trajectories: Sequence[Trajectory], sampling: Sampling | None = None
) -> Iterator[TokenScores]:
    """What the engine's model thinks of each token of each response, in order.

    Columns, one number a token: `logprob` (natural log), `entropy` (nats) and `gap` (p(top1) - p(top2)) of the raw
    distribution, and `policy_prob` under `sampling` where that is given. Errors are those of `Engine.score`.
    """
    sequences = [t.prompt_ids + t.token_ids for t in trajectories]
    starts = [len(t.prompt_ids) for t in trajectories]
    scored = engine.score(sequences, sampling=sampling, starts=starts)
    for trajectory, start, facts in zip(trajectories, starts, scored, strict=True):
        columns = {"logprob": facts.logprobs, "entropy": facts.entropy, "gap": facts.gaps}
        if sampling is not None:
            columns["policy_prob"] = facts.policy
        own = {name: column[start : start + len(trajectory.token_ids)] for name, column in columns.items()}
        yield with_tokens(TokenScores(trajectory, own), engine.tokenizer)


def with_tokens(scores: TokenScores, tokenizer: Any) -> TokenScores:
    """The scores with the texts of their tokens, so that a notebook can show them."""
    return replace(scores, tokens=tuple(pieces(tokenizer, scores.trajectory.token_ids)))
