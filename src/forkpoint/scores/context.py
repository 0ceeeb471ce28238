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
    """The context policy of rows of at most `length` tokens.

    `isolated` documents have rows of their own; `packed` ones follow one another, and see those before them in their
    row. A longer stretch is cut into rows that begin `stride` tokens apart: the first length - stride tokens of all but
    its first row stand there as context only, and count in the row before.
    """

    documents: Documents = "isolated"
    length: int = 1024
    stride: int = 1024


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens that are read together: `ids` [T], the offsets in it at which documents begin, how many leading tokens
    are context only, and the number of the document that its first token is of. A document without tokens begins where
    the next one does, so that counting beginnings gives every token's document."""

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
    if context.documents == "isolated":
        pieces = [[document] for document in documents]
    else:
        pieces = [list(documents)] if documents else []
    for piece in pieces:
        ids = np.concatenate([np.asarray(tokens, dtype=np.int32) for _, tokens in piece])
        starts = np.cumsum([0, *(len(tokens) for _, tokens in piece)])[:-1]
        for begin, end, seen in _windows(len(ids), context):
            inside = starts[(starts >= begin) & (starts < end)]
            first = piece[int(np.searchsorted(starts, begin, side="right")) - 1][0]
            row = Row(ids[begin:end], tuple(int(s) - begin for s in inside), seen, first)
            if counted(len(row.ids), row.starts, row.context).any():
                yield row


def counted(length: int, starts: Sequence[int], context: int) -> Bool[np.ndarray, " T"]:
    """Which tokens of a row are predicted and count: not the first one, nor a document's first, nor mere context."""
    found = np.ones(length, dtype=bool)
    found[: max(context, 1)] = False
    found[list(starts)] = False
    return found


def document_of_tokens(row: Row) -> Int64[np.ndarray, " T"]:
    """The number of the document that each token of a row is of."""
    begins = np.zeros(len(row.ids), dtype=np.int64)
    np.add.at(begins, list(row.starts), 1)
    begins[0] = 0
    return row.document + begins.cumsum()


def _windows(length: int, context: Context) -> Iterator[tuple[int, int, int]]:
    """Begin, end and leading context of the rows of a stretch of tokens."""
    begin, seen = 0, 0
    while True:
        end = min(begin + context.length, length)
        yield begin, end, seen
        if end == length:
            return
        begin, seen = begin + context.stride, context.length - context.stride
