"""Preference data in any of the FORMS, from files or the Hub, as token ids: those that TRL's DPOTrainer would train on.

Formats of TRL: https://huggingface.co/docs/trl/dataset_formats. TRL itself is not needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from forkpoint.engines.loading import first_line
from forkpoint.jsonl import Row
from forkpoint.pairs.pair import Pair
from forkpoint.pairs.pair_files import before_end, make_pair
from forkpoint.pairs.pair_forms import ALWAYS, FORMS, PairRow, Part, is_blank, read_pair, shared, with_prompt
from forkpoint.tasks.data_sets import read_source
from forkpoint.types import Progress, TokenIds, UserError

READ = {*ALWAYS, "output", *FORMS}  # columns that make a difference
REASONS = ("same_response", "no_prompt", "empty_response")
REPORTED_EVERY = 100  # rows
Rows = Sequence[tuple[str, Row]]


@dataclass(frozen=True, slots=True)
class Imported:
    """Pairs of a data set, in its order; an id is the number of the row.

    `counts`: `rows`, `pairs`, and pairs with `shortened_prompts`, because the tokens at the end depend on what follows.
    `dropped`: rows without a pair, by reason.
    """

    pairs: list[Pair]
    counts: dict[str, int]
    dropped: dict[str, int]


def read_preferences(
    source: str,
    split: str = "train",
    *,
    subset: str | None = None,
    limit: int | None = None,
    prompt_column: str | None = None,
    bad: list[str] | None = None,
) -> Rows:
    """The first `limit` rows of a data set (`read_source`), each with its place and the columns that FORMS read.

    The column `prompt_column` is called `prompt` then. Raises UserError where nothing can be read, and with its place
    for a row that is in no form; with `bad` such a row is left out, and what is wrong with it appended there.
    """
    rows = []
    for where, row in islice(read_source(source, split=split, subset=subset, bad=bad), limit):
        with _noted(bad):
            renamed = with_prompt(row, prompt_column, where)
            read_pair(renamed, where)  # refuses what is in no form before anything is written
            rows.append((where, {key: value for key, value in renamed.items() if key in READ}))
    if not rows:
        raise UserError(f"{source} holds no pairs{f'; {bad[0]}' if bad else ''}")
    return rows


@contextmanager
def _noted(bad: list[str] | None) -> Iterator[None]:
    """Append what is wrong with a row to `bad`, where somebody collects that."""
    try:
        yield
    except UserError as error:
        if bad is None:
            raise
        bad.append(str(error))


def import_pairs(
    rows: Rows,
    tokenizer: Any,
    progress: Progress | None = None,
    *,
    without_end: bool = False,
    bad: list[str] | None = None,
) -> Imported:
    """The rows as pairs of token ids; `without_end`: their responses are parts of texts, and do not end here.

    Raises UserError with its place for a row that cannot be tokenised; `bad` is as in `read_preferences`.
    """
    pairs: list[Pair] = []
    dropped = dict.fromkeys(REASONS, 0)
    shortened = tokens = 0
    for i, (where, row) in enumerate(rows):
        with _noted(bad):
            pair = read_pair(row, where)
            whole, prompt, chosen, rejected = tokenise(pair, tokenizer, where, without_end=without_end)
            if is_blank(pair.prompt) or not prompt:
                dropped["no_prompt"] += 1
            elif not (chosen and rejected) or any(is_blank(_bare(p, tokenizer)) for p in (pair.chosen, pair.rejected)):
                dropped["empty_response"] += 1
            elif chosen == rejected:
                dropped["same_response"] += 1
            else:
                pairs.append(make_pair(str(i), prompt, chosen, rejected, tokenizer))
                shortened += len(prompt) < len(whole)
                tokens += len(prompt) + len(chosen) + len(rejected)
        if progress and (i + 1) % REPORTED_EVERY == 0:
            progress("tokenised pairs", i + 1, len(rows), tokens)
    return Imported(pairs, {"rows": len(rows), "pairs": len(pairs), "shortened_prompts": shortened}, dropped)


def tokenise(
    pair: PairRow, tokenizer: Any, where: str, *, without_end: bool = False
) -> tuple[TokenIds, TokenIds, TokenIds, TokenIds]:
    """Token ids of a pair's prompt alone, of that part of it which both responses leave as it is, and of the responses.

    As TRL's DPOTrainer does it (`_prepare_dataset`, TRL 1.16): prompt and response are tokenised together, and a
    response begins where its ids differ from those of the prompt alone; text gets the end-of-sequence token. Where that
    leaves nothing of a prompt of text, because its only token merges with the response, the two are tokenised apart.
    """
    is_text = isinstance(pair.prompt, str)
    if is_text:
        end = "" if without_end else tokenizer.eos_token or ""
        responses = [f"{_bare(part, tokenizer)}{end}" for part in (pair.chosen, pair.rejected)]
        whole, *both = (_ids(tokenizer, f"{pair.prompt}{text}") for text in ("", *responses))
    else:
        whole, *both = _render(pair, tokenizer, where)
    n = min(shared(whole, ids) for ids in both)
    if is_text and whole and not n:
        chosen, rejected = (_ids(tokenizer, text, add_special_tokens=False) for text in responses)
        return whole, whole, chosen, rejected
    chosen, rejected = (ids[n:] for ids in both)
    if without_end and not is_text:
        chosen, rejected = (before_end(tokenizer, ids) for ids in (chosen, rejected))
    return whole, whole[:n], chosen, rejected


def _ids(tokenizer: Any, text: str, **options: bool) -> TokenIds:
    return tuple(tokenizer(text, **options)["input_ids"])


def _bare(part: Part, tokenizer: Any) -> Part:
    """A text response without the end-of-sequence token."""
    return part.removesuffix(tokenizer.eos_token or "") if isinstance(part, str) else part


def _render(pair: PairRow, tokenizer: Any, where: str) -> tuple[TokenIds, TokenIds, TokenIds]:
    """A conversation as the tokenizer's chat template writes it: its prompt, and it with each of the responses."""
    if not getattr(tokenizer, "chat_template", None):
        hint = f"; --prompt-column {pair.question} takes its text as the prompt" if pair.question else ""
        what = "the pair is a conversation, but the tokenizer has no chat template to write it with"
        raise UserError(f"{where}: {what}{hint}")
    options = {"tokenize": True, "return_dict": True, "tools": None, **pair.more}
    options |= options.pop("chat_template_kwargs", {})

    def ids(messages: Any, **more: bool) -> TokenIds:
        return tuple(tokenizer.apply_chat_template(messages, **options, **more)["input_ids"])

    try:
        alone = ids(pair.prompt, add_generation_prompt=True) if pair.prompt else ()
        return alone, ids([*pair.prompt, *pair.chosen]), ids([*pair.prompt, *pair.rejected])
    except Exception as error:  # a template is a program of its own, and may fail in any way
        raise UserError(f"{where}: the chat template refuses the conversation: {first_line(error)}") from None
