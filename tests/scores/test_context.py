"""Documents as rows: every token counts once, in the row and with the context that the policy says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkpoint.scores.context import Context, Row, check_context, counted, document_of_tokens, rows_of
from forkpoint.types import UserError

Numbered = list[tuple[int, list[int]]]


@st.composite
def policies(draw) -> Context:
    length = draw(st.integers(2, 9))
    return Context(draw(st.sampled_from(["isolated", "packed"])), length, draw(st.integers(1, length)))


@st.composite
def corpora(draw) -> Numbered:
    """Documents whose every token id occurs once, some without tokens; numbered on from anywhere."""
    lengths = draw(st.lists(st.integers(0, 3) | st.integers(1, 25), max_size=8))
    ends = np.cumsum([0, *lengths]).tolist()
    first = draw(st.integers(0, 5))
    return [(first + i, list(range(ends[i], ends[i + 1]))) for i in range(len(lengths))]


def naive(documents: Numbered, context: Context) -> list[tuple[list[int], list[int], list[bool], int]]:
    """Each row's ids, the places of document starts, what counts, and its document; a token at a time."""
    pieces = [[document] for document in documents] if context.documents == "isolated" else [documents]
    rows = []
    for piece in pieces:
        tokens, opened = [], 0  # of each token: its id, how many documents begin with it, and its document
        for number, ids in piece:
            opened += 1
            for token in ids:
                tokens.append((token, opened, number))
                opened = 0
        done = 0  # tokens that stood in an earlier row
        for begin in range(0, len(tokens), context.stride):
            part = tokens[begin : begin + context.length]
            new = [i > 0 and not begins and begin + i >= done for i, (_, begins, _) in enumerate(part)]
            done = begin + len(part)
            if any(new):
                starts = [i for i, (_, begins, _) in enumerate(part) for _ in range(begins)]
                rows.append(([token for token, _, _ in part], starts, new, part[0][2]))
            if done == len(tokens):
                break
    return rows


def parts(row: Row) -> tuple[list[int], list[int], list[bool], int]:
    return row.ids.tolist(), list(row.starts), counted(len(row.ids), row.starts, row.context).tolist(), row.document


@given(corpora(), policies())
def test_rows_are_those_made_a_token_at_a_time(documents, context):
    assert [parts(row) for row in rows_of(documents, context)] == naive(documents, context)
    assert all(len(row.ids) <= context.length and row.ids.dtype == np.int32 for row in rows_of(documents, context))


@given(corpora(), policies())
def test_which_document_each_token_is_of(documents, context):
    owner = {token: number for number, ids in documents for token in ids}
    for row in rows_of(documents, context):
        assert document_of_tokens(row).tolist() == [owner[token] for token in row.ids.tolist()]


@pytest.mark.parametrize("change", [{"documents": "mixed"}, {"length": 1}, {"stride": 0}, {"stride": 9}])
def test_policies_that_give_no_rows(change):
    check_context(Context("packed", 8, 8))
    check_context(Context("isolated", 2, 1))
    with pytest.raises(UserError, match=f"{next(iter(change))} must be"):
        check_context(replace(Context("packed", 8, 8), **change))
