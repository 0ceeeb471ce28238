"""When a response ends, and the text that it leaves: end-of-sequence ids, stop strings, token offsets."""

from __future__ import annotations

import codecs
import itertools
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from os.path import commonprefix
from typing import Any

import numpy as np

from forkpoint.types import UserError

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # how byte fallback names a byte
BYTES_SHOWN = [*range(33, 127), *range(161, 173), *range(174, 256)]  # GPT-2 spells these bytes as Latin-1 does
BYTES_HIDDEN = [byte for byte in range(256) if byte not in BYTES_SHOWN]  # and these as U+0100 and after
BYTE_OF = {chr(b): b for b in BYTES_SHOWN} | {chr(256 + n): b for n, b in enumerate(BYTES_HIDDEN)}


def decode(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """The text of token ids without special tokens, spaces as they are."""
    return str(tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def decode_with_offsets(tokenizer: Any, token_ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
    """The text of token ids and, for each token, the [start, end) characters it contributed.

    A token that ends in the middle of a character contributes nothing; the one that completes the character, or shows
    that it is none, contributes all of it.
    """
    texts = pieces(tokenizer, token_ids)
    ends = itertools.accumulate(map(len, texts), initial=0)
    return "".join(texts), list(itertools.pairwise(ends))


def pieces(tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
    """The characters that each of the tokens contributes, together `decode`; see `decode_with_offsets`.

    Linear in the tokens but for decoders in which a token's text depends on other whole tokens, such as GPT-1's.
    """
    ids = [int(token) for token in token_ids]
    text = decode(tokenizer, ids)
    texts = list(_pieces(tokenizer, ids)) if hasattr(tokenizer, "get_vocab") else []  # some can decode, and no more
    return texts if "".join(texts) == text else _pieces_by_prefix(tokenizer, ids, text)


def _pieces(tokenizer: Any, ids: Sequence[int]) -> Iterator[str]:
    """Whole tokens spell the same after any token, but the first; what stands between them is decoded at once."""
    first = True
    for whole, group in itertools.groupby(ids, key=lambda token: _spelling(tokenizer, token)[1] is None):
        part = list(group)
        texts = [_spelling(tokenizer, token)[0] for token in part]
        if whole:
            yield decode(tokenizer, part[:1]) if first else texts[0]
            yield from texts[1:]
        else:
            yield from _split(tokenizer, part, decode(tokenizer, part) if first else _after(tokenizer, part))
        first = first and not any(texts)  # special tokens are not there for a decoder


def _split(tokenizer: Any, ids: Sequence[int], text: str) -> list[str]:
    """The text of tokens that spell bytes, parted where the tokens complete its characters."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    raw = [_spelling(tokenizer, token)[1] or b"" for token in ids]
    read = [decoder.decode(part) for part in raw]
    read[-1] += decoder.decode(b"", final=True)
    if not "".join(read).endswith(text):  # byte fallback reads all bytes as one character each if some are wrong
        read = ["�" * len(part) for part in raw]
    stripped = len("".join(read)) - len(text)  # above 0 where a first space was
    ends = [max(end - stripped, 0) for end in itertools.accumulate(map(len, read[:-1]), initial=0)]
    return [text[begin:end] for begin, end in itertools.pairwise([*ends, len(text)])]


def _pieces_by_prefix(tokenizer: Any, ids: Sequence[int], text: str) -> list[str]:
    """What each token adds to the characters that the tokens so far have in common with the whole text."""
    common = (len(commonprefix([decode(tokenizer, ids[:n]), text])) for n in range(1, len(ids)))  # noqa: RUF071
    ends = [*itertools.accumulate(common, max, initial=0), len(text)] if ids else []
    return [text[begin:end] for begin, end in itertools.pairwise(ends)]


@lru_cache(maxsize=2**18)
def _spelling(tokenizer: Any, token: int) -> tuple[str, bytes | None]:
    """A token's text after another one, and its bytes if these may be part of a character with its neighbours'."""
    text, name = _after(tokenizer, [token]), str(tokenizer.convert_ids_to_tokens(token))
    byte = BYTE_TOKEN.fullmatch(name) if name != text else None
    if text and "�" not in text and not byte:
        return text, None
    if byte or not text:
        return text, bytes.fromhex(byte[1]) if byte and text else b""
    return text, bytes(BYTE_OF[c] for c in name) if set(name) <= BYTE_OF.keys() else name.encode()


def _after(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of tokens that are not a response's first: those may lose the space that they begin with."""
    before, text = _ordinary(tokenizer)
    return decode(tokenizer, [*before, *ids])[len(text) :]


@lru_cache(maxsize=8)
def _ordinary(tokenizer: Any) -> tuple[list[int], str]:
    """A token of letters, with its text, that others may follow; none where the vocabulary has none."""
    for token in range(n_tokens(tokenizer)):
        text, twice = (decode(tokenizer, [token] * n) for n in (1, 2))
        byte = BYTE_TOKEN.fullmatch(str(tokenizer.convert_ids_to_tokens(token)))
        if text.strip().isalnum() and twice.startswith(text) and not byte:
            return [token], text
    return [], ""


def n_tokens(tokenizer: Any) -> int:
    """One more than the largest id that the tokenizer knows; its ids may have gaps."""
    return max(len(tokenizer), max(tokenizer.get_vocab().values(), default=-1) + 1)


class StopCheck:
    """Says where a response ends: at an end-of-sequence token, or where it contains a stop string."""

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

    def first_end(self, response: Sequence[int], written: int) -> int | None:
        """After how many tokens behind the `written` ones a stop string is there first, None if it never is.

        It need not be there at the end: byte fallback takes characters back when a byte after them is wrong. But for
        such tokens it stays, and is searched by halves: a long response is not decoded at each of its tokens.
        """
        if self._may_end is None:
            return None
        new = response[written:]

        def stopped(n: int) -> bool:
            return self.stopped(response[: written + n])

        ends = (np.flatnonzero(self._may_end[np.asarray(new, dtype=int)]) + 1).tolist()
        first = next((n for n in ends if _spelling(self.tokenizer, new[n - 1])[1] is not None and stopped(n)), None)
        stays = bisect_left(range(1, len(new) + 1), True, key=stopped) + 1 if stopped(len(new)) else None
        return min((n for n in (first, stays) if n), default=None)

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
    """Which token ids [V] may complete one of the characters; those that only the model has spell nothing."""
    n, (before, text) = n_tokens(tokenizer), _ordinary(tokenizer)
    table = np.zeros(max(vocab_size, n), dtype=bool)
    if not "".join(characters).isascii():  # byte fragments may complete any
        return ~table
    rows = [[*before, i] for i in range(n)]
    if backend := getattr(tokenizer, "backend_tokenizer", None):
        texts = backend.decode_batch(rows)  # a third of the time
    else:
        texts = tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    table[:n] = [not characters.isdisjoint(both[len(text) :]) for both in texts]
    return table


def end_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The ids that end a response: the generation configuration's, else the model's, and the tokenizer's own.

    Ids that the model cannot write, such as -1, end nothing. UserError for what is no id.
    """
    config = model.config.get_text_config(decoder=True)
    vocabulary, ids = range(config.vocab_size), set[int]()
    for source in (getattr(model, "generation_config", None), model.config, config):
        configured = getattr(source, "eos_token_id", None)
        listed = configured if isinstance(configured, (list, tuple)) else [configured]
        if wrong := [one for one in listed if one is not None and type(one) is not int]:
            raise UserError(f"eos_token_id of a model must be a token id or a list of them, but holds {wrong[0]!r}")
        ids.update(one for one in listed if one is not None and one in vocabulary)
        if ids:
            break
    return tuple(sorted(one for one in ids | {tokenizer.eos_token_id} if one in vocabulary))


def visible_pieces(tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
    """As `pieces`, but a special token, such as the end of sequence, is its name: for whoever looks at the tokens."""
    special = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    texts = pieces(tokenizer, token_ids)
    return [special.get(token, text) for token, text in zip(token_ids, texts, strict=True)]
