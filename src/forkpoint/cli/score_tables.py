"""What `forkpoint score` prints: a store's counts, and a document token by token."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from rich import box
from rich.table import Table

from forkpoint.cli.tables import wide_console
from forkpoint.selective.store import SCORES, ScoredRow


def print_store(facts: dict[str, Any]) -> None:
    """How much the store holds."""
    context = facts["context"]
    reference = facts["reference"]["model"] if facts["reference"] else "nobody: only tokenised"
    wide_console().print(
        f"{facts['documents']:,} documents ({facts['empty_documents']:,} of them empty), {facts['rows']:,} rows "
        f"({context['documents']}, at most {context['length']:,} tokens), {facts['tokens']:,} tokens, "
        f"{facts['counted_tokens']:,} of them predicted, shards: {len(facts['shards']):,}; scored by {reference}",
        markup=False,
    )


def print_document(rows: Iterable[tuple[ScoredRow, slice]], tokenizer: Any, number: int) -> None:
    """A document's tokens, one a line, with their scores in nats."""
    table = Table(box=box.SIMPLE_HEAD, title=f"document {number}", title_justify="left")
    table.add_column("position", justify="right")
    table.add_column("token", no_wrap=True)
    for name in SCORES:
        table.add_column(name, justify="right")
    position = 0
    for scored, part in rows:
        for i in range(part.start, part.stop):
            cells = ("" if math.isnan(scored.scores[name][i]) else f"{scored.scores[name][i]:.3f}" for name in SCORES)
            text = tokenizer.decode([int(scored.row.ids[i])])
            table.add_row(str(position), _shown(text), *(cells if scored.scores else ("",) * len(SCORES)))
            position += 1
    wide_console().print(table)


def _shown(text: str) -> str:
    from rich.markup import escape

    return escape(repr(text))
