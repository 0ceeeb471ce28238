"""Decoding of many requests as branches of shared trunks: admission, one step for all, finishing, compaction.

Slots are refilled as branches finish; when nothing waits any more, finished branches are compacted away. Running out
of memory halves the number of slots and starts the unfinished branches again: their tokens do not depend on it.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from forkpoint.engines.local.branches import Slots, Written
from forkpoint.engines.local.memory import PREFILL_TOKENS, is_out_of_memory, live_branches
from forkpoint.engines.local.token_choice import choose
from forkpoint.engines.local.trunk_attention import TrunkCache, compute_trunks, trunk_step
from forkpoint.engines.local.trunks import Branch, Group, by_size, group_requests, response_of
from forkpoint.text import StopCheck
from forkpoint.types import Completion, FinishReason, Request, Sampling, UserError

REFILL_SHARE = 0.25  # admit new branches once this share of the slots is empty
COMPACT_BELOW = 0.75  # drop empty slots once fewer than this share is live and nothing waits


class TrunkDecoder:
    """Generates completions for requests; one object serves one call of `generate`."""

    def __init__(self, model: PreTrainedModel, stops: StopCheck, sampling: Sampling, budget: int) -> None:
        self.model, self.stops, self.sampling, self.budget = model, stops, sampling, budget

    @torch.inference_mode()
    def run(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Completions as they finish; trunks with about as many branches each are decoded together."""
        for alike in by_size(group_requests(requests)):
            yield from self._run(alike)

    def _run(self, groups: list[Group]) -> Iterator[Completion]:
        waiting = {branch.request.key: branch.request for group in groups for branch in group.branches}
        limit: int | None = None
        while waiting:
            n_slots = live_branches(self.model, groups, self.sampling.max_tokens, self.budget)
            limit = n_slots if limit is None else min(limit, n_slots)
            try:
                for done in self._decode(groups, limit):
                    del waiting[done.key]
                    yield done
                return
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if limit == 1:
                    raise UserError(f"memory ran out on a single response: {str(error).splitlines()[0]}") from error
                limit = limit // 2
            groups = group_requests(list(waiting.values()))
            gc.collect()  # what the failed step held
            if self.model.device.type == "cuda":
                torch.cuda.empty_cache()

    def _decode(self, groups: list[Group], n_slots: int) -> Iterator[Completion]:
        queue = deque((g, branch) for g, group in enumerate(groups) for branch in group.branches)
        longest_own = max(len(branch.own) for _, branch in queue)
        trunks = Trunks(self.model, groups, longest_own + self.sampling.max_tokens)
        slots = Slots(n_slots, self.sampling.max_tokens, self.sampling.seed)
        while queue or slots.live.any():
            empty = np.flatnonzero(~slots.live)
            if queue and len(empty) >= max(1, REFILL_SHARE * len(slots)):
                self._admit(queue, trunks, slots, empty.tolist())
            elif not queue and slots.live.sum() < COMPACT_BELOW * len(slots):
                keep = sorted(np.flatnonzero(slots.live).tolist(), key=lambda slot: trunks.row_of_slot[slot])
                slots.keep(keep)
                trunks.keep(keep)
            yield from self._step(trunks.cache, slots)

    def _admit(self, queue: deque[tuple[int, Branch]], trunks: Trunks, slots: Slots, empty: list[int]) -> None:
        chosen = [queue.popleft() for _ in range(min(len(empty), len(queue)))]
        trunks.admit(empty[: len(chosen)], chosen, slots)
        for slot, (_, branch) in zip(empty, chosen, strict=False):
            slots.place(slot, branch)

    def _step(self, cache: TrunkCache, slots: Slots) -> Iterator[Completion]:
        tokens = torch.as_tensor(slots.next_tokens(), device=self.model.device)
        logits = trunk_step(self.model, cache, tokens)
        writing, number = slots.advance()
        if not len(writing):
            return
        picked = choose(
            _rows(logits, writing), self.sampling, slots.hashes[writing], number, lambda i: slots.key(int(writing[i]))
        )
        slots.tokens[writing, number] = picked.tokens
        slots.logprobs[writing, number] = picked.logprobs
        slots.gaps[writing, number] = picked.gaps
        ended = self.stops.ended(picked.tokens, lambda i: slots.response(int(writing[i])))
        finished = ended | (number + 1 == slots.room[writing])
        if finished.any():
            cache.retire(writing[finished].tolist())
        for i in np.flatnonzero(finished):
            branch, written = slots.take(int(writing[i]), int(number[i]) + 1)
            yield completion(branch.request, written, "stop" if ended[i] else "length", self.stops)


class Trunks:
    """The trunks in use: which row of the cache holds which group, and which row each slot's branch hangs on."""

    def __init__(self, model: PreTrainedModel, groups: list[Group], most_columns: int) -> None:
        self.model, self.groups = model, groups
        self.cache = TrunkCache(model.device, most_columns)
        self.rows: list[int | None] = []  # row -> the group whose trunk it holds
        self.row_of_slot: dict[int, int] = {}

    def admit(self, new_slots: list[int], chosen: list[tuple[int, Branch]], slots: Slots) -> None:
        """Hang the chosen branches on their trunks, computing those that are not there yet."""
        used = {self.row_of_slot[slot] for slot in np.flatnonzero(slots.live).tolist()}
        row_of = {group: row for row, group in enumerate(self.rows) if group is not None}
        wanted = list(dict.fromkeys(group for group, _ in chosen))
        keep = used | {row_of[g] for g in wanted if g in row_of}
        reusable = [row for row in range(len(self.rows)) if row not in keep]
        fresh = [group for group in wanted if group not in row_of]
        for group in fresh:
            if reusable:
                row = reusable.pop()
            else:
                row = len(self.rows)
                self.rows.append(None)
            self.rows[row] = group
            row_of[group] = row
        self._compute(fresh, row_of)
        for slot, (group, _) in zip(new_slots, chosen, strict=True):
            self.row_of_slot[slot] = row_of[group]
        self.cache.place(new_slots, [row_of[g] for g, _ in chosen], [branch.depth for _, branch in chosen], len(slots))

    def _compute(self, fresh: list[int], row_of: dict[int, int]) -> None:
        fresh = sorted(fresh, key=lambda g: -len(self.groups[g].trunk))
        while fresh:
            width = max(1, len(self.groups[fresh[0]].trunk))
            batch, fresh = fresh[: max(1, PREFILL_TOKENS // width)], fresh[max(1, PREFILL_TOKENS // width) :]
            computed = compute_trunks(self.model, [self.groups[g].trunk for g in batch])
            self.cache.store_trunks([row_of[g] for g in batch], computed, len(self.rows))

    def keep(self, slots: list[int]) -> None:
        """Drop all slots but the given ones, and the trunks that none of them needs."""
        self.cache.keep_branches(slots)
        rows = [self.row_of_slot[slot] for slot in slots]
        kept = sorted(set(rows))
        if len(kept) < len(self.rows):
            self.cache.keep_trunks(kept)
            self.rows = [self.rows[row] for row in kept]
        renumber = {row: i for i, row in enumerate(kept)}
        self.row_of_slot = {i: renumber[row] for i, row in enumerate(rows)}


def _rows(logits: Tensor, rows: np.ndarray) -> Tensor:
    return logits if len(rows) == len(logits) else logits[torch.as_tensor(rows, device=logits.device)]


def completion(request: Request, written: Written, reason: FinishReason, stops: StopCheck) -> Completion:
    """What a finished branch wrote, as the caller gets it."""
    text = stops.text(response_of(request, written.tokens))
    return Completion(request.key, written.tokens, written.logprobs, written.gaps, text, reason)
