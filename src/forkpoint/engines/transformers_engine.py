"""The default engine: a transformers causal language model on this machine's CPU or GPU."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from forkpoint.engines.decoding_loop import TrunkDecoder
from forkpoint.engines.memory import default_budget
from forkpoint.engines.plain_batches import decode_plainly
from forkpoint.engines.scoring import score_sequences
from forkpoint.engines.stopping import StopCheck, end_ids
from forkpoint.engines.trunk_attention import TrunkCache, compute_trunks, trunk_step
from forkpoint.sampling.processors import validate
from forkpoint.types import Completion, Request, Sampling, Scored, TokenIds, UserError

log = logging.getLogger("forkpoint")
PROBE_TOLERANCE = 0.05  # relative to the spread of the logits; other rounding is far below, another method far above


class TransformersEngine:
    """Implements `Engine` over a loaded model and its tokenizer.

    `memory_bytes` bounds what keys, values and logits take (default: a share of the device's memory). Models whose
    attention the trunk cannot reproduce, by a small comparison at load time, are decoded in plain batches instead;
    `trunk_refusal` then says why.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: Any, *, name: str = "model", memory_bytes: int | None = None
    ) -> None:
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name
        self.memory_bytes = memory_bytes or default_budget(model)
        self.ends = end_ids(model, tokenizer)
        self.trunk_refusal = _why_no_trunk(model)
        if self.trunk_refusal:
            log.warning("%s is decoded in plain batches, which is slower: %s", name, self.trunk_refusal)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """See `Engine.generate`. Raises UserError for an empty or too long prefix and for repeated keys."""
        validate(sampling)
        self._check([r.prefix for r in requests], [r.key for r in requests], sampling.max_tokens)
        if len({r.key for r in requests}) < len(requests):
            raise UserError(
                "two requests have the same key; each needs its own, since it seeds the request's randomness"
            )
        stops = StopCheck(self.tokenizer, sampling.stop)
        if self.trunk_refusal:
            return decode_plainly(self.model, stops, self.ends, sampling, requests)
        return TrunkDecoder(self.model, stops, self.ends, sampling, self.memory_bytes).run(requests)

    def score(
        self,
        sequences: Sequence[TokenIds],
        *,
        top: int = 0,
        sampling: Sampling | None = None,
        starts: Sequence[int] | None = None,
    ) -> Iterator[Scored]:
        """See `Engine.score`."""
        if sampling is not None:
            validate(sampling)
        self._check(sequences, [f"sequence {i}" for i in range(len(sequences))], 0)
        begins = [1] * len(sequences) if starts is None else list(starts)
        for i, (begin, sequence) in enumerate(zip(begins, sequences, strict=True)):
            if not 1 <= begin <= len(sequence):
                raise UserError(f"scores of sequence {i} cannot start at {begin}: it has {len(sequence)} tokens")
        return score_sequences(self.model, sequences, begins, top, sampling, self.memory_bytes)

    @torch.inference_mode()
    def beam_search(self, requests: Sequence[Request], num_beams: int, sampling: Sampling) -> Iterator[Completion]:
        """See `Engine.beam_search`: transformers' own beam search, one request at a time."""
        self._check([r.prefix for r in requests], [r.key for r in requests], sampling.max_tokens)
        stops = StopCheck(self.tokenizer, sampling.stop)
        for request in requests:
            prefix = torch.tensor([request.prefix], device=self.model.device)
            out = self.model.generate(
                prefix, attention_mask=torch.ones_like(prefix), num_beams=num_beams, do_sample=False,
                max_new_tokens=sampling.max_tokens, eos_token_id=list(self.ends) or None, pad_token_id=self._pad_id(),
                temperature=None, top_k=None, top_p=None,
            )  # fmt: skip
            yield self._beam_completion(request, out[0, prefix.shape[1] :].tolist(), stops)

    def _beam_completion(self, request: Request, tokens: list[int], stops: StopCheck) -> Completion:
        ended = next((i for i, token in enumerate(tokens) if token in self.ends), None)
        kept = tuple(tokens if ended is None else tokens[: ended + 1])
        n = len(request.prefix)
        (scored,) = self.score([(*request.prefix, *kept)], starts=[n])
        return Completion(
            request.key,
            kept,
            tuple(scored.logprobs[n:-1].tolist()),
            tuple(scored.gaps[n:-1].tolist()),
            stops.text(kept),
            "length" if ended is None else "stop",
        )

    def _pad_id(self) -> int:
        return self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else next(iter(self.ends), 0)

    def _check(self, sequences: Sequence[TokenIds], keys: Sequence[str], room: int) -> None:
        config = self.model.config.get_text_config(decoder=True)
        longest = getattr(config, "max_position_embeddings", None)
        for sequence, key in zip(sequences, keys, strict=True):
            if not sequence:
                raise UserError(f"{key} has an empty prompt; the model needs at least one token")
            if longest and len(sequence) + room > longest:
                raise UserError(
                    f"{key} has {len(sequence)} tokens and {room} more may follow; {self.name} reads at most {longest}"
                )
            if not 0 <= min(sequence) <= max(sequence) < config.vocab_size:
                raise UserError(
                    f"{key} holds token ids outside the vocabulary of {self.name} (0 to {config.vocab_size - 1})"
                )


@torch.inference_mode()
def _why_no_trunk(model: PreTrainedModel) -> str | None:
    """None if a trunk step reproduces the model's own logits on a tiny input, else the reason in words."""
    tokens = tuple(range(2, 8))
    try:
        cache = TrunkCache(model.device)
        cache.store_trunks([0], compute_trunks(model, [tokens[:4]]), 1)
        cache.place([0, 1], [0, 0], [4, 2], 2)
        for column in (4, 5):
            fed = torch.tensor([tokens[column], tokens[column - 2]], device=model.device)
            stepped = trunk_step(model, cache, fed)
        ids = torch.tensor([tokens], device=model.device)
        native = model(input_ids=ids, use_cache=False).logits[0, [5, 3]]
    except Exception as error:
        return f"its attention cannot be shared ({type(error).__name__}: {str(error)[:120]})"
    spread = native.float().std().clamp(min=1e-6)
    if not bool(((stepped - native).abs().max() / spread) < PROBE_TOLERANCE):
        return "sharing its attention gives other logits than the model itself"
    return None
