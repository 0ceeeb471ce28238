"""What every engine refuses before it runs anything, in the same words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from forkpoint.engines.base import Engine, Starts
from forkpoint.sampling.limits import validate
from forkpoint.types import Request, Sampling, TokenIds, UserError


def check_requests(engine: Engine, requests: Sequence[Request], sampling: Sampling) -> None:
    """UserError for a sampling out of range, an empty or too long prefix, no room for a token, and repeated keys."""
    validate(sampling)
    for request in requests:
        room = sampling.max_tokens - request.written
        if room < 1:
            raise UserError(f"{request.key} has {request.written} of at most {sampling.max_tokens} tokens already")
        check_sequence(engine, request.prefix, request.key, room)
    if len({r.key for r in requests}) < len(requests):
        raise UserError("two requests have the same key; each needs its own, since it seeds the request's randomness")


def check_scoring(
    engine: Engine, sequences: Sequence[TokenIds], top: int, sampling: Sampling | None, starts: Starts
) -> list[int]:
    """The start of each sequence's scores; UserError for an empty or too long one, a start or a top out of range."""
    if sampling is not None:
        validate(sampling)
    if not 0 <= top <= engine.most_top:
        raise UserError(f"{top} top tokens were asked for, but {engine.name} names at most {engine.most_top} here")
    starts = [1] * len(sequences) if starts is None else list(starts)
    for i, (start, sequence) in enumerate(zip(starts, sequences, strict=True)):
        check_sequence(engine, sequence, f"sequence {i}", 0)
        if not 1 <= start <= len(sequence):
            raise UserError(f"scores of sequence {i} cannot start at {start}: it has {len(sequence)} tokens")
    return starts


def check_sequence(engine: Engine, sequence: TokenIds, key: str, room: int) -> None:
    """UserError for an empty sequence, one that leaves no room for `room` more tokens, and unknown ids."""
    if not sequence:
        raise UserError(f"{key} has an empty prompt; the model needs at least one token")
    if engine.context and len(sequence) + room > engine.context:
        raise UserError(
            f"{key} has {len(sequence)} tokens and {room} more may follow; {engine.name} reads at most {engine.context}"
        )
    if not 0 <= min(sequence) <= max(sequence) < engine.vocab_size:
        raise UserError(f"{key} holds token ids outside the vocabulary of {engine.name} (0 to {engine.vocab_size - 1})")


def check_room(engine: Engine, lengths: Iterable[tuple[str, int]]) -> None:
    """UserError for the first (name, tokens) that is longer than the engine reads."""
    for name, length in lengths:
        if engine.context and length > engine.context:
            raise UserError(f"{name} may have {length} tokens, but {engine.name} reads at most {engine.context}")
