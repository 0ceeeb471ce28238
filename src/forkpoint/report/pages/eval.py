"""The page of an `eval` run: accuracies with their intervals, the comparisons, and every path, token by token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from forkpoint.evaluation.evaluate import RESULTS, SAMPLES
from forkpoint.report.content import Chart, Page, Row, Table, Tokens, finished, percent, percents
from forkpoint.report.figures.accuracy import accuracy_svg
from forkpoint.report.figures.sweep import sweep_svg
from forkpoint.types import UserError

Results = dict[str, Any]


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
        f"With {n:,} problems a difference under about {100 * results['minimum_detectable_difference']:.1f} points is "
        "likely to be missed.",
    ]
    sections: list[Table | Chart] = [_chart(results), _accuracies(results)]
    if results["comparisons"]:
        sections.append(_comparisons(results))
    return Page(f"Decoding strategies: {results['model']} on {results['task']}", lines, sections)


def _chart(results: Results) -> Chart:
    if results.get("sweep"):
        return Chart(f"Accuracy against {results['sweep']['option']}", partial(sweep_svg, results))
    return Chart("Accuracy with 95% intervals", partial(accuracy_svg, results["strategies"]))


def _accuracies(results: Results) -> Table:
    rows = [
        (
            s["strategy"], percent(s["accuracy"]), percents(s["ci95"]),
            f"{s['extraction_failures']:,} of {s['responses']:,}", f"{s['tokens_generated']:,}", f"{s['seconds']:,.1f}",
        )
        for s in results["strategies"]
    ]  # fmt: skip
    dropped = [
        f"{s['strategy']} left out of its choice: "
        + ", ".join(f"{count:,} path{'s' * (count != 1)} ({reason})" for reason, count in s["dropped_paths"].items())
        for s in results["strategies"]
        if s["dropped_paths"]
    ]
    columns = ("strategy", "accuracy", "95% interval", "no answer", "tokens", "seconds")
    return Table("Strategies", columns, rows, note=". ".join(dropped))


def _comparisons(results: Results) -> Table:
    first = results["comparisons"][0]["a"]
    tests = " and ".join(sorted({c["test"] for c in results["comparisons"]}))
    rows = [
        (
            c["b"], f"{100 * c['difference']:+.1f}", f"{100 * c['ci95'][0]:+.1f} to {100 * c['ci95'][1]:+.1f}",
            f"{c['p_value']:.2g}", f"{c['p_holm']:.2g}",
        )
        for c in results["comparisons"]
    ]  # fmt: skip
    columns = ("strategy", "difference", "95% interval", "p", "p (Holm)")
    return Table(f"Against {first}, problem by problem", columns, rows, note=f"Points; {tests}.")


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
            yield {
                "id": f"{problem}/{row['strategy']}" + (f"/{i}" if several else ""), "group": problem, "label": name,
                "question": row["question"], "gold": row["gold"], "tags": tags, "marks": signs,
                "answer": path["answer"], "correct": path.get("correct", graded.get(path["answer"])),
                "picked": several and i == row["chosen"], "note": _note(path, several and i == row["chosen"]),
                "token_ids": path["token_ids"], "tokens": path["tokens"], "gap": path["gaps"], "span": path["span"],
                "finish_reason": path["finish_reason"],
            }  # fmt: skip


def _note(path: Results, picked: bool) -> str:
    """The sureness of a path's answer, and what became of the path."""
    sure = "" if path["confidence"] is None else f"Δ {path['confidence']:.3f}"
    asked = f"answer after {path['continuation']!r}" if path["continuation"] else ""
    fate = f"left out: {path['dropped']}" if path["dropped"] else "its answer was taken" if picked else ""
    return ", ".join(filter(None, (sure, asked, fate)))
