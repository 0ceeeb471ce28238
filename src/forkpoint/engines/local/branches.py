"""The state of live branches between steps: which request sits in which slot, what it was fed and what it wrote.

Plain numpy on the host; knows nothing of the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forkpoint.engines.local.trunks import MAX_OWN, Branch, response_of
from forkpoint.sampling.draw import key_hash


@dataclass(frozen=True, slots=True)
class Written:
    """What a finished branch wrote."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    gaps: tuple[float, ...]


class Slots:
    """A fixed number of slots, each empty or holding a live branch. Arrays are [slots] or [slots, width]."""

    _ARRAYS = ("live", "fed", "n_own", "room", "own", "hashes", "tokens", "logprobs", "gaps")

    def __init__(self, n_slots: int, max_tokens: int, seed: int) -> None:
        self.seed = seed
        self.branches: list[Branch | None] = [None] * n_slots
        self.live = np.zeros(n_slots, dtype=bool)
        self.fed = np.zeros(n_slots, dtype=np.int64)  # tokens fed so far, own ones included
        self.n_own = np.ones(n_slots, dtype=np.int64)
        self.room = np.zeros(n_slots, dtype=np.int64)  # tokens that may still be written when a branch starts
        self.own = np.zeros((n_slots, MAX_OWN), dtype=np.int64)
        self.hashes = np.zeros(n_slots, dtype=np.uint64)
        self.tokens = np.zeros((n_slots, max_tokens), dtype=np.int64)
        self.logprobs = np.zeros((n_slots, max_tokens), dtype=np.float32)
        self.gaps = np.zeros((n_slots, max_tokens), dtype=np.float32)

    def __len__(self) -> int:
        return len(self.branches)

    def place(self, slot: int, branch: Branch) -> None:
        """Put a fresh branch into an empty slot."""
        self.branches[slot] = branch
        self.live[slot] = True
        self.fed[slot] = 0
        self.n_own[slot] = len(branch.own)
        self.room[slot] = self.tokens.shape[1] - branch.request.written
        self.own[slot, : len(branch.own)] = branch.own
        self.hashes[slot] = key_hash(self.seed, branch.request.key)

    def keep(self, slots: list[int]) -> None:
        """Drop all slots but the given ones, which are renumbered in that order."""
        self.branches = [self.branches[slot] for slot in slots]
        for name in self._ARRAYS:
            setattr(self, name, getattr(self, name)[slots])

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

    def key(self, slot: int) -> str:
        """The key of the request in a slot."""
        branch = self.branches[slot]
        assert branch is not None
        return branch.request.key

    def response(self, slot: int) -> list[int]:
        """The tokens of a slot's response so far, those that its request brought along included."""
        branch = self.branches[slot]
        assert branch is not None
        return response_of(branch.request, self.tokens[slot, : self.fed[slot] - self.n_own[slot] + 1].tolist())

    def take(self, slot: int, count: int) -> tuple[Branch, Written]:
        """Empty a slot; returns its branch and the first `count` tokens it wrote."""
        branch = self.branches[slot]
        assert branch is not None
        self.branches[slot], self.live[slot] = None, False
        return branch, Written(
            tuple(self.tokens[slot, :count].tolist()),
            tuple(self.logprobs[slot, :count].tolist()),
            tuple(self.gaps[slot, :count].tolist()),
        )
