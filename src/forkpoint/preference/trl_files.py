"""Preference data in TRL's formats, from files or the Hub, as token ids: those that TRL's DPOTrainer would train on.

Formats (https://huggingface.co/docs/trl/dataset_formats): `prompt`, `chosen` and `rejected` as text; the same as lists
of messages; either without `prompt`, which is then what chosen and rejected begin with. TRL itself is not needed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from forkpoint.engines.loading import first_line
from forkpoint.preference.pair import Pair
from forkpoint.preference.pair_files import make_pair
from forkpoint.tasks.jsonlines import column, read_rows, shortened
from forkpoint.types import TokenIds, UserError

COLUMNS = ("prompt", "chosen", "rejected", "tools", "chat_template_kwargs")
REASONS = ("same_response", "no_prompt", "empty_response")
TOLD_EVERY = 100  # rows between two reports of progress
Row = Mapping[str, Any]
Rows = Sequence[tuple[str, Row]]


@dataclass(frozen=True, slots=True)
class Imported:
    """Pairs of a data set, in its order; an id is the number of the row.

    `counts`: `rows`, `pairs`, and pairs with `shortened_prompts`, because the tokens at its end depend on what
    follows. `dropped`: rows whose responses are the `same_response`, that have `no_prompt`, or an `empty_response`.
    """

    pairs: list[Pair]
    counts: dict[str, int]
    dropped: dict[str, int]


def read_preferences(source: str, split: str = "train") -> Rows:
    """The rows of a JSON Lines or Parquet file, a directory that `datasets` reads, or a data set on the Hub.

    Each comes with its place; of its columns those of TRL's preference formats are kept, where they hold something.
    `split` is for directories and the Hub. Raises UserError where nothing can be read, and with its place for a row in
    none of the formats.
    """
    path = Path(source)
    if path.is_file() and path.suffix != ".parquet":
        found: Iterator[tuple[str, Row]] = read_rows(path)
    elif path.exists() or not source.startswith((".", "/", "~")):
        found = ((f"{source} row {i}", row) for i, row in enumerate(_table(source, split)))
    else:
        raise UserError(f"cannot read {source}: there is no such file or directory")
    rows = [(where, {key: row[key] for key in COLUMNS if row.get(key) is not None}) for where, row in found]
    if not rows:
        raise UserError(f"{source} holds no pairs")
    for where, row in rows:
        _parts(row, where)  # refuses what is in no format before anything is written
    return rows


def _table(source: str, split: str) -> Sequence[Row]:
    """The rows that pyarrow or `datasets` read."""
    try:
        if Path(source).is_file():
            import pyarrow.parquet

            rows: list[Row] = pyarrow.parquet.read_table(source).to_pylist()
            return rows
        from datasets import DatasetDict, load_dataset, load_from_disk

        if any((Path(source) / name).exists() for name in ("state.json", "dataset_dict.json")):
            saved = load_from_disk(source)
            found: Sequence[Row] = saved[split] if isinstance(saved, DatasetDict) else saved
        else:
            found = load_dataset(source, split=split)
        return found
    except Exception as error:  # as many kinds as there are formats and ways for a network to fail
        what = f"{source} (split {split!r})" if not Path(source).is_file() else source
        raise UserError(f"cannot read {what}: {type(error).__name__}: {first_line(error)}") from None


def import_pairs(rows: Rows, tokenizer: Any, progress: Callable[[str, int, int, int], None] | None = None) -> Imported:
    """The rows as pairs of token ids, without weights; `progress` hears what is done, of how many, and the tokens.

    Raises UserError with its place for a row that cannot be tokenised.
    """
    pairs: list[Pair] = []
    dropped = dict.fromkeys(REASONS, 0)
    moved = tokens = 0
    for i, (where, row) in enumerate(rows):
        whole, prompt, chosen, rejected = tokenise(row, tokenizer, where)
        reason = (
            "same_response" if chosen == rejected else
            "no_prompt" if not prompt else
            "empty_response" if not chosen or not rejected else ""
        )  # fmt: skip
        if reason:
            dropped[reason] += 1
        else:
            pairs.append(make_pair(str(i), prompt, chosen, rejected, tokenizer))
            moved += len(prompt) < len(whole)
            tokens += len(prompt) + len(chosen) + len(rejected)
        if progress and (i + 1) % TOLD_EVERY == 0:
            progress("tokenised pairs", i + 1, len(rows), tokens)
    return Imported(pairs, {"rows": len(rows), "pairs": len(pairs), "shortened_prompts": moved}, dropped)


def tokenise(row: Row, tokenizer: Any, where: str) -> tuple[TokenIds, TokenIds, TokenIds, TokenIds]:
    """Token ids of a row's prompt alone, of that part of it which both responses leave as it is, and of the responses.

    As TRL's DPOTrainer does it (`_prepare_dataset`, TRL 1.0): text responses get the end-of-sequence token, messages
    what the chat template writes; prompt and response are tokenised together, and a response begins where its ids
    differ from those of the prompt alone.
    """
    prompt, chosen, rejected = _parts(row, where)
    if isinstance(prompt, str):
        end = tokenizer.eos_token or ""
        chosen, rejected = (text if text.endswith(end) else text + end for text in (chosen, rejected))
        whole, *both = (tuple(tokenizer(text)["input_ids"]) for text in (prompt, prompt + chosen, prompt + rejected))
    else:
        whole, *both = _render(row, prompt, chosen, rejected, tokenizer, where)
    n = min(_shared(whole, ids) for ids in both)
    return whole, whole[:n], both[0][n:], both[1][n:]


def _render(
    row: Row, prompt: Any, chosen: Any, rejected: Any, tokenizer: Any, where: str
) -> tuple[TokenIds, TokenIds, TokenIds]:
    """Conversations as the tokenizer's chat template writes them."""
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(f"{where}: the pair is a conversation, but the tokenizer has no chat template to write it with")
    try:
        tools = row.get("tools")
        options = {
            "tools": json.loads(tools) if isinstance(tools, str) else tools,
            "tokenize": True,
            "return_dict": True,
            **row.get("chat_template_kwargs", {}),
        }

        def ids(messages: Any, **more: bool) -> TokenIds:
            return tuple(tokenizer.apply_chat_template(messages, **options, **more)["input_ids"])

        alone = ids(prompt, add_generation_prompt=True) if prompt else ()
        return alone, ids(prompt + chosen), ids(prompt + rejected)
    except Exception as error:  # a template is a program of its own, and may fail in any way
        raise UserError(f"{where}: the chat template refuses the conversation: {first_line(error)}") from None


def _parts(row: Row, where: str) -> tuple[Any, Any, Any]:
    """Prompt, chosen and rejected: all text or all lists of messages."""
    chosen, rejected = column(row, "chosen", where), column(row, "rejected", where)
    if "prompt" in row:
        prompt = row["prompt"]
    else:
        n = _implicit(chosen, rejected)
        prompt, chosen, rejected = chosen[:n], chosen[n:], rejected[n:]
    parts = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    if all(isinstance(part, str) for part in parts.values()) or all(map(_is_conversation, parts.values())):
        return prompt, chosen, rejected
    name = next((n for n, part in parts.items() if not isinstance(part, str) and not _is_conversation(part)), None)
    if name:
        raise UserError(f"{where}: {name} must be text or a list of messages with role and content, but is "
                        f"{shortened(parts[name])}")  # fmt: skip
    raise UserError(f"{where}: prompt, chosen and rejected must be all text or all lists of messages; without a prompt "
                    "column it is what chosen and rejected begin with")  # fmt: skip


def _is_conversation(part: Any) -> bool:
    return isinstance(part, list) and all(
        isinstance(message, dict) and isinstance(message.get("role"), str) for message in part
    )


def _implicit(chosen: Any, rejected: Any) -> int:
    """How much of chosen and rejected is the prompt: what they share, but for a space at its end.

    TRL's `extract_prompt`: where one begins with the whole other, the shorter one keeps its last item.
    """
    if not (isinstance(chosen, str | list) and isinstance(rejected, str | list)):
        return 0
    n = _shared(chosen, rejected)
    if n and n == min(len(chosen), len(rejected)):
        return n - 1
    return n - 1 if n and chosen[n - 1] == " " else n


def _shared(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Number of leading items that two sequences have in common."""
    return sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(one, other, strict=False)))
