"""Figures and comparisons from graded rows: what results.json holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from forkpoint.evaluation.statistics import (
    clustered_interval,
    holm,
    minimum_detectable_difference,
    paired_difference,
)


@dataclass
class Tally:
    """What is kept of a strategy's rows while they stream by."""

    strategy: str
    scores: list[float]
    responses: int = 0
    extraction_failures: int = 0
    grading_errors: int = 0
    tokens_generated: int = 0
    seconds: float = 0.0
    dropped_paths: Counter[str] = field(default_factory=Counter)

    def add(self, row: dict[str, Any], graded_paths: bool) -> None:
        """Count one row."""
        self.scores.append(row["score"])
        self.responses += len(row["paths"]) if graded_paths else 1
        self.extraction_failures += row["extraction_failures"]
        self.grading_errors += row["grading_errors"]
        self.tokens_generated += row["tokens_generated"]
        self.dropped_paths.update(path["dropped"] for path in row["paths"] if path["dropped"])

    def figures(self) -> dict[str, Any]:
        """The strategy's entry in results.json: a Wilson interval, clustered where problems have several responses."""
        per_problem = self.responses // len(self.scores)
        return {
            "strategy": self.strategy,
            "accuracy": float(np.mean(self.scores)),
            "ci95": list(clustered_interval([[s] * per_problem for s in self.scores])),
            "n": len(self.scores),
            "responses": self.responses,
            "extraction_failures": self.extraction_failures,
            "grading_errors": self.grading_errors,
            "dropped_paths": dict(sorted(self.dropped_paths.items())),
            "tokens_generated": self.tokens_generated,
            "seconds": round(self.seconds, 3),
        }


def compare_with_first(tallies: Sequence[Tally]) -> list[dict[str, Any]]:
    """Each strategy (b) against the first (a), paired by problem; `difference` is b minus a, `p_holm` is corrected for
    the number of comparisons.
    """
    first, *others = tallies
    found = [paired_difference(first.scores, other.scores) for other in others]
    corrected = holm([c.p_value for c in found])
    return [
        {"a": first.strategy, "b": other.strategy, **asdict(c), "p_holm": float(p)}
        for other, c, p in zip(others, found, corrected, strict=True)
    ]


def summarize(run: dict[str, Any], tallies: Sequence[Tally]) -> dict[str, Any]:
    """The whole of results.json: the run's settings, a figure a strategy, the comparisons."""
    n = len(tallies[0].scores)
    return {
        **run,
        "n_problems": n,
        "strategies": [tally.figures() for tally in tallies],
        "comparisons": compare_with_first(tallies),
        "minimum_detectable_difference": minimum_detectable_difference(n),
    }
