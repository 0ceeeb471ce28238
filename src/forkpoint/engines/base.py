"""What every engine offers: the only way the rest of forkpoint generates or scores tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from forkpoint.types import Completion, Request, Sampling, Scored, TokenIds, UserError

T = TypeVar("T")
R = TypeVar("R")
Starts = Sequence[int] | None  # of each sequence, the first row that is scored; None for 1


class Engine(Protocol):
    """A model that generates and scores token ids.

    Callers know nothing of batches or caches: an engine exploits shared prefixes itself. Results do not depend on what
    else is asked for in the same call, up to floating-point rounding.
    """

    name: str
    tokenizer: Any
    ends: tuple[int, ...]  # the token ids that end a response
    vocab_size: int  # ids go from 0 to vocab_size - 1
    most_top: int  # most alternatives a position that `score` can name
    context: int | None  # most tokens that the model reads, where known
    settings: Mapping[str, str | int | None]  # what else decides the last bits of its results

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """One completion a request, in the order in which they finish. Keys must be distinct."""
        ...

    def score(
        self, sequences: Sequence[TokenIds], *, top: int = 0, sampling: Sampling | None = None, starts: Starts = None
    ) -> Iterator[Scored]:
        """What the model says about each sequence, in order.

        `top` alternatives are kept a position; `policy` and `top_policy` are filled when `sampling` is given; rows
        before `starts[i]` (default 1) are left NaN and cost no vocabulary-sized work.
        """
        ...

    def beam_search(self, requests: Sequence[Request], num_beams: int, sampling: Sampling) -> Iterator[Completion]:
        """The best of `num_beams` beams for each request, in order; of `sampling`, max_tokens and stop count.

        Refused unless an engine has it: servers end and score beams in ways of their own, or have none.
        """
        raise UserError("beam search runs with --engine transformers only")

    def map(self, work: Callable[[Engine, T], R], items: Sequence[T]) -> Iterator[R]:
        """work(engine, item) of each item, in order.

        An engine with replicas does several items at once, each whole on one replica, so that the batches, and with
        them the last bits, are those of a single engine; work, items and results must then be picklable.
        """
        return (work(self, item) for item in items)
