"""What a token may see: how the documents of a corpus become rows of tokens.

Pure: knows nothing of models or files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int32, Int64

from forkpoint.types import UserError

Documents = Literal["isolated", "packed"]


@dataclass(frozen=True, slots=True)
class Context:
    """`isolated` documents have rows of their own; `packed` ones see those before them in their row.

    A stretch of more than `length` tokens is cut into rows that begin `stride` tokens apart; what overlaps the row
    before is there as context only.
    """

    documents: Documents = "isolated"
    length: int = 1024
    stride: int = 1024


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens that are read together: `ids` [T], the offsets at which documents begin (those without tokens where the
    next one does), how many leading tokens are context only, and the number of the document of the first token."""

    ids: Int32[np.ndarray, " T"]
    starts: tuple[int, ...]
    context: int
    document: int


def check_context(context: Context) -> None:
    """UserError for a policy that gives no rows."""
    if context.documents not in ("isolated", "packed"):
        raise UserError(f"documents must be isolated or packed, but is {context.documents!r}")
    if context.length < 2:
        raise UserError(f"length must be at least 2 tokens, but is {context.length}")
    if not 1 <= context.stride <= context.length:
        raise UserError(f"stride must be from 1 to length ({context.length}), but is {context.stride}")


def rows_of(documents: Sequence[tuple[int, Sequence[int]]], context: Context) -> Iterator[Row]:
    """The rows of the token ids of documents whose numbers follow one another. Rows in which no token counts are left
    out."""
    stretches = [[document] for document in documents] if context.documents == "isolated" else [documents]
    for stretch in filter(len, stretches):
        ids = np.concatenate([np.asarray(tokens, dtype=np.int32) for _, tokens in stretch])
        starts = np.cumsum([0, *(len(tokens) for _, tokens in stretch)])[:-1]
        last = max(0, len(ids) - context.length)  # where the last row may begin at the earliest
        for begin in range(0, last + context.stride, context.stride):
            part = ids[begin : begin + context.length]
            inside = starts[(starts >= begin) & (starts < begin + len(part))]
            first = stretch[int(np.searchsorted(starts, begin, side="right")) - 1][0]
            overlap = context.length - context.stride if begin else 0
            row = Row(part, tuple(int(start) - begin for start in inside), overlap, first)
            if counted(len(part), row.starts, overlap).any():
                yield row


def counted(length: int, starts: Sequence[int], context: int) -> Bool[np.ndarray, " T"]:
    """Which tokens of a row are predicted and count: not the first one, nor a document's first, nor mere context."""
    mask = np.ones(length, dtype=bool)
    mask[: max(context, 1)] = False
    mask[list(starts)] = False
    return mask


def document_of_tokens(row: Row) -> Int64[np.ndarray, " T"]:
    """The number of the document that each token of a row is of."""
    begins = np.bincount(np.array(row.starts, dtype=int), minlength=len(row.ids))
    begins[0] = 0
    return row.document + begins.cumsum()
