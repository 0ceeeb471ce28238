"""Contrastive scores s_t of given tokens: the equation, and the pass over two adapters that share one base model.

    log s_t = (1+β) log p⁺(y_t|·) − β log p⁻(y_t|·) − log Z_t,   Z_t = Σ_v exp((1+β) log p⁺(v|·) − β log p⁻(v|·))

(Critical Tokens Matter, arXiv 2411.19943, section 3). The normalisers of p⁺ and p⁻ cancel, so s is the softmax of the
combined logits (1+β) l⁺ − β l⁻. Hidden states meet the output matrix in blocks of rows and of the vocabulary: logits
[B, T, V] never exist.

Shapes: B sequences, T positions, n rows (wanted positions of a batch), H hidden size, V vocabulary, v a part of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from transformers import PreTrainedModel

from forkpoint.engines.local.head import Head, head_of, hidden_at
from forkpoint.engines.local.lending import lent
from forkpoint.engines.local.memory import LOGITS_COPIES
from forkpoint.engines.local.scoring import row_facts
from forkpoint.engines.local.trunk_attention import forward_lock
from forkpoint.sampling.processors import policy_logits
from forkpoint.scores.context import Row
from forkpoint.scores.row_losses import batch_of
from forkpoint.types import Sampling, TokenScores, Trajectory, UserError

CHUNK_COPIES = 6  # float32 [n, v] held at once: both models' logits, their combination, and the sums' temporaries
LEAST_BUDGET, MODEL_SHARE = 2**26, 0.05  # bytes that a pass may take beside the model: the larger of the two
MOST_TOKENS = 16_384  # padded tokens in one forward pass


def contrast(
    chunks: Iterable[tuple[Float[Tensor, "n v"], Float[Tensor, "n v"]]], targets: Int64[Tensor, " n"], beta: float
) -> Float64[Tensor, "3 n"]:
    """log s, log p⁺ and log p⁻ of the target tokens from the positive and the negative model's logits.

    These come part by part of the vocabulary, in its order, and together are all of it; beta ≥ 0.
    """
    n, first = len(targets), 0
    sums = torch.full((3, n), -math.inf, dtype=torch.float64)  # log Σ_v exp of: combined, positive, negative
    own = torch.full((3, n), math.nan, dtype=torch.float64)  # the same three of the target token
    for positive, negative in chunks:
        last = first + positive.shape[1]
        here = ((targets >= first) & (targets < last)).nonzero().squeeze(-1)
        combined = torch.lerp(negative, positive, 1 + beta)
        combined.masked_fill_(positive.isneginf(), -math.inf)  # what both models mask would be NaN
        for i, logits in enumerate((combined, positive, negative)):
            sums[i] = torch.logaddexp(sums[i], logits.logsumexp(-1).cpu().double())
            own[i, here.cpu()] = logits[here, targets[here] - first].cpu().double()
        first = last
    return own - sums


@contextmanager
def shared_base(model: PreTrainedModel, positive: Path, negative: Path) -> Iterator[SharedBase]:
    """The model with both adapters on it for as long as the context lasts; it is itself again afterwards."""
    from peft import PeftModel

    with forward_lock, lent(model):  # another thread must not meet the adapters
        adapted = PeftModel.from_pretrained(model, str(positive), adapter_name="positive")
        adapted.load_adapter(str(negative), adapter_name="negative")
        adapted.eval()
        try:
            with adapted.disable_adapter():
                head = head_of(model)
            yield SharedBase(model, adapted, head)
        finally:
            adapted.unload()


class SharedBase:
    """One model in memory that is asked three times: under the positive adapter, the negative one, and none."""

    def __init__(self, model: PreTrainedModel, adapted: Any, head: Head) -> None:
        self.model, self.adapted, self.head = model, adapted, head
        self.budget = max(LEAST_BUDGET, int(MODEL_SHARE * model.get_memory_footprint()))

    @torch.inference_mode()
    def score(
        self, trajectories: Sequence[Trajectory], beta: float, sampling: Sampling, ends: Sequence[int]
    ) -> list[TokenScores]:
        """Columns for each trajectory, in order, one number a token of `token_ids`.

        `s` (1 for tokens of `ends`: the end of a response is never penalised), `logprob_positive`, `logprob_negative`,
        and, of the base model, `logprob`, `policy_prob` (under `sampling`) and `entropy` (nats, before sampling).
        """
        scores: dict[int, TokenScores] = {}
        for batch in self._batches(trajectories):
            parts = [trajectories[i] for i in batch]
            end = 0
            columns = self._columns(parts, beta, sampling, ends)
            for i, part in zip(batch, parts, strict=True):
                own = slice(end, end := end + len(part.token_ids))
                scores[i] = TokenScores(part, {name: column[own] for name, column in columns.items()})
        return [scores[i] for i in range(len(trajectories))]

    def _batches(self, trajectories: Sequence[Trajectory]) -> Iterator[list[int]]:
        """Indices of trajectories of similar length, as many as the budget allows in one forward pass."""
        config = self.model.config.get_text_config(decoder=True)
        inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
        per_token = 4 * (8 * config.hidden_size + 4 * inner)  # the widest layer's activations
        most = min(MOST_TOKENS, self.budget // per_token)
        lengths = [len(t.prompt_ids) + len(t.token_ids) for t in trajectories]
        batch: list[int] = []
        for i in sorted(range(len(lengths)), key=lengths.__getitem__):
            if batch and lengths[i] * (len(batch) + 1) > most:
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _columns(
        self, batch: Sequence[Trajectory], beta: float, sampling: Sampling, ends: Sequence[int]
    ) -> dict[str, np.ndarray]:
        parts = [Row(np.array([*t.prompt_ids, *t.token_ids]), (), len(t.prompt_ids), 0) for t in batch]
        tensors = batch_of(parts)
        ids, rows, targets = (part.to(self.model.device) for part in (tensors.ids, tensors.rows, tensors.targets))
        hidden = {}
        for name in ("positive", "negative"):
            self.adapted.set_adapter(name)
            hidden[name] = hidden_at(self.model, ids, rows)
        with self.adapted.disable_adapter():
            base = hidden_at(self.model, ids, rows)
        logprob, policy_prob, entropy = self._base(base, targets, sampling)
        log_s, positive, negative = self._contrast(hidden["positive"], hidden["negative"], targets, beta)
        if not bool(torch.isfinite(positive + negative).all()):
            raise UserError("an adapter makes the model's logits NaN or infinite; tune it with a lower learning rate")
        s = log_s.exp().masked_fill_(torch.isin(tensors.targets, torch.tensor(ends, dtype=torch.long)), 1.0)
        columns = {"logprob": logprob, "policy_prob": policy_prob, "entropy": entropy, "s": s,
                   "logprob_positive": positive, "logprob_negative": negative}  # fmt: skip
        return {name: column.numpy() for name, column in columns.items()}

    def _contrast(self, positive: Tensor, negative: Tensor, targets: Tensor, beta: float) -> Float64[Tensor, "3 n"]:
        blocks = []
        for part in self._blocks(len(targets), CHUNK_COPIES, self.head.parts()[0][1]):
            chunks = (
                (self.head.logits(positive[part], *tokens), self.head.logits(negative[part], *tokens))
                for tokens in self.head.parts()
            )
            blocks.append(contrast(chunks, targets[part], beta))
        return torch.cat(blocks, 1)

    def _base(self, hidden: Tensor, targets: Tensor, sampling: Sampling) -> Float64[Tensor, "3 n"]:
        """Of the untuned model: log-probability, probability under `sampling`, and entropy. A truncation needs whole
        rows of the vocabulary, so few rows at a time."""
        blocks = []
        for part in self._blocks(len(targets), LOGITS_COPIES, self.head.weight.shape[0]):
            logits, own = self.head.all_logits(hidden[part]), targets[part, None]
            facts = row_facts(logits, with_entropy=True)
            if not bool(torch.isfinite(facts.log_z).all()):
                raise UserError("the model's logits are NaN or infinite: its weights or its precision are broken")
            policy = torch.softmax(policy_logits(logits, sampling), -1).gather(-1, own)
            blocks.append(torch.stack([(logits.gather(-1, own) - facts.log_z)[:, 0], policy[:, 0], facts.entropy]))
        return torch.cat(blocks, 1).double().cpu()

    def _blocks(self, n: int, copies: int, vocabulary: int) -> list[slice]:
        """Runs of rows, of which so many float32 copies of so many columns fit into the budget."""
        size = max(1, self.budget // (4 * copies * vocabulary))
        return [slice(at, at + size) for at in range(0, n, size)]
