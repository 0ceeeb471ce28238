"""Rollouts: responses that leave a trajectory at a position, graded.

The tokens up to there are the trajectory's own ids, never decoded and tokenised again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from forkpoint.engines import Engine
from forkpoint.tasks import grade_response
from forkpoint.text import cut_at_stop, decode
from forkpoint.types import FinishReason, Request, Sampling, TokenIds, Trajectory


@dataclass(frozen=True, slots=True)
class Start:
    """Where a rollout begins: after the trajectory's first `position` tokens, with `forced` as the next ones.

    `key` names it and seeds its randomness.
    """

    key: str
    trajectory: Trajectory
    position: int
    forced: TokenIds = ()


@dataclass(frozen=True, slots=True)
class Rollout:
    """How a start went on: the verdict, the tokens from its position on, and how many of them the engine wrote."""

    key: str
    correct: bool
    token_ids: TokenIds
    generated: int


def roll_out(engine: Engine, starts: Sequence[Start], sampling: Sampling) -> Iterator[Rollout]:
    """One graded rollout a start, in the order in which they finish; each response has at most max_tokens tokens.

    A response that the forced tokens already end (by an end-of-sequence token, a stop string, or the last token there
    is room for) costs nothing.
    """
    by_key = {start.key: start for start in starts}
    requests = []
    for start in starts:
        written = (*start.trajectory.token_ids[: start.position], *start.forced)
        if reason := _over(engine, written, sampling):
            yield _graded(start, cut_at_stop(decode(engine.tokenizer, written), sampling.stop), reason, ())
        else:
            requests.append(Request(start.key, (*start.trajectory.prompt_ids, *written), len(written)))
    for done in engine.generate(requests, sampling):
        yield _graded(by_key[done.key], done.text, done.finish_reason, done.token_ids)


def _over(engine: Engine, written: TokenIds, sampling: Sampling) -> FinishReason | None:
    """Why nothing follows these tokens of a response, None where something does."""
    if written and written[-1] in engine.ends:
        return "stop"
    if sampling.stop and any(stop in decode(engine.tokenizer, written) for stop in sampling.stop):
        return "stop"
    return "length" if len(written) >= sampling.max_tokens else None


def _graded(start: Start, text: str, reason: FinishReason, generated: TokenIds) -> Rollout:
    verdict = grade_response(text, start.trajectory.problem, cut_off=reason == "length")
    return Rollout(start.key, verdict.correct, (*start.forced, *generated), len(generated))
