"""Requests as branches of shared trunks, and what live branches have written. Plain Python and numpy, no model.

A trunk is a token sequence whose keys and values are computed once. A request becomes a branch of it: it sees the
trunk's first `depth` tokens and is fed its few `own` tokens one a step (always at least one, whose logits give the
first generated token).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import numpy as np

from forkpoint.sampling.draw import key_hash
from forkpoint.text import StopCheck
from forkpoint.types import Completion, FinishReason, Request, TokenIds

MAX_OWN = 8


@dataclass(frozen=True, slots=True)
class Branch:
    """A request as it hangs on its trunk: `trunk[:depth] + own` is its prefix."""

    request: Request
    depth: int
    own: TokenIds


@dataclass(frozen=True, slots=True)
class Group:
    """A trunk and the branches that leave it."""

    trunk: TokenIds
    branches: tuple[Branch, ...]

    @property
    def magnitude(self) -> int:
        """The power of two that the number of branches lies under."""
        return len(self.branches).bit_length()


def _prefix_hashes(tokens: TokenIds) -> list[int]:
    """A rolling hash of every prefix, the empty one first."""
    return list(accumulate(tokens, lambda value, token: (value * 1_000_003 + token + 1) % ((1 << 61) - 1), initial=0))


def group_requests(requests: Sequence[Request]) -> list[Group]:
    """Requests gathered on as few trunks as MAX_OWN allows, large groups and long trunks first.

    The longest prefixes become trunks; every other request joins the deepest trunk that holds all but at most
    MAX_OWN tokens of its prefix. The result depends only on the requests and their order.
    """
    members: dict[TokenIds, list[Branch]] = {}  # by trunk
    home: dict[tuple[int, int], TokenIds] = {}  # (length, hash) of a trunk's prefix -> the trunk
    hashes_of: dict[TokenIds, list[int]] = {}
    for request in sorted(requests, key=lambda r: -len(r.prefix)):
        prefix = request.prefix
        hashes = hashes_of.get(prefix) or hashes_of.setdefault(prefix, _prefix_hashes(prefix))
        last = len(prefix) - 1
        for depth in range(last, max(-1, last - MAX_OWN), -1):
            trunk = home.get((depth, hashes[depth]))
            if trunk is not None and trunk[:depth] == prefix[:depth]:
                break
        else:
            trunk, depth = prefix[:last], last
            for length in range(last + 1):
                home.setdefault((length, hashes[length]), trunk)
        members.setdefault(trunk, []).append(Branch(request, depth, prefix[depth:]))
    groups = [Group(trunk, tuple(branches)) for trunk, branches in members.items()]
    return sorted(groups, key=lambda g: (-g.magnitude, -len(g.trunk)))


def by_size(groups: Sequence[Group]) -> list[list[Group]]:
    """The groups of `group_requests` apart by their magnitude.

    Branches meet their trunks in a grid of [trunks, most branches of one]; so at least half of it is in use.
    """
    return [list(alike) for _, alike in groupby(groups, key=lambda g: g.magnitude)]


def response_of(request: Request, generated: Sequence[int]) -> list[int]:
    """The tokens of a request's whole response: those already written, then the generated ones."""
    return [*request.prefix[len(request.prefix) - request.written :], *generated]


class Slots:
    """A fixed number of slots, each empty or holding a live branch. Arrays are [slots] or [slots, width]."""

    def __init__(self, n_slots: int, max_tokens: int, seed: int) -> None:
        self.seed = seed
        self.requests = np.empty(n_slots, dtype=object)
        self.live = np.zeros(n_slots, dtype=bool)
        self.fed, self.n_own, self.room = np.zeros((3, n_slots), dtype=np.int64)  # `fed` counts own tokens, too
        self.own = np.zeros((n_slots, MAX_OWN), dtype=np.int64)
        self.hashes = np.zeros(n_slots, dtype=np.uint64)
        self.tokens = np.zeros((n_slots, max_tokens), dtype=np.int64)
        self.logprobs, self.gaps = np.zeros((2, n_slots, max_tokens), dtype=np.float32)

    def __len__(self) -> int:
        return len(self.live)

    def place(self, slot: int, request: Request, own: TokenIds) -> None:
        """Put a fresh branch into an empty slot."""
        self.requests[slot] = request
        self.live[slot], self.fed[slot], self.n_own[slot] = True, 0, len(own)
        self.room[slot] = self.tokens.shape[1] - request.written
        self.own[slot, : len(own)] = own
        self.hashes[slot] = key_hash(self.seed, request.key)

    def keep(self, slots: list[int]) -> None:
        """Drop all other slots; these are renumbered in their order."""
        for name, column in vars(self).items():
            if isinstance(column, np.ndarray):
                setattr(self, name, column[slots])

    def next_tokens(self) -> np.ndarray:
        """The token that each slot is fed next, [slots]: its own ones first, then the last one it wrote."""
        rows = np.arange(len(self))
        own = self.own[rows, np.minimum(self.fed, MAX_OWN - 1)]
        written = self.tokens[rows, np.maximum(self.fed - self.n_own, 0)]
        return np.where(self.fed < self.n_own, own, written)

    def advance(self) -> tuple[np.ndarray, np.ndarray]:
        """Count one more token fed; returns the live slots that now write a token, and its number in each."""
        self.fed[self.live] += 1
        writing = np.flatnonzero(self.live & (self.fed >= self.n_own))
        return writing, (self.fed - self.n_own)[writing]

    def finish(self, slot: int, count: int, reason: FinishReason, stops: StopCheck) -> Completion:
        """Empty a slot; its branch wrote `count` tokens."""
        self.live[slot] = False
        request = self.requests[slot]
        tokens, logprobs, gaps = (a[slot, :count].tolist() for a in (self.tokens, self.logprobs, self.gaps))
        text = stops.text(response_of(request, tokens))
        return Completion(request.key, tuple(tokens), tuple(logprobs), tuple(gaps), text, reason)
