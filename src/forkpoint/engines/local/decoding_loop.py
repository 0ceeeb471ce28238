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
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from forkpoint.engines.local.branches import MAX_OWN, Branch, Group, Slots, by_size, group_requests, response_of
from forkpoint.engines.local.memory import LOGITS_COPIES, half_after, in_halves
from forkpoint.engines.local.scoring import output_at, row_facts
from forkpoint.engines.local.trunk_attention import TrunkCache, compute_trunks, trunk_step
from forkpoint.sampling.draw import inverse_cdf, uniforms
from forkpoint.sampling.processors import policy_logits
from forkpoint.text import StopCheck
from forkpoint.types import Completion, Request, Sampling, TokenIds, UserError

MOST_BRANCHES = 2048
PREFILL_TOKENS = 16_384  # tokens computed at once while trunks are prepared
REFILL_SHARE = 0.25  # admit new branches once this share of the slots is empty
COMPACT_BELOW = 0.75  # drop empty slots once fewer than this share is live and nothing waits
STATES = ("past_key_values", "cache_params")  # what transformers calls the state, by family


@torch.inference_mode()
def decode_on_trunks(
    model: PreTrainedModel, stops: StopCheck, sampling: Sampling, requests: Sequence[Request], budget: int
) -> Iterator[Completion]:
    """Completions as they finish; trunks with about as many branches each are decoded together."""
    for groups in by_size(group_requests(requests)):
        waiting = {branch.request.key: branch.request for group in groups for branch in group.branches}
        limit = len(waiting)
        while waiting:
            trunks = [group.trunk for group in groups]
            limit = min(limit, live_branches(model, trunks, len(waiting), sampling.max_tokens, budget))
            try:
                for done in _decode(model, stops, sampling, groups, limit):
                    del waiting[done.key]
                    yield done
            except Exception as error:
                limit = half_after(error, limit, "response")
            if waiting:  # memory ran out; what the failed step held goes with its error
                groups = group_requests(list(waiting.values()))
                gc.collect()
                torch.cuda.empty_cache()


def live_branches(
    model: PreTrainedModel, trunks: Sequence[TokenIds], n_branches: int, max_tokens: int, budget: int
) -> int:
    """How many of the branches may be live at once so that the worst case of all stays within the budget.

    Raises UserError where not even one fits.
    """
    config = model.config.get_text_config(decoder=True)
    query_heads = getattr(config, "num_attention_heads", None) or 1  # a model without heads is taken to have one
    heads = getattr(config, "num_key_value_heads", None) or query_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // query_heads
    per_token = 2 * config.num_hidden_layers * heads * head_dim * model.dtype.itemsize
    width, suffix = max(map(len, trunks)), MAX_OWN + max_tokens
    scores = 4 * 4 * query_heads * (width + suffix)
    per_branch = 2 * suffix * per_token + LOGITS_COPIES * 4 * config.vocab_size + scores
    needed = per_branch + 2 * width * per_token * (len(trunks) / n_branches)
    if (fitting := int(budget // needed)) < 1:
        raise UserError(
            f"one response of {max_tokens} tokens after a prompt of {width} takes {needed / 2**20:,.1f} MiB, "
            f"more than the memory budget of {budget / 2**20:,.1f} MiB: lower max_tokens or raise the budget"
        )
    return min(fitting, MOST_BRANCHES, n_branches)


def _decode(
    model: PreTrainedModel, stops: StopCheck, sampling: Sampling, groups: list[Group], n_slots: int
) -> Iterator[Completion]:
    queue = deque((g, branch) for g, group in enumerate(groups) for branch in group.branches)
    longest_own = max(len(branch.own) for _, branch in queue)
    trunks = Trunks(model, groups, n_slots, longest_own + sampling.max_tokens)
    slots = Slots(n_slots, sampling.max_tokens, sampling.seed)
    while queue or slots.live.any():
        empty = np.flatnonzero(~slots.live).tolist()
        if queue and len(empty) >= max(1, REFILL_SHARE * len(slots)):
            admitted = {slot: queue.popleft() for slot in empty[: len(queue)]}
            trunks.admit(admitted)
            for slot, (_, branch) in admitted.items():
                slots.place(slot, branch.request, branch.own)
        elif not queue and slots.live.sum() < COMPACT_BELOW * len(slots):
            kept = sorted(np.flatnonzero(slots.live).tolist(), key=lambda slot: trunks.row_of_slot[slot])
            slots.keep(kept)
            trunks.keep(kept)
        fed = torch.as_tensor(slots.next_tokens(), device=model.device)
        logits = trunk_step(model, trunks.cache, fed)
        finished, completions = write(logits, slots, sampling, stops)
        del logits  # as large as the vocabulary for each slot, and the next pass needs room
        trunks.retire(finished)
        yield from completions


def write(
    logits: Float[Tensor, "slots V"], slots: Slots, sampling: Sampling, stops: StopCheck
) -> tuple[list[int], list[Completion]]:
    """Choose a token for each live slot that was fed all its own; returns the slots that end, emptied."""
    writing, number = slots.advance()
    if not len(writing):
        return [], []
    rows = logits if len(writing) == len(logits) else logits[torch.as_tensor(writing, device=logits.device)]
    tokens, logprobs, gaps = choose(rows, slots, writing, number, sampling)
    slots.tokens[writing, number] = tokens
    slots.logprobs[writing, number] = logprobs
    slots.gaps[writing, number] = gaps

    def response(i: int) -> list[int]:
        return response_of(slots.requests[writing[i]], slots.tokens[writing[i], : number[i] + 1].tolist())

    ended = stops.ended(tokens, response)
    finished = np.flatnonzero(ended | (number + 1 == slots.room[writing]))
    completions = [
        slots.finish(int(writing[i]), int(number[i]) + 1, "stop" if ended[i] else "length", stops) for i in finished
    ]
    return writing[finished].tolist(), completions


def choose(
    logits: Float[Tensor, "rows V"], slots: Slots, writing: np.ndarray, number: np.ndarray, sampling: Sampling
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each writing slot a greedy or drawn token, its raw log-probability, and the raw p(top1) - p(top2).

    `number` [rows] counts each response's tokens. UserError, naming the request, for logits that are NaN or hold no
    finite value.
    """
    logits = logits.float()
    if logits.device.type == "mps":  # has no float64, which the draw needs
        logits = logits.cpu()
    facts = row_facts(logits, with_entropy=False)
    if len(broken := (~torch.isfinite(facts.log_z)).nonzero()):
        key, token = slots.requests[writing[broken[0, 0]]].key, number[broken[0, 0]]
        raise UserError(
            f"the model's logits for request {key!r} are NaN or infinite at generated token {token}: "
            "its weights or its precision are broken"
        )
    tokens = facts.best
    if sampling.temperature > 0:
        tokens = inverse_cdf(policy_logits(logits, sampling), uniforms(slots.hashes[writing], number))[:, None]
    logprobs = logits.gather(-1, tokens) - facts.log_z
    return tokens[:, 0].cpu().numpy(), logprobs[:, 0].cpu().numpy(), facts.gaps.cpu().numpy()


class Trunks:
    """The trunks in use: which row of the cache holds which group, and which row each live slot's branch hangs on."""

    def __init__(self, model: PreTrainedModel, groups: list[Group], n_slots: int, most_columns: int) -> None:
        self.model, self.groups = model, groups
        self.cache = TrunkCache(model.device, n_slots, most_columns)
        self.rows: list[int] = []  # row -> the group whose trunk it holds
        self.row_of_slot: dict[int, int] = {}

    def admit(self, branches: dict[int, tuple[int, Branch]]) -> None:
        """Hang branches of groups, by their new slots, on their trunks; computes those that are not there yet."""
        row_of = {group: row for row, group in enumerate(self.rows)}
        wanted = dict.fromkeys(group for group, _ in branches.values())
        used = {*self.row_of_slot.values(), *(row_of[group] for group in wanted if group in row_of)}
        free = [row for row in reversed(range(len(self.rows))) if row not in used]
        fresh = [group for group in wanted if group not in row_of]
        for group, row in zip(fresh, [*free, *range(len(self.rows), len(self.rows) + len(fresh))], strict=False):
            self.rows[row : row + 1] = [group]
            row_of[group] = row
        self._compute(fresh, row_of)
        rows = [row_of[group] for group, _ in branches.values()]
        self.row_of_slot |= zip(branches, rows, strict=True)
        self.cache.place(list(branches), rows, [branch.depth for _, branch in branches.values()])

    def _compute(self, fresh: list[int], row_of: dict[int, int]) -> None:
        fresh = sorted(fresh, key=lambda g: -len(self.groups[g].trunk))
        while fresh:
            size = max(1, PREFILL_TOKENS // max(1, len(self.groups[fresh[0]].trunk)))
            batch, fresh = fresh[:size], fresh[size:]
            computed = compute_trunks(self.model, [self.groups[g].trunk for g in batch])
            self.cache.store_trunks([row_of[g] for g in batch], computed, len(self.rows))

    def retire(self, slots: list[int]) -> None:
        """These slots' branches are done."""
        for slot in slots:
            del self.row_of_slot[slot]
        if slots:
            self.cache.retire(slots)

    def keep(self, slots: list[int]) -> None:
        """Renumber the live slots in this order, and drop the trunks that none of them needs."""
        self.cache.keep_branches(slots)
        rows = [self.row_of_slot[slot] for slot in slots]
        kept = sorted(set(rows))
        if len(kept) < len(self.rows):
            self.cache.keep_trunks(kept)
            self.rows = [self.rows[row] for row in kept]
        self.row_of_slot = dict(enumerate(np.searchsorted(kept, rows).tolist()))


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
        size = live_branches(model, [r.prefix[:-1] for r in rows], len(rows), sampling.max_tokens, budget)
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
        last = torch.arange(1, len(fed) + 1, device=fed.device) * fed.shape[1] - 1
        out = output_at(model, fed, last, use_cache=True, **state)
        completions += write(out.logits[0], slots, sampling, stops)[1]
        fed = torch.as_tensor(slots.next_tokens(), device=model.device)[:, None]
        state = {name: out[name] for name in STATES if out.get(name) is not None}
    return completions
