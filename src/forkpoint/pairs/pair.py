"""The pair: two responses to one prompt, one preferred. What pairs.jsonl holds a line of, and the trainer reads."""

from __future__ import annotations

from dataclasses import dataclass

from forkpoint.types import TokenIds


@dataclass(frozen=True, slots=True)
class Pair:
    """A chosen and a rejected response after the same prompt, as token ids, with their text.

    `id` is unique within a file. The ids hold the end-of-sequence token where the response ended with one.
    `rejected_weights`, one a token of `rejected_ids`, say how much each counts in critical DPO: 1 - s_t with s_t the
    contrastive score, so 0 at the end of the response; None where nothing scored them. `chosen_weights` say so of
    chosen tokens, in critical DPO and SFT; None: all count 1. `weight` is what the pair's loss is multiplied by (fork
    DPO: by how much the chosen token raises the success probability).
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
