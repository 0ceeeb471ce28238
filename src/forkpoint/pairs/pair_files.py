"""pairs.jsonl: a pair as a line, and a strict reader of such files.

    {"id": "p/0 > p/3", "problem_id": "p", "prompt_ids": [5, 9], "chosen_ids": [7, 0], "rejected_ids": [8, 0],
     "rejected_weights": [0.75, 0.0], "weight": 1.0, "prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"}

The token ids are what is trained on. The text columns are those that TRL reads; here they also tell whether a file was
written with the tokenizer that it is read with.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from forkpoint.jsonl import is_number, shares, shortened, text
from forkpoint.pairs.pair import Pair
from forkpoint.pairs.pair_forms import shared
from forkpoint.tasks.data_sets import each_once, read_rows
from forkpoint.text import visible_pieces
from forkpoint.trajectories.rows import Row, ids_of
from forkpoint.types import TokenIds, UserError

PAIRS = "pairs.jsonl"
IDS, TEXTS = ("prompt_ids", "chosen_ids", "rejected_ids"), ("prompt", "chosen", "rejected")
COLUMNS = ("id", "problem_id", *IDS, "rejected_weights", "weight", *TEXTS)


def make_pair(
    name: str,
    prompt_ids: TokenIds,
    chosen_ids: TokenIds,
    rejected_ids: TokenIds,
    tokenizer: Any,
    *,
    rejected_weights: tuple[float, ...] | None = None,
    weight: float = 1.0,
    chosen_weights: tuple[float, ...] | None = None,
) -> Pair:
    """A pair of token ids, with the text that they spell."""
    ids = prompt_ids, chosen_ids, rejected_ids
    prompt, chosen, rejected = spelled(tokenizer, *ids)
    return Pair(name, *ids, prompt, chosen, rejected, rejected_weights, weight, chosen_weights)


def spelled(tokenizer: Any, prompt_ids: TokenIds, *responses: TokenIds) -> tuple[str, ...]:
    """The texts of a prompt and of each response: prompt and response together are what their ids spell together.

    A text of its own would lose the space that some decoders strip at the beginning. Special tokens are written out,
    but for those that this tokenizer puts before every text, and the last end of sequence, which TRL adds.
    """
    start = prompt_ids[shared(tokenizer("")["input_ids"], prompt_ids) :]
    alone, *whole = (
        tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        for ids in (start, *(start + before_end(tokenizer, ids) for ids in responses))
    )
    n = min([len(alone), *(shared(alone, text) for text in whole)])  # all, but where a character ends in the response
    return alone[:n], *(text[n:] for text in whole)


def before_end(tokenizer: Any, ids: TokenIds) -> TokenIds:
    """The ids before the last end of sequence, where nothing but blanks follow it; one before it ends a turn."""
    last = max((i for i, token in enumerate(ids) if token == tokenizer.eos_token_id), default=len(ids))
    return ids[:last] if not tokenizer.decode(ids[last + 1 :]).strip() else ids


def pair_row(pair: Pair, problem_id: str | None = None) -> Row:
    """A pair as a line of pairs.jsonl; `problem_id` where the problem is known."""
    columns = COLUMNS if pair.chosen_weights is None else (*COLUMNS, "chosen_weights")
    values = {name: problem_id if name == "problem_id" else getattr(pair, name) for name in columns}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def token_texts(pair: Pair, tokenizer: Any) -> Row:
    """What a line of pairs.jsonl says beside `pair_row`, for whoever looks at it: the text of each response token."""
    responses = {"chosen_tokens": pair.chosen_ids, "rejected_tokens": pair.rejected_ids}
    return {name: visible_pieces(tokenizer, ids) for name, ids in responses.items()}


def read_pairs(path: Path, tokenizer: Any, vocab_size: int) -> list[Pair]:
    """The pairs of a `forkpoint pairs` run's directory, or of a JSON Lines file with their three columns of token ids.

    Other columns may be missing; without an `id` a pair is named after its place in the file ("0", "1", ...). Raises
    UserError with file and line for a broken row, an id that is there twice, and text or ids of another tokenizer.
    """
    if path.is_dir():
        path /= PAIRS
    rows = enumerate(read_rows(path))
    pairs = ((where, pair_of(row, str(i), tokenizer, vocab_size, where)) for i, (where, row) in rows)
    return each_once(pairs, "pair", f"{path} holds no pairs")


def pair_of(row: Mapping[str, Any], place: str, tokenizer: Any, vocab_size: int, where: str) -> Pair:
    """The pair of a row; without an `id` it is named after its `place`. UserError for a row that is broken."""
    if not row.keys() & set(IDS) and row.keys() >= {"chosen", "rejected"}:
        raise UserError(f"{where}: the pair has text but no token ids; make them with forkpoint pairs --trl FILE")
    prompt, chosen, rejected = (ids_of(row, key, vocab_size, where, model="the model", what="pairs") for key in IDS)
    weights: dict[str, Any] = {
        name: shares(row[name], len(ids), name, where)
        for name, ids in (("chosen_weights", chosen), ("rejected_weights", rejected))
        if row.get(name) is not None
    }
    weight = row.get("weight", 1.0)
    if not is_number(weight) or not 0 <= weight <= sys.float_info.max:
        raise UserError(f"{where}: weight must be a number of at least 0, but is {shortened(weight)}")
    name = text(row, "id", where) if "id" in row else place
    pair = replace(make_pair(name, prompt, chosen, rejected, tokenizer, weight=float(weight)), **weights)
    for key in TEXTS:
        if row.get(key) is not None and row[key] != getattr(pair, key):
            there, here = shortened(row[key]), shortened(getattr(pair, key))
            what = f"is {there} there, but its token ids spell {here} for the model"
            raise UserError(f"{where}: {key} {what}; the pairs come from another tokenizer")
    return pair
