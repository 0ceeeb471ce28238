"""Decoding for models that the trunk attention does not fit: batches of prefixes of one length, no shared work.

Every row of a batch has the same length at every step, so that no padding reaches the model and any cache that
transformers has (recurrent states included) works as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from forkpoint.engines.branches import Slots
from forkpoint.engines.choice import choose
from forkpoint.engines.decoding_loop import completion
from forkpoint.engines.stopping import StopCheck
from forkpoint.engines.trunks import Branch
from forkpoint.types import Completion, Request, Sampling

BATCH = 64
STATES = ("past_key_values", "cache_params")  # what transformers calls the state, by family


@torch.inference_mode()
def decode_plainly(
    model: PreTrainedModel, stops: StopCheck, ends: tuple[int, ...], sampling: Sampling, requests: Sequence[Request]
) -> Iterator[Completion]:
    """Completions of all requests, batch by batch, longest prefixes first."""
    ordered = sorted(requests, key=lambda r: -len(r.prefix))
    for _, same_length in groupby(ordered, key=lambda r: len(r.prefix)):
        rows = list(same_length)
        for start in range(0, len(rows), BATCH):
            yield from _decode_batch(model, stops, ends, sampling, rows[start : start + BATCH])


def _decode_batch(
    model: PreTrainedModel, stops: StopCheck, ends: tuple[int, ...], sampling: Sampling, rows: list[Request]
) -> Iterator[Completion]:
    slots = Slots(len(rows), sampling.max_tokens, sampling.seed)
    for i, request in enumerate(rows):
        slots.place(i, Branch(request, len(request.prefix) - 1, request.prefix[-1:]))
    out = model(input_ids=torch.tensor([r.prefix for r in rows], device=model.device), use_cache=True)
    for step in range(sampling.max_tokens):
        picked = choose(out.logits[:, -1], sampling, slots.hashes, np.full(len(rows), step), [r.key for r in rows])
        slots.tokens[:, step], slots.logprobs[:, step], slots.gaps[:, step] = (
            picked.tokens, picked.logprobs, picked.gaps,
        )  # fmt: skip
        ended = np.isin(picked.tokens, ends)
        every = np.arange(len(rows))
        ended |= stops.stopped(slots.tokens, every, np.full(len(rows), step + 1), picked.tokens)
        for i in np.flatnonzero(slots.live & (ended | (step + 1 == sampling.max_tokens))).tolist():
            branch, written = slots.take(i, step + 1)
            yield completion(branch.request, written, "stop" if ended[i] else "length", stops)
        if not slots.live.any():
            return
        fed = torch.as_tensor(picked.tokens, device=model.device)[:, None]
        out = model(input_ids=fed, use_cache=True, **_state(out))


def _state(out: ModelOutput) -> dict[str, Any]:
    """The state that the next step continues from, under the name that the model takes it by."""
    return {name: out[name] for name in STATES if out.get(name) is not None}
