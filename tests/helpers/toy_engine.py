"""A language model of five tokens whose every probability is known: an `Engine` in plain Python, for exact tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from forkpoint.engines import Engine
from forkpoint.sampling.draw import key_hash, uniforms
from forkpoint.types import Completion, Problem, Request, Sampling, Scored, TokenIds, Trajectory

# The next token's probabilities after each token; 0 ends a response. Token 3 leads to almost only wrong answers.
NEXT = np.array([
    [1.0, 0.0, 0.0, 0.0, 0.0],
    [0.15, 0.3, 0.3, 0.25, 0.0],
    [0.1, 0.15, 0.35, 0.3, 0.1],
    [0.2, 0.03, 0.07, 0.6, 0.1],
    [0.0, 0.3, 0.1, 0.35, 0.25],
])  # fmt: skip
PROMPT = (4, 1)
GOLD = 1  # a response is correct when the last token before its end is this one
PROBLEM = Problem("toy", "Which token?", str(GOLD), "number")


class ToyTokenizer:
    """Token i states the answer i, also where the response is cut off after it; the end is nothing."""

    def decode(self, token_ids: Sequence[int], **_: bool) -> str:
        return "".join(f"#### {i}\n" for i in token_ids if i)


class BareTokenizer(ToyTokenizer):
    """Token i is a bare " i", which is no answer of a response that is cut off."""

    def decode(self, token_ids: Sequence[int], **_: bool) -> str:
        return "".join(f" {i}" for i in token_ids if i)


class ToyEngine(Engine):
    name, tokenizer, ends, vocab_size, most_top, context = "toy", ToyTokenizer(), (0,), 5, 5, None

    settings: ClassVar[dict[str, str | int | None]] = {}

    def __init__(self) -> None:
        self.written = 0  # tokens generated so far

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        for request in reversed(requests):  # the order is an engine's own
            hashes = np.array([key_hash(sampling.seed, request.key)], dtype=np.uint64)
            response = list(request.prefix[len(request.prefix) - request.written :])
            last, new = request.prefix[-1], []
            while len(response) + len(new) < sampling.max_tokens and (not new or last):
                u = uniforms(hashes, len(new))[0]
                last = int(np.searchsorted(np.cumsum(NEXT[last]), u, side="right"))
                new.append(last)
            self.written += len(new)
            text = self.tokenizer.decode([*response, *new])
            zeros = (0.0,) * len(new)
            yield Completion(request.key, tuple(new), zeros, zeros, text, "length" if last else "stop")

    def score(
        self,
        sequences: Sequence[TokenIds],
        *,
        top: int = 0,
        sampling: Sampling | None = None,
        starts: Sequence[int] | None = None,
    ) -> Iterator[Scored]:
        for sequence in sequences:
            rows = np.concatenate([np.full((1, 5), np.nan), NEXT[list(sequence)]])
            own = np.array([*(rows[i, token] for i, token in enumerate(sequence)), np.nan])
            ids = np.argsort(-rows, axis=1, kind="stable")[:, :top]
            probs = np.take_along_axis(rows, ids, 1).astype(np.float32)
            with np.errstate(divide="ignore"):
                yield Scored(np.log(own), own, own, own.astype(np.float32), ids, np.log(probs), probs)


def trajectory(token_ids: TokenIds, name: str = "toy/0") -> Trajectory:
    """A response of the toy, graded."""
    last = [t for t in token_ids if t][-1:]
    reason = "stop" if token_ids[-1] == 0 else "length"
    return Trajectory(name, PROBLEM, PROMPT, token_ids, str(*last) or None, last == [GOLD], reason)


def success_after(token_ids: TokenIds, max_tokens: int) -> float:
    """P(correct) after these tokens of a response, by enumeration."""
    if token_ids and (token_ids[-1] == 0 or len(token_ids) == max_tokens):
        return float([t for t in token_ids if t][-1:] == [GOLD])
    last = token_ids[-1] if token_ids else PROMPT[-1]
    return sum(p * success_after((*token_ids, v), max_tokens) for v, p in enumerate(NEXT[last]) if p)
