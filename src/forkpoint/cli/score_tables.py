"""What `forkpoint score --inspect` prints: a document token by token."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from forkpoint.report.content import Table
from forkpoint.report.terminal import print_table
from forkpoint.scores.store import SCORES, ScoredRow


def print_document(rows: Iterable[tuple[ScoredRow, slice]], tokenizer: Any, number: int) -> None:
    """A document's tokens, one a line, with their scores in nats."""
    lines: list[tuple[str, ...]] = []
    for scored, part in rows:
        for i in range(part.start, part.stop):
            values = [scored.scores[name][i] if scored.scores else math.nan for name in SCORES]
            cells = ("" if math.isnan(value) else f"{value:.3f}" for value in values)
            lines.append((str(len(lines)), repr(tokenizer.decode([int(scored.row.ids[i])])), *cells))
    print_table(Table(f"document {number}", ("position", "token", *SCORES), lines, left=2))
