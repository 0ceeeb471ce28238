"""The page of an `eval` run: accuracies with their intervals, the comparisons, and every path, token by token."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from forkpoint.files import RESULTS, SAMPLES
from forkpoint.jsonl import Row
from forkpoint.report.content import Chart, Column, Page, Table, Tokens, cut_off_hint, percents
from forkpoint.report.figures.charts import accuracy_svg, sweep_svg
from forkpoint.types import UserError

FILES = (RESULTS, SAMPLES)
FIGURES: dict[str, Column] = {  # of a strategy
    "strategy": "{strategy}", "accuracy": "{accuracy:.1%}", "95% interval": lambda s: percents(s["ci95"]),
    "no answer": "{extraction_failures:,} of {responses:,}", "cut off": "{cut_off:,}", "tokens": "{tokens_generated:,}",
    "seconds": "{seconds:,.1f}",
}  # fmt: skip
DIFFERENCE: dict[str, Column] = {  # of a comparison, in points
    "difference": lambda c: f"{100 * c['difference']:+.1f}",
    "95% interval": lambda c: " to ".join(f"{100 * end:+.1f}" for end in c["ci95"]),
    "p": "{p_value:.2g}", "p (Holm)": "{p_holm:.2g}",
}  # fmt: skip
VOTES = 4  # answers whose votes are named, at most


def page(results: Row, run: Path | None = None) -> Page:
    """What `evaluate` returns, and samples.jsonl."""
    n, strategies = results["n_problems"], results["strategies"]
    lines = [
        f"{n:,} problems, prompt style {results['prompt']}, seed {results['seed']}, at most {results['max_tokens']:,} "
        "tokens a response.",
        *cut_off_hint(*((f"{s['strategy']} ", s["cut_off"], s["responses"]) for s in strategies)),
    ]
    chart = Chart("Accuracy with 95% intervals", partial(accuracy_svg, strategies))
    if results.get("sweep"):
        chart = Chart(f"Accuracy against {results['sweep']['option']}", partial(sweep_svg, results))
    dropped = [f"{s['strategy']}: {_left_out(s['dropped_paths'])}." for s in strategies if s["dropped_paths"]]
    sections: list[Table | Chart] = [chart, Table.of("Strategies", strategies, FIGURES, note=" ".join(dropped))]
    if any("causes" in s for s in strategies):
        sections.append(_causes(strategies))
    if results["comparisons"]:
        lines.append(
            f"With {n:,} problems a difference of {100 * results['minimum_detectable_difference']:.1f} points is found "
            "with 80% power (McNemar's test, 5% level, two strategies that disagree on 20% of the problems); a smaller "
            "one is missed more often."
        )
        sections.append(_comparisons(results))
    tokens = Tokens.of(run, SAMPLES, _rows, "path", "paths", "problem", "problems")
    return Page(f"Decoding strategies: {results['model']} on {results['task']}", lines, sections, tokens)


def _left_out(dropped: dict[str, int]) -> str:
    """How many paths of a strategy were not chosen from, and why."""
    total = sum(dropped.values())
    reasons = list(dropped) if len(dropped) == 1 else [f"{n:,} {reason}" for reason, n in dropped.items()]
    return f"{total:,} {'path was' if total == 1 else 'paths were'} left out of the choice ({', '.join(reasons)})"


def _causes(strategies: Sequence[Row]) -> Table:
    """The wrong responses of each strategy by the cause of their first error."""
    causes = sorted({cause for s in strategies for cause in s.get("causes", ())})
    rows = [(s["strategy"], *(f"{s.get('causes', {}).get(cause, 0):,}" for cause in causes)) for s in strategies]
    return Table("Wrong responses by the cause of their first error", ("strategy", *causes), rows)


def _comparisons(results: Row) -> Table:
    """The strategies against the first; where that changes with the swept option, by its value."""
    compared = results["comparisons"]
    first, *later = dict.fromkeys(c["a"] for c in compared)
    if not later:
        return differences_table(f"Against {first}", compared, {"strategy": "{b}"})
    option, lines = results["sweep"]["option"], results["sweep"]["lines"]
    values = {spec: value for line in lines for spec, value in zip(line["specs"], line["values"], strict=True)}
    names: dict[str, str] = {spec: line["strategy"] for line in lines for spec in line["specs"]}
    columns: dict[str, Column] = {
        option: lambda c: f"{values[c['a']]:g}",
        "strategy": lambda c: names.get(c["b"], str(c["b"])),
    }
    return differences_table(f"Against {names[first]} at each {option}", compared, columns)


def differences_table(title: str, compared: Sequence[Row], names: Mapping[str, Column]) -> Table:
    """Paired comparisons, each behind the columns that name it."""
    note = f"Points; {' and '.join(sorted({c['test'] for c in compared}))}."
    return Table.of(f"{title}, problem by problem", compared, {**names, **DIFFERENCE}, left=len(names), note=note)


def lines_of(samples: Path, *columns: str) -> Iterator[tuple[int, list[Any]]]:
    """Where each line of samples.jsonl begins, and its values of the columns; UserError for a broken one."""
    start = 0
    with samples.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                yield start, [row[name] for name in columns]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{samples} line {number} is broken: {error}") from error
            start += len(line)


def _rows(samples: Path) -> Iterator[Row]:
    """A row a path; the paths of a problem follow each other, though the file goes by strategy."""
    starts: dict[str, list[int]] = {}
    for start, [problem] in lines_of(samples, "problem_id"):
        starts.setdefault(problem, []).append(start)
    with samples.open("rb") as file:
        for problem, places in starts.items():
            rows = []
            for place in places:
                file.seek(place)
                rows.append(json.loads(file.readline()))
            yield from _paths(problem, rows)


def _paths(problem: str, rows: Sequence[Row]) -> Iterator[Row]:
    """The paths of every strategy for one problem, as the token viewer takes them."""
    graded = {rows[0]["gold"]: True} | {row["answer"]: row["correct"] for row in rows if row["answer"] is not None}
    signs = [row["correct"] for row in rows]
    tags = [f"{row['strategy']} {'right' if row['correct'] else 'wrong'}" for row in rows]
    if len(set(signs)) > 1:
        tags.insert(0, "strategies disagree")
    for row in rows:
        several = len(row["paths"]) > 1
        for i, path in enumerate(row["paths"]):
            picked = several and i == row["chosen"]
            yield {
                "id": f"{problem}/{row['strategy']}" + (f"/{i}" if several else ""), "group": problem,
                "label": f"{row['strategy']}, path {i}" if several else row["strategy"],
                "question": row["question"], "gold": row["gold"], "tags": tags, "marks": signs,
                "answer": path["answer"], "correct": path.get("correct", graded.get(path["answer"])),
                "picked": picked, "note": "; ".join(filter(None, (_note(path, picked), _votes(row) if picked else ""))),
                "token_ids": path["token_ids"], "tokens": path["tokens"], "gap": path["gaps"], "span": path["span"],
                "finish_reason": path["finish_reason"],
            }  # fmt: skip


def _note(path: Row, picked: bool) -> str:
    """The sureness of a path's answer, what became of the path, and the cause of its first error."""
    sure = "" if path["confidence"] is None else f"Δ {path['confidence']:.3f}"
    asked = f"answer after {path['continuation']!r}" if path["continuation"] else ""
    fate = f"left out: {path['dropped']}" if path["dropped"] else "its answer was taken" if picked else ""
    cause = f"first error: {path['cause']}" if "cause" in path else ""
    return ", ".join(filter(None, (sure, asked, fate, cause)))


def _votes(row: Row) -> str:
    """The heaviest answers where the strategy votes: votes: 27 ×6, 25 ×3."""
    if not (row["strategy"].startswith("self-consistency") or "aggregate=true" in row["strategy"].lower()):
        return ""
    votes = sorted(row["votes"].items(), key=lambda vote: -vote[1])
    digits = 0 if all(float(weight).is_integer() for _, weight in votes) else 2
    named = [f"{answer} ×{weight:.{digits}f}" for answer, weight in votes[:VOTES]]
    more = f" and {len(votes) - VOTES:,} more" if len(votes) > VOTES else ""
    return f"votes: {', '.join(named)}{more}" if votes else "no votes"
