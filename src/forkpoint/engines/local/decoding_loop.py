"""Decoding of many requests: as branches of shared trunks, or, for other models, in plain batches of equal lengths.

Slots are refilled as branches finish; when nothing waits any more, finished branches are compacted away. Running out
of memory halves the number of slots and starts the unfinished branches again: their tokens do not depend on it.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import PreTrainedModel

from forkpoint.engines.local.branches import Branch, Group, Slots, by_size, group_requests, response_of
from forkpoint.engines.local.memory import PREFILL_TOKENS, half_after, in_halves, live_branches
from forkpoint.engines.local.scoring import only_rows
from forkpoint.engines.local.token_choice import choose
from forkpoint.engines.local.trunk_attention import TrunkCache, compute_trunks, trunk_step
from forkpoint.text import StopCheck
from forkpoint.types import Completion, Request, Sampling

REFILL_SHARE = 0.25  # admit new branches once this share of the slots is empty
COMPACT_BELOW = 0.75  # drop empty slots once fewer than this share is live and nothing waits
STATES = ("past_key_values", "cache_params")  # what transformers calls the state, by family


class TrunkDecoder:
    """Generates completions for requests; one object serves one call of `generate`."""

    def __init__(self, model: PreTrainedModel, stops: StopCheck, sampling: Sampling, budget: int) -> None:
        self.model, self.stops, self.sampling, self.budget = model, stops, sampling, budget

    @torch.inference_mode()
    def run(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Completions as they finish; trunks with about as many branches each are decoded together."""
        for groups in by_size(group_requests(requests)):
            yield from self._run(groups)

    def _run(self, groups: list[Group]) -> Iterator[Completion]:
        waiting = {branch.request.key: branch.request for group in groups for branch in group.branches}
        limit = len(waiting)
        while waiting:
            limit = min(limit, live_branches(self.model, groups, self.sampling.max_tokens, self.budget))
            try:
                for done in self._decode(groups, limit):
                    del waiting[done.key]
                    yield done
                return
            except Exception as error:
                limit = half_after(error, limit, "response")
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
            empty = np.flatnonzero(~slots.live).tolist()
            if queue and len(empty) >= max(1, REFILL_SHARE * len(slots)):
                chosen = [queue.popleft() for _ in range(min(len(empty), len(queue)))]
                trunks.admit(empty[: len(chosen)], chosen, slots)
                for slot, (_, branch) in zip(empty, chosen, strict=False):
                    slots.place(slot, branch.request, branch.own)
            elif not queue and slots.live.sum() < COMPACT_BELOW * len(slots):
                kept = sorted(np.flatnonzero(slots.live).tolist(), key=lambda slot: trunks.row_of_slot[slot])
                slots.keep(kept)
                trunks.keep(kept)
            fed = torch.as_tensor(slots.next_tokens(), device=self.model.device)
            logits = trunk_step(self.model, trunks.cache, fed)
            finished, completions = write(logits, slots, self.sampling, self.stops)
            del logits  # as large as the vocabulary for each slot, and the next pass needs room
            if finished:
                trunks.cache.retire(finished)
            yield from completions


def write(
    logits: Float[Tensor, "slots V"], slots: Slots, sampling: Sampling, stops: StopCheck
) -> tuple[list[int], list[Completion]]:
    """Choose a token for each live slot that was fed all its own; returns the slots that end, emptied."""
    writing, number = slots.advance()
    if not len(writing):
        return [], []
    rows = logits if len(writing) == len(logits) else logits[torch.as_tensor(writing, device=logits.device)]
    picked = choose(rows, sampling, slots.hashes[writing], number, lambda i: slots.requests[writing[i]].key)
    slots.tokens[writing, number] = picked.tokens
    slots.logprobs[writing, number] = picked.logprobs
    slots.gaps[writing, number] = picked.gaps

    def response(i: int) -> list[int]:
        slot = int(writing[i])
        return response_of(slots.requests[slot], slots.tokens[slot, : number[i] + 1].tolist())

    ended = stops.ended(picked.tokens, response)
    finished = np.flatnonzero(ended | (number + 1 == slots.room[writing]))
    completions = [
        slots.finish(int(writing[i]), int(number[i]) + 1, "stop" if ended[i] else "length", stops) for i in finished
    ]
    return writing[finished].tolist(), completions


class Trunks:
    """The trunks in use: which row of the cache holds which group, and which row each slot's branch hangs on."""

    def __init__(self, model: PreTrainedModel, groups: list[Group], most_columns: int) -> None:
        self.model, self.groups = model, groups
        self.cache = TrunkCache(model.device, most_columns)
        self.rows: list[int] = []  # row -> the group whose trunk it holds
        self.row_of_slot: dict[int, int] = {}

    def admit(self, new_slots: list[int], chosen: list[tuple[int, Branch]], slots: Slots) -> None:
        """Hang the chosen branches on their trunks, computing those that are not there yet."""
        used = {self.row_of_slot[slot] for slot in np.flatnonzero(slots.live).tolist()}
        row_of = {group: row for row, group in enumerate(self.rows)}
        wanted = list(dict.fromkeys(group for group, _ in chosen))
        kept = used | {row_of[g] for g in wanted if g in row_of}
        reusable = [row for row in range(len(self.rows)) if row not in kept]
        fresh = [group for group in wanted if group not in row_of]
        for group in fresh:
            if not reusable:
                reusable.append(len(self.rows))
                self.rows.append(group)
            row_of[group] = row = reusable.pop()
            self.rows[row] = group
        self._compute(fresh, row_of)
        rows = [row_of[group] for group, _ in chosen]
        self.row_of_slot |= dict(zip(new_slots, rows, strict=True))
        self.cache.place(new_slots, rows, [branch.depth for _, branch in chosen], len(slots))

    def _compute(self, fresh: list[int], row_of: dict[int, int]) -> None:
        fresh = sorted(fresh, key=lambda g: -len(self.groups[g].trunk))
        while fresh:
            size = max(1, PREFILL_TOKENS // max(1, len(self.groups[fresh[0]].trunk)))
            batch, fresh = fresh[:size], fresh[size:]
            computed = compute_trunks(self.model, [self.groups[g].trunk for g in batch])
            self.cache.store_trunks([row_of[g] for g in batch], computed, len(self.rows))

    def keep(self, slots: list[int]) -> None:
        """Drop all other slots, and the trunks that none of these needs."""
        self.cache.keep_branches(slots)
        rows = [self.row_of_slot[slot] for slot in slots]
        kept = sorted(set(rows))
        if len(kept) < len(self.rows):
            self.cache.keep_trunks(kept)
            self.rows = [self.rows[row] for row in kept]
        renumber = {row: i for i, row in enumerate(kept)}
        self.row_of_slot = {i: renumber[row] for i, row in enumerate(rows)}


@torch.inference_mode()
def decode_plainly(
    model: PreTrainedModel, stops: StopCheck, sampling: Sampling, requests: Sequence[Request], budget: int
) -> Iterator[Completion]:
    """Completions batch by batch, longest prefixes first, where a trunk does not fit the model.

    All rows of a batch have one length at every step: no padding reaches the model, and any cache that transformers
    has, recurrent states included, works. Prompts of many lengths therefore make small batches.
    """
    ordered = sorted(requests, key=lambda r: -len(r.prefix))
    for _, group in groupby(ordered, key=lambda r: len(r.prefix)):
        rows = list(group)
        trunks = [Group(r.prefix[:-1], (Branch(r, len(r.prefix) - 1, r.prefix[-1:]),)) for r in rows]
        size = live_branches(model, trunks, sampling.max_tokens, budget)
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        yield from in_halves(batches, lambda batch: _decode_batch(model, stops, sampling, batch), "response")


def _decode_batch(
    model: PreTrainedModel, stops: StopCheck, sampling: Sampling, requests: Sequence[Request]
) -> list[Completion]:
    slots = Slots(len(requests), sampling.max_tokens, sampling.seed)
    for slot, request in enumerate(requests):
        slots.place(slot, request, request.prefix[-1:])
    fed = torch.tensor([r.prefix for r in requests], device=model.device)
    state: dict[str, Any] = {}
    completions: list[Completion] = []
    while slots.live.any():
        out = _plain_step(model, fed, state)
        completions += write(out.logits[0], slots, sampling, stops)[1]
        fed = torch.as_tensor(slots.next_tokens(), device=model.device)[:, None]
        state = {name: out[name] for name in STATES if out.get(name) is not None}
    return completions


def _plain_step(model: PreTrainedModel, ids: Int64[Tensor, "B T"], state: dict[str, Any]) -> Any:
    """The model's output, with the logits [1, B, V] of the last positions only."""
    with only_rows(model, torch.arange(1, len(ids) + 1, device=ids.device) * ids.shape[1] - 1):
        return model(input_ids=ids, use_cache=True, **state)
