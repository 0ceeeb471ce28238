"""The default engine: a transformers causal language model on this machine's CPU or GPU."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from forkpoint.engines.base import Engine, Starts
from forkpoint.engines.checks import check_requests, check_scoring
from forkpoint.engines.loading import first_line
from forkpoint.engines.local.decoding_loop import decode_on_trunks, decode_plainly
from forkpoint.engines.local.memory import default_budget
from forkpoint.engines.local.probe import IDS, distance, is_refusal, probe_logits, tolerance
from forkpoint.engines.local.scoring import score_sequences
from forkpoint.engines.local.trunk_attention import TrunkCache, compute_trunks, forward_lock, trunk_step
from forkpoint.text import StopCheck, end_ids
from forkpoint.types import Completion, FinishReason, Request, Sampling, Scored, TokenIds, UserError

log = logging.getLogger("forkpoint")


class TransformersEngine(Engine):
    """Implements `Engine` over a loaded model and its tokenizer.

    `memory_bytes` bounds what keys, values and logits take (default: a share of the device's memory). Models whose
    attention the trunk cannot reproduce, by a small comparison at load time, are decoded in plain batches instead;
    `trunk_refusal` then says why. Threads may share an engine; each forward pass is one thread's at a time.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: Any, *, name: str = "model", memory_bytes: int | None = None
    ) -> None:
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name
        self.memory_bytes = default_budget(model) if memory_bytes is None else memory_bytes
        self.ends = end_ids(model, tokenizer)
        config = model.config.get_text_config(decoder=True)
        self.vocab_size = self.most_top = config.vocab_size
        self.context = getattr(config, "max_position_embeddings", None)
        self.trunk_refusal = why_no_trunk(model)
        if self.trunk_refusal:
            log.warning("%s is decoded in plain batches, which is slower: %s", name, self.trunk_refusal)
        self.settings = {
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "attn_implementation": model.config._attn_implementation,
            "commit": getattr(model.config, "_commit_hash", None),
            "parameters": model.num_parameters(),
            "memory_bytes": self.memory_bytes,
            "decoding": "plain batches" if self.trunk_refusal else "trunks",  # a resumed run does not mix them
        }

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """See `Engine.generate`. Raises UserError for an empty or too long prefix and for repeated keys."""
        check_requests(self, requests, sampling)
        decode = decode_plainly if self.trunk_refusal else decode_on_trunks
        return decode(self.model, self._stops(sampling), sampling, requests, self.memory_bytes)

    def score(
        self, sequences: Sequence[TokenIds], *, top: int = 0, sampling: Sampling | None = None, starts: Starts = None
    ) -> Iterator[Scored]:
        """See `Engine.score`. Raises UserError for an empty or too long sequence, a start or a top out of range."""
        starts = check_scoring(self, sequences, top, sampling, starts)
        return score_sequences(self.model, sequences, starts, top, sampling, self.memory_bytes)

    def beam_search(self, requests: Sequence[Request], num_beams: int, sampling: Sampling) -> Iterator[Completion]:
        """See `Engine.beam_search`: transformers' own beam search, one request at a time."""
        check_requests(self, requests, sampling)
        return (self._best_beam(request, num_beams, sampling, self._stops(sampling)) for request in requests)

    def _stops(self, sampling: Sampling) -> StopCheck:
        return StopCheck(self.tokenizer, sampling.stop, self.ends, self.vocab_size)

    @torch.inference_mode()
    def _best_beam(self, request: Request, num_beams: int, sampling: Sampling, stops: StopCheck) -> Completion:
        prefix, n = torch.tensor([request.prefix], device=self.model.device), len(request.prefix)
        pad = self.tokenizer.pad_token_id
        config = GenerationConfig(
            num_beams=num_beams, do_sample=False, max_new_tokens=sampling.max_tokens,
            stop_strings=list(sampling.stop) or None, eos_token_id=list(self.ends) or None,
            pad_token_id=next(iter(self.ends), 0) if pad is None else pad,
        )  # fmt: skip
        whole = {"attention_mask": torch.ones_like(prefix), "tokenizer": self.tokenizer}
        with forward_lock:
            own, self.model.generation_config = self.model.generation_config, GenerationConfig()
            try:  # without the model's own penalties and temperatures, which generate would add
                out = self.model.generate(prefix, generation_config=config, **whole)
            finally:
                self.model.generation_config = own
        tokens = out[0, n:].tolist()
        ended = next((i for i, token in enumerate(tokens) if token in self.ends), None)
        kept = tuple(tokens if ended is None else tokens[: ended + 1])
        (scored,) = self.score([(*request.prefix, *kept)], starts=[n])
        logprobs, gaps = tuple(scored.logprobs[n:-1].tolist()), tuple(scored.gaps[n:-1].tolist())
        reason: FinishReason = "stop" if ended is not None or stops.stopped(kept) else "length"
        return Completion(request.key, kept, logprobs, gaps, stops.text(kept), reason)


@torch.inference_mode()
def why_no_trunk(model: PreTrainedModel) -> str | None:
    """None if a trunk step reproduces the model's own logits on a tiny input, else the reason in words.

    UserError where the model by itself fails there, and where memory runs out or the device breaks.
    """
    try:
        own = probe_logits(model, (5, 3))
        allowed = tolerance(model)
    except Exception as error:
        raise UserError(f"{type(model).__name__} fails on {len(IDS)} tokens: {first_line(error)}") from error
    try:
        windows, stepped = _probe_step(model)
    except Exception as error:
        if not is_refusal(error):
            raise UserError(f"{type(model).__name__} failed on {len(IDS)} tokens: {first_line(error)}") from error
        return f"its attention cannot be shared ({type(error).__name__}: {str(error)[:120]})"
    config = model.config.get_text_config(decoder=True)
    if getattr(config, "attention_chunk_size", None):
        return "it attends in chunks"
    if getattr(config, "sliding_window", None) and not windows:
        return "its sliding window is not passed to the attention function"
    if not distance(stepped, own) < allowed:
        return "sharing its attention gives other logits than the model itself"
    return None


def _probe_step(model: PreTrainedModel) -> tuple[set[int], Tensor]:
    """The windows that layers asked for, and the logits after all of `IDS` and after the first four, by a trunk."""
    cache = TrunkCache(model.device, n_slots=2, most_columns=2)
    cache.store_trunks([0], compute_trunks(model, [IDS[:4]]), 1)
    cache.place([0, 1], [0, 0], [4, 2])
    for column in (4, 5):
        fed = torch.tensor([IDS[column], IDS[column - 2]], device=model.device)
        stepped = trunk_step(model, cache, fed)
    return cache.windows, stepped
