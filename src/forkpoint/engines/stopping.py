"""When a response ends, and the text that it leaves: end-of-sequence ids, stop strings, token offsets."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from tokenizers.decoders import DecodeStream


def decode(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """The text of token ids without special tokens, spaces as they are."""
    text: str = tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def decode_with_offsets(tokenizer: Any, token_ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
    """The text of token ids and, for each token, the [start, end) characters it contributed.

    Made token by token, never by tokenising the text again. A token that ends in the middle of a character
    contributes nothing; the one that completes the character contributes all of it.
    """
    text, offsets = "", []
    for piece in pieces(tokenizer, token_ids):
        offsets.append((len(text), len(text) + len(piece)))
        text += piece
    return text, offsets


def pieces(tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
    """The characters that each of the tokens contributes, see `decode_with_offsets`."""
    if backend := getattr(tokenizer, "backend_tokenizer", None):
        stream = DecodeStream(skip_special_tokens=True)
        return [stream.step(backend, int(token)) or "" for token in token_ids]
    texts = ["", *(decode(tokenizer, token_ids[: i + 1]) for i in range(len(token_ids)))]
    whole = [max((t for t in texts[: i + 1] if not t.endswith("�")), key=len) for i in range(len(texts))]
    return [now[len(before) :] for before, now in itertools.pairwise(whole)]


class StopCheck:
    """Says where a response ends: at an end-of-sequence token, or where it contains a stop string.

    For stop strings a response is decoded only when its last token could complete one.
    """

    def __init__(self, tokenizer: Any, stop: tuple[str, ...], ends: tuple[int, ...], vocab_size: int) -> None:
        self.tokenizer, self.stop = tokenizer, stop
        self._ends = np.zeros(vocab_size, dtype=bool)
        self._ends[list(ends)] = True
        self._may_end = _tokens_holding(tokenizer, frozenset(s[-1] for s in stop), vocab_size) if stop else None

    def ended(self, last: np.ndarray, response: Callable[[int], Sequence[int]]) -> np.ndarray:
        """Whether responses are at an end, given their last tokens and, on demand, all tokens of the i-th."""
        ended: np.ndarray = self._ends[last]
        if self._may_end is not None:
            for i in np.flatnonzero(self._may_end[last] & ~ended).tolist():
                ended[i] = self.stopped(response(i))
        return ended

    def stopped(self, token_ids: Sequence[int]) -> bool:
        """Whether a response holds a stop string."""
        text = decode(self.tokenizer, token_ids)
        return any(s in text for s in self.stop)

    def text(self, token_ids: Sequence[int]) -> str:
        """The response's text, cut before the first stop string."""
        return cut_at_stop(decode(self.tokenizer, token_ids), self.stop)


def cut_at_stop(text: str, stop: tuple[str, ...]) -> str:
    """The text before the first stop string, or all of it."""
    return text[: min((at for s in stop if (at := text.find(s)) >= 0), default=len(text))]


@lru_cache(maxsize=8)
def _tokens_holding(tokenizer: Any, characters: frozenset[str], vocab_size: int) -> np.ndarray:
    """Which token ids [V] may complete one of the characters; byte fragments may complete any non-ASCII one.

    Models often have a few more ids than their tokenizer; those spell nothing.
    """
    ascii_only = all(c.isascii() for c in characters)
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], clean_up_tokenization_spaces=False)
    table = np.zeros(max(vocab_size, len(texts)), dtype=bool)
    table[: len(texts)] = [not ascii_only or any(c in text for c in characters) for text in texts]
    return table


def end_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The ids that end a response: the generation configuration's, else the model's, and the tokenizer's own."""
    ids: set[int] = set()
    for source in (getattr(model, "generation_config", None), model.config):
        configured = getattr(source, "eos_token_id", None)
        ids.update(
            configured if isinstance(configured, (list, tuple)) else [configured] if configured is not None else []
        )
        if ids:
            break
    if tokenizer.eos_token_id is not None:
        ids.add(tokenizer.eos_token_id)
    return tuple(sorted(ids))
