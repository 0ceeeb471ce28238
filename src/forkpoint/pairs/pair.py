"""The pair: two responses to one prompt, one preferred. What pairs.jsonl holds a line of, and the trainer reads."""

from __future__ import annotations

from dataclasses import dataclass

from forkpoint.types import TokenIds


@dataclass(frozen=True, slots=True)
class Pair:
    """A chosen and a rejected response after the same prompt, as token ids, with their text.

    The ids hold the end-of-sequence token where the response ended with one. `rejected_weights` [T of `rejected_ids`]
    say how much each token counts in critical DPO: 1 - s_t with s_t the contrastive score; None where nothing scored
    them. `chosen_weights` say so of chosen tokens, in critical DPO and SFT; None: each counts 1. The pair's loss is
    multiplied by `weight` (fork DPO: the gain in the success probability).
    """

    id: str
    prompt_ids: TokenIds
    chosen_ids: TokenIds
    rejected_ids: TokenIds
    prompt: str
    chosen: str
    rejected: str
    rejected_weights: tuple[float, ...] | None = None
    weight: float = 1.0
    chosen_weights: tuple[float, ...] | None = None
