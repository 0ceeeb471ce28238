"""documents.jsonl: rows of a store with their tokens' texts and a number a token from each column, for a page.

Written while a tokenizer is at hand, so that a page can be made without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from forkpoint.scores.store import ScoredRow
from forkpoint.text import visible_pieces

SHOWN = 50  # rows of a store, the first ones


def document_line(index: int, scored: ScoredRow, tokenizer: Any, columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The row of that index as a line; columns hold a number a token, NaN where there is none."""
    ids = scored.row.ids.tolist()
    numbers = {name: [float(v) if np.isfinite(v) else None for v in values] for name, values in columns.items()}
    return {"id": f"row {index}", "token_ids": ids, "tokens": visible_pieces(tokenizer, ids), **numbers}
