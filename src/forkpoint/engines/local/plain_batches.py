"""Decoding for models that the trunk attention does not fit: batches of prefixes of one length, no shared work.

Every row of a batch has the same length at every step, so that no padding reaches the model and any cache that
transformers has (recurrent states included) works as it is. Prompts of many lengths therefore make small batches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from forkpoint.engines.local.branches import Slots
from forkpoint.engines.local.decoding_loop import completion
from forkpoint.engines.local.memory import is_out_of_memory, live_branches
from forkpoint.engines.local.scoring import only_rows
from forkpoint.engines.local.token_choice import choose
from forkpoint.engines.local.trunks import Branch, Group, response_of
from forkpoint.text import StopCheck
from forkpoint.types import Completion, Request, Sampling, UserError

STATES = ("past_key_values", "cache_params")  # what transformers calls the state, by family


@torch.inference_mode()
def decode_plainly(
    model: PreTrainedModel,
    stops: StopCheck,
    sampling: Sampling,
    requests: Sequence[Request],
    budget: int,
) -> Iterator[Completion]:
    """Completions of all requests, batch by batch, longest prefixes first; out of memory halves a batch."""
    ordered = sorted(requests, key=lambda r: -len(r.prefix))
    for _, alike in groupby(ordered, key=lambda r: len(r.prefix)):
        rows = list(alike)
        groups = [Group(r.prefix[:-1], (Branch(r, len(r.prefix) - 1, r.prefix[-1:]),)) for r in rows]
        size = live_branches(model, groups, sampling.max_tokens, budget)
        batches = deque(rows[start : start + size] for start in range(0, len(rows), size))
        while batches:
            batch = batches.popleft()
            try:
                yield from list(_decode_batch(model, stops, sampling, batch))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise UserError(f"memory ran out on a single response: {str(error).splitlines()[0]}") from error
                batches.extendleft([batch[len(batch) // 2 :], batch[: len(batch) // 2]])


def _decode_batch(
    model: PreTrainedModel, stops: StopCheck, sampling: Sampling, rows: list[Request]
) -> Iterator[Completion]:
    slots = Slots(len(rows), sampling.max_tokens, sampling.seed)
    for i, request in enumerate(rows):
        slots.place(i, Branch(request, len(request.prefix) - 1, request.prefix[-1:]))
    out = _step(model, torch.tensor([r.prefix for r in rows], device=model.device))
    for step in range(sampling.max_tokens):
        steps = np.full(len(rows), step)
        picked = choose(out.logits[0], sampling, slots.hashes, steps, lambda i: rows[i].key)
        slots.tokens[:, step] = picked.tokens
        slots.logprobs[:, step] = picked.logprobs
        slots.gaps[:, step] = picked.gaps
        ended = stops.ended(picked.tokens, lambda i: response_of(rows[i], slots.tokens[i, : step + 1].tolist()))  # noqa: B023
        for i in np.flatnonzero(slots.live & (ended | (step + 1 == slots.room))).tolist():
            branch, written = slots.take(i, step + 1)
            yield completion(branch.request, written, "stop" if ended[i] else "length", stops)
        if not slots.live.any():
            return
        fed = torch.as_tensor(picked.tokens, device=model.device)[:, None]
        out = _step(model, fed, **_state(out))


def _step(model: PreTrainedModel, ids: Int64[Tensor, "B T"], **state: Any) -> Any:
    """The model's output, with the logits [1, B, V] of the last positions only."""
    with only_rows(model, torch.arange(1, len(ids) + 1, device=ids.device) * ids.shape[1] - 1):
        return model(input_ids=ids, use_cache=True, **state)


def _state(out: ModelOutput) -> dict[str, Any]:
    """The state that the next step continues from, under the name that the model takes it by."""
    return {name: out[name] for name in STATES if out.get(name) is not None}
