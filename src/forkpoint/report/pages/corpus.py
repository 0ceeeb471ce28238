"""The page of a `lab corpus` run: its files, the kinds of tokens, and the first documents with the noise coloured."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from forkpoint.jsonl import list_of, text
from forkpoint.lab import CORPUS, MODEL_DIR
from forkpoint.report.content import Page, Row, Table, Tokens, finished, percent
from forkpoint.tasks.data_sets import read_rows
from forkpoint.trajectories.rows import SUMMARY
from forkpoint.types import UserError

Summary = dict[str, Any]
SHOWN = 50  # documents


def page(run: Path) -> Page:
    """What summary.json and corpus.jsonl hold. UserError where one is missing or broken, with the line."""
    summary = finished(run, SUMMARY, CORPUS)
    shown = page_of_summary(summary)
    rows = partial(_rows, run / CORPUS, summary["kinds"])
    return Page(
        shown.title,
        shown.lines,
        shown.sections,
        Tokens(rows, CORPUS, "document", "first documents", entries="documents"),
    )


def page_of_summary(summary: Summary) -> Page:
    """The sentence and tables of what `lab corpus` wrote."""
    files = summary["files"]
    noisy = files[CORPUS]
    clean, *noise = summary["kinds"]
    share = 1 - noisy["tokens_by_kind"][clean] / noisy["tokens"]
    line = (
        f"{CORPUS} holds {noisy['tokens']:,} tokens, {percent(share)} of them noise ({', '.join(noise)}); "
        f"seed {summary['seed']}"
    )
    rows = [(name, f"{file['documents']:,}", f"{file['tokens']:,}") for name, file in files.items()]
    kinds = [
        (kind, f"{noisy['documents_by_kind'][kind]:,}", f"{tokens:,}", percent(tokens / noisy["tokens"]))
        for kind, tokens in noisy["tokens_by_kind"].items()
    ]
    return Page("The lab's corpus with noise", [line], [
        Table("Files", ("file", "documents", "tokens"), rows),
        Table(f"Kinds of tokens in {CORPUS}", ("kind", "documents", "tokens", "share"), kinds),
    ])  # fmt: skip


def _rows(path: Path, kinds: list[str]) -> Iterator[Row]:
    """The first documents; a token that is no noise has none."""
    from transformers import AutoTokenizer

    from forkpoint.text import visible_pieces

    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    for where, row in islice(read_rows(path), SHOWN):
        ids, codes = list_of(row, "input_ids", int, where), list_of(row, "kinds", int, where)
        if len(codes) != len(ids) or not all(0 <= code < len(kinds) for code in codes):
            raise UserError(f"{where}: kinds must be one of 0 to {len(kinds) - 1} for each of the {len(ids)} tokens")
        noise = [kinds[code] if code else None for code in codes]
        yield {"id": text(row, "id", where), "token_ids": ids, "tokens": visible_pieces(tokenizer, ids), "noise": noise}
