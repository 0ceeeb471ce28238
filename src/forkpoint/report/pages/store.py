"""The page of a `score` run: how much the store holds, how its scores are spread, and its first rows token by token."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float16, Float32

from forkpoint.jsonl import Row
from forkpoint.report.content import Chart, Page, Table, Tokens, number
from forkpoint.report.figures.charts import distribution_svg
from forkpoint.report.viewer import token_rows
from forkpoint.scores.dynamics import DOCUMENTS
from forkpoint.scores.store import SCORES, STORE, Store, open_store

FILES = (STORE,)
SHARDS = 16  # that the scores' spread is taken from, about a million tokens each
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


def page(facts: Row, run: Path | None = None) -> Page:
    """What `score_corpus` returns, and the store."""
    context = facts["context"]
    reference = facts["reference"]["model"] if facts["reference"] else "nobody: only tokenised"
    line = (
        f"{facts['documents']:,} documents ({facts['empty_documents']:,} of them empty), {facts['rows']:,} rows "
        f"({context['documents']}, at most {context['length']:,} tokens), {facts['tokens']:,} tokens, "
        f"{facts['counted_tokens']:,} of them predicted, shards: {len(facts['shards']):,}; scored by {reference}"
    )
    store = open_store(run, check=False) if run else None
    sections = spread(store) if store and store.has_scores else []
    tokens = Tokens.of(run, DOCUMENTS, token_rows, "row", "first rows", "", "rows")
    return Page(f"Store of {facts['source'].get('data', 'a corpus')}", [line], sections, tokens)


def spread(store: Store) -> list[Table | Chart]:
    """The distribution of each score over the tokens of some shards, evenly spaced."""
    n = len(store.shards)
    some = sorted({round(i) for i in np.linspace(0, n - 1, min(SHARDS, n))})
    scores = {name.replace("_", " "): finite(np.concatenate([store.values(i, name) for i in some])) for name in SCORES}
    if not all(map(len, scores.values())):
        return []
    note = "A rule keeps the low end of a score: with a ratio of 0.5, what is below the 50% column."
    if len(some) < n:
        note = f"Of {len(some)} shards of {n:,}, evenly spaced. {note}"
    columns = ("score", "mean", *(f"{100 * q:.0f}%" for q in QUANTILES), "largest")
    rows = [
        (name, *map(number, [own.mean(dtype=float), *np.quantile(own, QUANTILES, method="inverted_cdf"), own.max()]))
        for name, own in scores.items()
    ]
    drawn = {name: {"tokens": own} for name, own in scores.items()}
    return [
        Chart("How the scores are spread", partial(distribution_svg, drawn), wide=True),
        Table("Scores in nats", columns, rows, note=note),
    ]


def finite(values: Float16[np.ndarray, " n"]) -> Float32[np.ndarray, " m"]:
    """Those that are numbers, in which means do not overflow."""
    known: np.ndarray = values[np.isfinite(values)]
    return known.astype(np.float32)
