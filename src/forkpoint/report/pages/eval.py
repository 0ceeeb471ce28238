"""The page of an `eval` run: accuracies with their intervals, the comparisons, and every path, token by token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from forkpoint.evaluation.evaluate import RESULTS, SAMPLES
from forkpoint.report.content import Chart, Page, Row, Table, Tokens, count, cut_off_hint, finished, percent, percents
from forkpoint.report.figures.accuracy import accuracy_svg
from forkpoint.report.figures.sweep_figure import sweep_svg
from forkpoint.types import UserError

Results = dict[str, Any]
DIFFERENCE = ("difference", "95% interval", "p", "p (Holm)")
VOTES = 4  # answers whose votes are told, at most


def page(run: Path) -> Page:
    """What results.json and samples.jsonl hold. UserError where one is missing or broken."""
    shown = page_of_summary(finished(run, RESULTS, SAMPLES))
    tokens = Tokens(partial(_rows, run / SAMPLES), SAMPLES, "path", "paths", "problem", "problems")
    return Page(shown.title, shown.lines, shown.sections, tokens)


def page_of_summary(results: Results) -> Page:
    """The tables and charts of what `evaluate` returns."""
    n = results["n_problems"]
    lines = [
        f"{n:,} problems, prompt style {results['prompt']}, seed {results['seed']}, at most {results['max_tokens']:,} "
        f"tokens a response.",
    ]
    lines += cut_off_hint(*((f"{s['strategy']} ", s.get("cut_off"), s["responses"]) for s in results["strategies"]))
    sections: list[Table | Chart] = [_chart(results), _accuracies(results)]
    if results["comparisons"]:
        lines.append(_detectable(n, results["minimum_detectable_difference"]))
        sections.append(_comparisons(results))
    return Page(f"Decoding strategies: {results['model']} on {results['task']}", lines, sections)


def _detectable(n: int, difference: float) -> str:
    return (
        f"With {n:,} problems a difference of {100 * difference:.1f} points is found with 80% power (McNemar's "
        "test, 5% level, two strategies that disagree on 20% of the problems); a smaller one is missed more often."
    )


def _chart(results: Results) -> Chart:
    if results.get("sweep"):
        return Chart(f"Accuracy against {results['sweep']['option']}", partial(sweep_svg, results))
    return Chart("Accuracy with 95% intervals", partial(accuracy_svg, results["strategies"]))


def _accuracies(results: Results) -> Table:
    rows = [
        (
            s["strategy"], percent(s["accuracy"]), percents(s["ci95"]),
            f"{s['extraction_failures']:,} of {s['responses']:,}", count(s.get("cut_off")),
            f"{s['tokens_generated']:,}", f"{s['seconds']:,.1f}",
        )
        for s in results["strategies"]
    ]  # fmt: skip
    dropped = [
        f"{s['strategy']}: {_left_out(s['dropped_paths'])}." for s in results["strategies"] if s["dropped_paths"]
    ]
    columns = ("strategy", "accuracy", "95% interval", "no answer", "cut off", "tokens", "seconds")
    return Table("Strategies", columns, rows, note=" ".join(dropped))


def _left_out(dropped: dict[str, int]) -> str:
    """How many paths of a strategy were not chosen from, and why."""
    total = sum(dropped.values())
    reasons = list(dropped) if len(dropped) == 1 else [f"{count:,} {reason}" for reason, count in dropped.items()]
    return f"{total:,} {'path was' if total == 1 else 'paths were'} left out of the choice ({', '.join(reasons)})"


def _comparisons(results: Results) -> Table:
    """The strategies against the first; where that changes with the swept option, by its value."""
    compared = results["comparisons"]
    first, *others = dict.fromkeys(c["a"] for c in compared)
    if not others:
        rows = [(c["b"], *difference_cells(c)) for c in compared]
        return Table(f"Against {first}, problem by problem", ("strategy", *DIFFERENCE), rows, note=tests_note(compared))
    option, lines = results["sweep"]["option"], results["sweep"]["lines"]
    values = {spec: value for line in lines for spec, value in zip(line["specs"], line["values"], strict=True)}
    names = {spec: line["strategy"] for line in lines for spec in line["specs"]}
    rows = [(f"{values[c['a']]:g}", names.get(c["b"], c["b"]), *difference_cells(c)) for c in compared]
    title = f"Against {names[first]} at each {option}, problem by problem"
    return Table(title, (option, "strategy", *DIFFERENCE), rows, left=2, note=tests_note(compared))


def difference_cells(compared: Results) -> tuple[str, ...]:
    """The cells of one comparison under `DIFFERENCE`."""
    low, high = compared["ci95"]
    return (
        f"{100 * compared['difference']:+.1f}", f"{100 * low:+.1f} to {100 * high:+.1f}",
        f"{compared['p_value']:.2g}", f"{compared['p_holm']:.2g}",
    )  # fmt: skip


def tests_note(compared: list[Results]) -> str:
    """What stands beneath a table of comparisons."""
    return f"Points; {' and '.join(sorted({c['test'] for c in compared}))}."


def _rows(samples: Path) -> Iterator[Row]:
    """A row a path; the paths of a problem follow each other, though the file goes by strategy."""
    places: dict[str, list[int]] = {}
    with samples.open("rb") as file:
        start = 0
        for number, line in enumerate(file, 1):
            try:
                places.setdefault(json.loads(line)["problem_id"], []).append(start)
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{samples} line {number} is broken: {error}") from error
            start += len(line)
        for name, starts in places.items():
            rows = []
            for start in starts:
                file.seek(start)
                rows.append(json.loads(file.readline()))
            yield from _paths(name, rows)


def _paths(problem: str, rows: list[Results]) -> Iterator[Row]:
    """The paths of every strategy for one problem, as the token viewer takes them."""
    graded = {rows[0]["gold"]: True} | {row["answer"]: row["correct"] for row in rows if row["answer"] is not None}
    signs = [row["correct"] for row in rows]
    tags = [f"{row['strategy']} {'right' if row['correct'] else 'wrong'}" for row in rows]
    if len(set(signs)) > 1:
        tags.insert(0, "strategies disagree")
    for row in rows:
        several = len(row["paths"]) > 1
        for i, path in enumerate(row["paths"]):
            name = f"{row['strategy']}, path {i}" if several else row["strategy"]
            picked = several and i == row["chosen"]
            yield {
                "id": f"{problem}/{row['strategy']}" + (f"/{i}" if several else ""), "group": problem, "label": name,
                "question": row["question"], "gold": row["gold"], "tags": tags, "marks": signs,
                "answer": path["answer"], "correct": path.get("correct", graded.get(path["answer"])),
                "picked": picked, "note": "; ".join(filter(None, (_note(path, picked), _votes(row) if picked else ""))),
                "token_ids": path["token_ids"], "tokens": path["tokens"], "gap": path["gaps"], "span": path["span"],
                "finish_reason": path["finish_reason"],
            }  # fmt: skip


def _note(path: Results, picked: bool) -> str:
    """The sureness of a path's answer, and what became of the path."""
    sure = "" if path["confidence"] is None else f"Δ {path['confidence']:.3f}"
    asked = f"answer after {path['continuation']!r}" if path["continuation"] else ""
    fate = f"left out: {path['dropped']}" if path["dropped"] else "its answer was taken" if picked else ""
    return ", ".join(filter(None, (sure, asked, fate)))


def _votes(row: Results) -> str:
    """The heaviest answers where the strategy votes: votes: 27 ×6, 25 ×3."""
    if not (row["strategy"].startswith("self-consistency") or "aggregate=true" in row["strategy"].lower()):
        return ""
    votes = sorted(row["votes"].items(), key=lambda vote: -vote[1])
    digits = 0 if all(float(weight).is_integer() for _, weight in votes) else 2
    told = [f"{answer} ×{weight:.{digits}f}" for answer, weight in votes[:VOTES]]
    more = f" and {len(votes) - VOTES:,} more" if len(votes) > VOTES else ""
    return f"votes: {', '.join(told)}{more}" if votes else "no votes"
