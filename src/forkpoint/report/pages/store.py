"""The page of a `score` run: how much the store holds, how its scores are spread, and its first rows token by token."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from forkpoint.jsonl import Row
from forkpoint.report.content import Chart, Page, Table, Tokens, number
from forkpoint.report.figures.charts import ALL, Counts, counts_of, distribution_svg
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
    counts: dict[str, Counts] = {
        name.replace("_", " "): np.sum([counts_of(store.values(i, name)) for i in some], axis=0) for name in SCORES
    }
    if not all(own.any() for own in counts.values()):
        return []
    note = "A rule keeps the low end of a score: with a ratio of 0.5, what is below the 50% column."
    if len(some) < n:
        note = f"Of {len(some)} shards of {n:,}, evenly spaced. {note}"
    columns = ("score", "mean", *(f"{100 * q:.0f}%" for q in QUANTILES), "largest")
    rows = [(name, *map(number, _summary(own))) for name, own in counts.items()]
    drawn = {name: {"tokens": own} for name, own in counts.items()}
    return [
        Chart("How the scores are spread", partial(distribution_svg, drawn), wide=True),
        Table("Scores in nats", columns, rows, note=note),
    ]


def _summary(counts: Counts) -> list[float]:
    """Mean, quantiles and largest of what was counted."""
    order = np.argsort(ALL)
    order = order[counts[order] > 0]
    values, ends = ALL[order], counts[order].cumsum()
    at = np.searchsorted(ends, [q * ends[-1] for q in QUANTILES])
    return [float(values @ counts[order] / ends[-1]), *map(float, values[at]), float(values[-1])]
