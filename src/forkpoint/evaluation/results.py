"""Figures and comparisons from graded rows: what results.json holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from forkpoint.evaluation.statistics import (
    holm,
    minimum_detectable_difference,
    paired_difference,
    pass_at_k_interval,
)


@dataclass
class StrategyTally:
    """What is kept of a strategy's rows while they stream by."""

    strategy: str
    scores: list[float]
    k: int = 1  # responses that a score takes as one try
    responses: int = 0
    extraction_failures: int = 0
    cut_off: int = 0
    grading_errors: int = 0
    tokens_generated: int = 0
    seconds: float = 0.0
    dropped_paths: Counter[str] = field(default_factory=Counter)

    def add(self, row: dict[str, Any], graded_paths: bool) -> None:
        """Count one row."""
        self.scores.append(row["score"])
        self.responses += len(row["paths"]) if graded_paths else 1
        self.extraction_failures += row["extraction_failures"]
        self.cut_off += row["cut_off"]
        self.grading_errors += row["grading_errors"]
        self.tokens_generated += row["tokens_generated"]
        self.dropped_paths.update(path["dropped"] for path in row["paths"] if path["dropped"])

    def figures(self) -> dict[str, Any]:
        """The strategy's entry in results.json: a Wilson interval, clustered where problems have several responses."""
        return {
            "strategy": self.strategy,
            "accuracy": float(np.mean(self.scores)),
            "ci95": list(pass_at_k_interval([[s] for s in self.scores], self.responses, self.k)),
            "n": len(self.scores),
            "responses": self.responses,
            "extraction_failures": self.extraction_failures,
            "cut_off": self.cut_off,
            "grading_errors": self.grading_errors,
            "dropped_paths": dict(sorted(self.dropped_paths.items())),
            "tokens_generated": self.tokens_generated,
            "seconds": round(self.seconds, 3),
        }


def differences(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> list[dict[str, Any]]:
    """What is found of each pair of scores (a, b) of the same problems: `difference` is b minus a, `p_holm` is
    corrected for the number of pairs.
    """
    found = [paired_difference(a, b) for a, b in pairs]
    corrected = holm([c.p_value for c in found])
    return [asdict(c) | {"p_holm": float(p)} for c, p in zip(found, corrected, strict=True)]


def pairs_of(specs: Sequence[str], lines: Sequence[Mapping[str, Any]] = ()) -> list[tuple[str, str]]:
    """Which strategies are compared, as (a, b): each with the first one.

    In a sweep, whose `lines` these are, it is line by line: each line with the first at the same value. A strategy
    without the option is the same at every value. A line that is alone has its values compared with its first.
    """
    if not lines:
        return [(specs[0], spec) for spec in specs[1:]]
    swept = {line["specs"][0]: line["specs"] for line in lines}
    later = {spec for line in lines for spec in line["specs"][1:]}
    first, *others = [swept.get(spec, [spec] * len(lines[0]["values"])) for spec in specs if spec not in later]
    if not others:
        return pairs_of(first)
    return list(dict.fromkeys((a, b) for a, *bs in zip(first, *others, strict=True) for b in bs))


def compare(tallies: Sequence[StrategyTally], lines: Sequence[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
    """The comparisons of results.json: of `pairs_of` the strategies, problem by problem."""
    scores = {tally.strategy: tally.scores for tally in tallies}
    pairs = pairs_of(list(scores), lines)
    found = differences([(scores[a], scores[b]) for a, b in pairs])
    return [{"a": a, "b": b, **figures} for (a, b), figures in zip(pairs, found, strict=True)]


def summarize(run: dict[str, Any], tallies: Sequence[StrategyTally]) -> dict[str, Any]:
    """The whole of results.json: the run's settings, a figure a strategy, the comparisons."""
    n = len(tallies[0].scores)
    return {
        **run,
        "n_problems": n,
        "strategies": [tally.figures() for tally in tallies],
        "comparisons": compare(tallies, run["sweep"]["lines"] if "sweep" in run else ()),
        "minimum_detectable_difference": minimum_detectable_difference(n),
    }
