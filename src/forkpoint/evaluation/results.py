"""From outcomes to graded rows of samples.jsonl, and from these to the figures and comparisons of results.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from forkpoint.decoding.outcome import Case, Outcome
from forkpoint.decoding.strategies import Strategy
from forkpoint.evaluation.statistics import holm, minimum_detectable_difference, paired_difference
from forkpoint.lab.mistakes import cause_of_error
from forkpoint.proportions import pass_at_k, pass_at_k_interval
from forkpoint.tasks import grade_span
from forkpoint.trajectories.rows import Row
from forkpoint.types import Problem


def sample_row(problem: Problem, case: Case, strategy: Strategy, outcome: Outcome) -> Row:
    """Everything about one problem under one strategy, as plain JSON values.

        {"problem_id": "lab/test/0/0", "strategy": "greedy", "question": "Tom has …", "gold": "18", "prompt_ids": [34],
         "response": " 18", "answer": "18", "correct": true, "score": 1.0, "extraction_failures": 0, "cut_off": 0,
         "grading_errors": 0, "grade": {"correct": true, …}, "chosen": 0, "votes": {}, "tokens_generated": 3,
         "paths": [{"token_ids": [78, 11, 0], "tokens": [" 1", "8", ""], "gaps": [0.4, 0.9, 1.0], "text": " 18", …}]}

    `score` enters the accuracy: 0 or 1 for the chosen response, the mean over the responses of `sample`, the unbiased
    estimate of `pass@k`. The same responses count for `extraction_failures`, `cut_off` (they hit the length limit) and
    `grading_errors`; in the lab those that are wrong have a `cause`.
    """
    each = strategy.graded_paths()
    counted = outcome.paths if each else (outcome.paths[outcome.chosen],)
    grades = [grade_span(path.response, path.stated, problem) for path in counted]
    paths: list[Row] = [
        {
            "token_ids": list(path.token_ids),
            "tokens": list(path.tokens),
            "gaps": [round(gap, 6) for gap in path.gaps],
            "text": path.text,
            "continuation": path.continuation,
            "finish_reason": path.finish_reason,
            "answer": path.answer,
            "span": list(path.span) if path.span else None,
            "confidence": None if path.confidence is None else round(path.confidence, 6),
            "dropped": path.dropped,
        }
        for path in outcome.paths
    ]
    for row, g in zip(paths if each else [paths[outcome.chosen]], grades, strict=True):
        if each:
            row |= {"correct": g.correct, "extracted": g.extracted, "error": g.error}
        if problem.wordings and not g.correct:
            row["cause"] = cause_of_error(problem.id, row["text"])
    grade = grades[outcome.chosen if each else 0]
    right = sum(g.correct for g in grades)
    return {
        "problem_id": problem.id,
        "strategy": strategy.spec,
        "question": problem.question,
        "gold": problem.answer,
        "prompt_ids": list(case.prompt),
        "response": outcome.response,
        "answer": grade.extracted,
        "correct": grade.correct,
        "score": pass_at_k(len(grades), right, strategy.tries()) if each else float(grade.correct),
        "extraction_failures": sum(g.extracted is None for g in grades),
        "cut_off": sum(path.finish_reason == "length" for path in counted),
        "grading_errors": sum(g.error is not None for g in grades),
        "grade": asdict(grade),
        "chosen": outcome.chosen,
        "votes": {answer: round(weight, 6) for answer, weight in outcome.votes.items()},
        "tokens_generated": outcome.tokens_generated,
        "paths": paths,
    }


@dataclass
class StrategyTally:
    """What is kept of a strategy's rows while they stream by."""

    strategy: Strategy
    scores: list[float] = field(default_factory=list)
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    dropped_paths: Counter[str] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)

    def add(self, row: Row) -> None:
        """Count one row."""
        self.scores.append(row["score"])
        self.counts["responses"] += len(row["paths"]) if self.strategy.graded_paths() else 1
        for name in ("extraction_failures", "cut_off", "grading_errors", "tokens_generated"):
            self.counts[name] += row[name]
        self.dropped_paths.update(path["dropped"] for path in row["paths"] if path["dropped"])
        self.causes.update(path["cause"] for path in row["paths"] if "cause" in path)

    def figures(self) -> dict[str, Any]:
        """The strategy's entry in results.json: a Wilson interval, clustered where problems have several responses."""
        counts = self.counts
        scores = [[score] for score in self.scores]
        return {
            "strategy": self.strategy.spec,
            "accuracy": float(np.mean(self.scores)),
            "ci95": list(pass_at_k_interval(scores, counts["responses"], self.strategy.tries())),
            "n": len(self.scores),
            **{name: counts[name] for name in ("responses", "extraction_failures", "cut_off", "grading_errors")},
            "dropped_paths": dict(sorted(self.dropped_paths.items())),
            **({"causes": dict(sorted(self.causes.items()))} if self.causes else {}),
            "tokens_generated": counts["tokens_generated"],
            "seconds": round(self.seconds, 3),
        }


def differences(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> list[dict[str, Any]]:
    """The comparison of each pair of scores (a, b) of the same problems: `difference` is b minus a, `p_holm` is
    corrected for the number of pairs."""
    compared = [paired_difference(a, b) for a, b in pairs]
    corrected = holm([c.p_value for c in compared])
    return [asdict(c) | {"p_holm": float(p)} for c, p in zip(compared, corrected, strict=True)]


def pairs_of(specs: Sequence[str], lines: Sequence[Mapping[str, Any]] = ()) -> list[tuple[str, str]]:
    """Which strategies are compared, as (a, b): each with the first one.

    In a sweep, of these `lines`, each line with the first at the same value; a strategy without the option is the same
    at every value, and a line that is alone has its values compared with its first.
    """
    if not lines:
        return [(specs[0], spec) for spec in specs[1:]]
    swept = {line["specs"][0]: line["specs"] for line in lines}
    later = {spec for line in lines for spec in line["specs"][1:]}
    first, *rest = [swept.get(spec, [spec] * len(lines[0]["values"])) for spec in specs if spec not in later]
    if not rest:
        return pairs_of(first)
    return list(dict.fromkeys((a, b) for a, *bs in zip(first, *rest, strict=True) for b in bs))


def summarize(run: dict[str, Any], tallies: Sequence[StrategyTally]) -> dict[str, Any]:
    """The whole of results.json: the run's settings, a figure a strategy, the comparisons problem by problem."""
    scores = {tally.strategy.spec: tally.scores for tally in tallies}
    pairs = pairs_of(list(scores), run["sweep"]["lines"] if "sweep" in run else ())
    n = len(tallies[0].scores)
    return {
        **run,
        "n_problems": n,
        "strategies": [tally.figures() for tally in tallies],
        "comparisons": [
            {"a": a, "b": b, **figures}
            for (a, b), figures in zip(pairs, differences([(scores[a], scores[b]) for a, b in pairs]), strict=True)
        ],
        "minimum_detectable_difference": minimum_detectable_difference(n),
    }
