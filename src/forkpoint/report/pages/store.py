"""The page of a `score` run: how much the store holds, how its scores are spread, and its first rows token by token."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from forkpoint.report.content import Chart, Page, Table, Tokens, finished, number
from forkpoint.report.figures.distribution import ALL, Counts, counts_of, distribution_svg
from forkpoint.report.pages.documents import document_rows
from forkpoint.scores.dynamics import DOCUMENTS
from forkpoint.scores.store import SCORES, STORE, Store, open_store

SHARDS = 16  # that the scores' spread is taken from, about a million tokens each
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


def page(run: Path) -> Page:
    """What a finished store holds. UserError where it is none, or a file is missing."""
    facts = finished(run, STORE)
    store = open_store(run, check=False)
    sections = _spread(store) if store.has_scores else []
    tokens = None
    if (run / DOCUMENTS).is_file():
        tokens = Tokens(partial(document_rows, run / DOCUMENTS), DOCUMENTS, "row", "first rows", entries="rows")
    shown = page_of_summary(facts)
    return Page(shown.title, shown.lines, sections, tokens)


def page_of_summary(facts: Mapping[str, Any]) -> Page:
    """The sentence of what `score_corpus` returns: how much the store holds."""
    context = facts["context"]
    reference = facts["reference"]["model"] if facts["reference"] else "nobody: only tokenised"
    line = (
        f"{facts['documents']:,} documents ({facts['empty_documents']:,} of them empty), {facts['rows']:,} rows "
        f"({context['documents']}, at most {context['length']:,} tokens), {facts['tokens']:,} tokens, "
        f"{facts['counted_tokens']:,} of them predicted, shards: {len(facts['shards']):,}; scored by {reference}"
    )
    return Page(f"Store of {facts['source'].get('data', 'a corpus')}", [line])


def _spread(store: Store) -> list[Table | Chart]:
    """The distribution of each score over the tokens of some shards, evenly spaced."""
    last = len(store.shards) - 1
    some = sorted({round(i) for i in np.linspace(0, last, min(SHARDS, last + 1))})
    counts: dict[str, Counts] = {
        name: np.sum([counts_of(store.values(i, name)) for i in some], axis=0) for name in SCORES
    }
    if not all(np.any(found) for found in counts.values()):
        return []
    note = "A rule keeps the low end of a score: with a ratio of 0.5, what is below the 50% column."
    if len(some) <= last:
        note = f"Of {len(some)} shards of {last + 1:,}, evenly spaced. {note}"
    named = {name.replace("_", " "): found for name, found in counts.items()}
    columns = ("score", "mean", *(f"{100 * q:.0f}%" for q in QUANTILES), "largest")
    rows = [(name, *map(number, _summary(found))) for name, found in named.items()]
    drawn = {name: {"tokens": found} for name, found in named.items()}
    return [
        Chart("How the scores are spread", partial(distribution_svg, drawn), wide=True),
        Table("Scores in nats", columns, rows, note=note),
    ]


def _summary(counts: Counts) -> list[float]:
    """Mean, quantiles and largest of what was counted."""
    seen = np.flatnonzero(counts)
    values, times = ALL[seen], counts[seen]
    order = np.argsort(values)
    values, ends = values[order], times[order].cumsum()
    at = np.searchsorted(ends, [q * ends[-1] for q in QUANTILES])
    return [float(values @ times[order] / ends[-1]), *map(float, values[at]), float(values[-1])]
