"""Where in a path its answer stands: from characters to tokens by the tokens' own offsets, and Δ over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forkpoint.text import cut_at_stop, decode_with_offsets
from forkpoint.types import TokenIds


def readable(tokenizer: Any, token_ids: TokenIds, stop: tuple[str, ...]) -> tuple[str, list[tuple[int, int]]]:
    """A path's text up to the first stop string, and the characters that each token contributed to the whole text."""
    text, offsets = decode_with_offsets(tokenizer, token_ids)
    return cut_at_stop(text, stop), offsets


def tokens_of(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int]:
    """The [first, last) tokens that contributed any of the characters [start, end)."""
    touching = [i for i, (a, b) in enumerate(offsets) if a < end and b > start]
    return touching[0], touching[-1] + 1


def mean_gap(gaps: Sequence[float], span: tuple[int, int]) -> float:
    """Δ of Wang & Zhou 2024: the mean of p(top1) - p(top2) over the answer's tokens, from the raw distribution."""
    return sum(gaps[span[0] : span[1]]) / (span[1] - span[0])
