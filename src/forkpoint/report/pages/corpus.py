"""The page of a `lab corpus` run: its files, the kinds of tokens, and the first documents with the noise coloured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from forkpoint.files import SUMMARY
from forkpoint.jsonl import Row, list_of, text
from forkpoint.lab import CORPUS, MODEL_DIR
from forkpoint.report.content import Page, Table, Tokens
from forkpoint.tasks.data_sets import read_rows
from forkpoint.types import UserError

FILES = (SUMMARY, CORPUS)
SHOWN = 50  # documents


def page(summary: Row, run: Path | None = None) -> Page:
    """What `lab corpus` wrote, and corpus.jsonl."""
    files, noisy = summary["files"], summary["files"][CORPUS]
    clean, *noise = summary["kinds"]
    share = 1 - noisy["tokens_by_kind"][clean] / noisy["tokens"]
    line = (
        f"{CORPUS} holds {noisy['tokens']:,} tokens, {share:.1%} of them noise ({', '.join(noise)}); "
        f"seed {summary['seed']}"
    )
    sizes = [(name, f"{file['documents']:,}", f"{file['tokens']:,}") for name, file in files.items()]
    kinds = [
        (kind, f"{noisy['documents_by_kind'][kind]:,}", f"{tokens:,}", f"{tokens / noisy['tokens']:.1%}")
        for kind, tokens in noisy["tokens_by_kind"].items()
    ]
    sections = [
        Table("Files", ("file", "documents", "tokens"), sizes),
        Table(f"Kinds of tokens in {CORPUS}", ("kind", "documents", "tokens", "share"), kinds),
    ]
    rows = partial(_rows, kinds=summary["kinds"])
    tokens = Tokens.of(run, CORPUS, rows, "document", "first documents", "", "documents")
    return Page("The lab's corpus with noise", [line], sections, tokens)


def _rows(path: Path, kinds: Sequence[str]) -> Iterator[Row]:
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
