"""pairs.jsonl: a pair as a line, and a strict reader of such files.

The token ids are what is trained on. The text columns are those that TRL reads; here they also tell whether a file was
written with the tokenizer that it is read with.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forkpoint.jsonl import is_number, shares, shortened, text
from forkpoint.pairs.pair import Pair
from forkpoint.pairs.pair_forms import shared
from forkpoint.tasks.data_sets import read_rows
from forkpoint.text import visible_pieces
from forkpoint.trajectories.rows import Row, ids_of
from forkpoint.types import TokenIds, UserError

PAIRS = "pairs.jsonl"
IDS, TEXTS = ("prompt_ids", "chosen_ids", "rejected_ids"), ("prompt", "chosen", "rejected")


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
    prompt, chosen, rejected = spelled(tokenizer, prompt_ids, chosen_ids, rejected_ids)
    return Pair(
        name, prompt_ids, chosen_ids, rejected_ids, prompt, chosen, rejected, rejected_weights, weight, chosen_weights
    )


def spelled(tokenizer: Any, prompt_ids: TokenIds, *responses: TokenIds) -> tuple[str, ...]:
    """The texts of a prompt and of each response: prompt and response together are what their ids spell together.

    A text of its own would lose the space that some decoders strip at the beginning. Special tokens are written out,
    but for those that this tokenizer puts before every text by itself, and the last end of sequence, which whoever
    trains on texts adds (TRL), with the blanks behind it, as in many chat templates.
    """
    start = prompt_ids[shared(tokenizer("")["input_ids"], prompt_ids) :]
    alone = _written(tokenizer, start)
    whole = [_written(tokenizer, start + before_end(tokenizer, ids)) for ids in responses]
    n = min([len(alone), *(shared(alone, text) for text in whole)])  # all, but where a character ends in the response
    return alone[:n], *(text[n:] for text in whole)


def _written(tokenizer: Any, ids: TokenIds) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def before_end(tokenizer: Any, ids: TokenIds) -> TokenIds:
    """The ids before the last end of sequence, where nothing but blanks follow it; one before it ends a turn."""
    last = max((i for i, token in enumerate(ids) if token == tokenizer.eos_token_id), default=len(ids))
    return ids[:last] if not tokenizer.decode(ids[last + 1 :]).strip() else ids


def pair_row(pair: Pair, problem_id: str | None = None) -> Row:
    """A pair as a line of pairs.jsonl; `problem_id` where the problem is known."""
    chosen_weights = {} if pair.chosen_weights is None else {"chosen_weights": list(pair.chosen_weights)}
    return {
        "id": pair.id,
        "problem_id": problem_id,
        "prompt_ids": list(pair.prompt_ids),
        "chosen_ids": list(pair.chosen_ids),
        "rejected_ids": list(pair.rejected_ids),
        **chosen_weights,
        "rejected_weights": None if pair.rejected_weights is None else list(pair.rejected_weights),
        "weight": pair.weight,
        "prompt": pair.prompt,
        "chosen": pair.chosen,
        "rejected": pair.rejected,
    }


def token_texts(pair: Pair, tokenizer: Any) -> Row:
    """What a line of pairs.jsonl says beside `pair_row`, for whoever looks at it: the text of each response token."""
    responses = {"chosen_tokens": pair.chosen_ids, "rejected_tokens": pair.rejected_ids}
    return {name: visible_pieces(tokenizer, ids) for name, ids in responses.items()}


def read_pairs(path: Path, tokenizer: Any, vocab_size: int) -> list[Pair]:
    """The pairs of a `forkpoint pairs` run's directory, or of a JSON Lines file with their three columns of token ids.

    Without an `id` a pair is named after its place in the file ("0", "1", ...); `rejected_weights`, `weight` and the
    text columns may be missing too. Raises UserError with file and line for a row that is broken, ids outside the
    vocabulary, text that this tokenizer spells otherwise, weights that are not one in [0, 1] for each rejected token
    and an id that is there twice; and for a file without pairs.
    """
    if path.is_dir():
        path /= PAIRS
    found: dict[str, Pair] = {}
    for where, row in read_rows(path):
        pair = pair_of(row, str(len(found)), tokenizer, vocab_size, where)
        if pair.id in found:
            raise UserError(f"{where}: the pair {pair.id!r} is there twice")
        found[pair.id] = pair
    if not found:
        raise UserError(f"{path} holds no pairs")
    return list(found.values())


def pair_of(row: Mapping[str, Any], place: str, tokenizer: Any, vocab_size: int, where: str) -> Pair:
    """The pair of a row; without an `id` it is named after its `place`. UserError for a row that is broken."""
    if not row.keys() & set(IDS) and row.keys() >= {"chosen", "rejected"}:
        raise UserError(f"{where}: the pair has text but no token ids; make them with forkpoint pairs --trl FILE")
    prompt, chosen, rejected = (ids_of(row, key, vocab_size, where, model="the model", what="pairs") for key in IDS)
    pair = make_pair(
        text(row, "id", where) if "id" in row else place, prompt, chosen, rejected, tokenizer,
        rejected_weights=_weights(row, "rejected_weights", rejected, where), weight=_weight(row, where),
        chosen_weights=_weights(row, "chosen_weights", chosen, where),
    )  # fmt: skip
    for key in TEXTS:
        if row.get(key) is not None and row[key] != getattr(pair, key):
            raise UserError(
                f"{where}: {key} is {shortened(row[key])} there, but its token ids spell "
                f"{shortened(getattr(pair, key))} for the model; the pairs come from another tokenizer"
            )
    return pair


def _weights(row: Mapping[str, Any], name: str, ids: TokenIds, where: str) -> tuple[float, ...] | None:
    return None if row.get(name) is None else shares(row[name], len(ids), name, where)


def _weight(row: Mapping[str, Any], where: str) -> float:
    value = row.get("weight", 1.0)
    if not is_number(value) or not 0 <= value <= sys.float_info.max:
        raise UserError(f"{where}: weight must be a number of at least 0, but is {shortened(value)}")
    return float(value)
