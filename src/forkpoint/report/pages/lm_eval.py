"""The page of an `lm-eval` run: every metric of every task with each strategy, and the logged samples side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from forkpoint.evaluation.lm_eval_files import RESULTS, samples_of
from forkpoint.report.content import Page, Table, cut_off_hint, cut_off_words, finished
from forkpoint.types import UserError

Entry = dict[str, Any]
SAMPLES_SHOWN = 2000  # rows
LONGEST = 400  # characters of a question or an answer
DIRECTIONS = {True: " ↑", False: " ↓"}


def page(run: Path) -> Page:
    """What results.json and the samples hold. UserError where one is missing or broken."""
    results = finished(run, RESULTS)
    shown = page_of_summary(results)
    try:
        samples = _samples(run, results["strategies"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"the samples in {run} cannot be read: {error}") from error
    return Page(shown.title, shown.lines, [*shown.sections, *samples])


def page_of_summary(results: Mapping[str, Any]) -> Page:
    """The sentence and tables of what `evaluate_tasks` returns."""
    entries = results["strategies"]
    tokens = "; ".join(
        f"{entry['strategy']}, {entry['tokens_generated']:,} tokens{cut_off_words(entry.get('cut_off'))}"
        for entry in entries
    )
    counted = ((f"{entry['strategy']} ", entry.get("cut_off"), entry.get("responses") or 0) for entry in entries)
    hint = cut_off_hint(*counted, option="max_tokens of the strategy")
    sections = [_figures("Tasks", "results", entries)]
    if any(entry.get("groups") for entry in entries):
        sections.append(_figures("Groups", "groups", entries))
    return Page(f"{results['model']} on {', '.join(results['tasks'])}", [tokens, *hint], sections)


def _figures(title: str, key: str, entries: list[Entry]) -> Table:
    """A row for each task, metric and strategy, so that the strategies of a metric stand beneath each other."""
    rows = [
        (
            task, _metric(entries[0], task, metric), entry["strategy"], f"{entry[key][task][metric]:.4f}",
            _stderr(entry[key][task], metric),
        )
        for task, figures in entries[0][key].items()
        for metric, value in figures.items()
        if isinstance(value, float) and "_stderr" not in metric
        for entry in entries
    ]  # fmt: skip
    asked = "; ".join(
        f"{task}: version {_plain(version)}, {entries[0]['n-shot'].get(task, 0)}-shot{_questions(entries[0], task)}"
        for task, version in entries[0].get("versions", {}).items()
        if task in entries[0][key]
    )
    columns = ("task", "metric", "strategy", "value", "stderr")
    return Table(title, columns, rows, left=3, note=asked and f"{asked}.")


def _metric(entry: Entry, task: str, metric: str) -> str:
    """A metric with lm-eval's arrow for what is better, and the filter that answers went through, if any."""
    name, _, filtered = metric.partition(",")
    better = entry.get("higher_is_better", {}).get(task, {}).get(name)
    return f"{name}{DIRECTIONS.get(better, '')}" + (f", {filtered}" if filtered not in ("", "none") else "")


def _stderr(figures: Entry, metric: str) -> str:
    name, _, filtered = metric.partition(",")
    value = figures.get(f"{name}_stderr,{filtered}")
    return f"{value:.4f}" if isinstance(value, float) else ""


def _questions(entry: Entry, task: str) -> str:
    count = entry.get("n-samples", {}).get(task, {}).get("effective")
    return "" if count is None else f", {count:,} question{'s' * (count != 1)}"


def _plain(version: Any) -> str:
    return f"{version:g}" if isinstance(version, float) else str(version)


def _samples(run: Path, entries: list[Entry]) -> list[Table]:
    """The questions with the strategies' answers beside each other, folded; nothing where there are none."""
    tasks = list(entries[0]["results"])
    found = list(islice(_answered(run, entries, tasks), SAMPLES_SHOWN + 1))
    if not found:
        return []
    several = [len({row[i] for row in found}) > 1 for i in (0, 1)]  # tasks, filters
    kept = [*(i for i in (0, 1) if several[i]), *range(2, 4 + len(entries))]
    columns = ("task", "filter", "question", "target", *(entry["strategy"] for entry in entries))
    rows = [tuple(row[i] for i in kept) for row in found[:SAMPLES_SHOWN]]
    note = "✓ right, ✗ wrong by the task's first metric."
    if len(found) > SAMPLES_SHOWN:
        note += f" The first {SAMPLES_SHOWN:,} rows; all are in the strategies' samples files."
    return [Table("Samples", [columns[i] for i in kept], rows, left=len(kept), note=note, folded=True)]


def _answered(run: Path, entries: list[Entry], tasks: list[str]) -> Iterator[tuple[str, ...]]:
    """Of each sample: task, filter, question, target, and an answer a strategy."""
    for task in tasks:
        paths = [run / entry["directory"] / samples_of(task) for entry in entries]
        if not all(path.is_file() for path in paths):  # a group has figures of its own, but no samples
            continue
        first = list(islice(_lines(paths[0]), SAMPLES_SHOWN + 1))
        keys = set(map(_key, first))
        others = [{_key(row): _answer(row) for row in _lines(path) if _key(row) in keys} for path in paths[1:]]
        for row in first:
            same = [other[_key(row)] for other in others]
            yield task, row["filter"], _question(row), _target(row), _answer(row), *same


def _lines(path: Path) -> Iterator[Entry]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _key(row: Entry) -> tuple[Any, str]:
    return row["doc_id"], row["filter"]


def _question(row: Entry) -> str:
    """The document's own question, or else the end of the prompt that was made of it."""
    own = row["doc"].get("question") if isinstance(row["doc"], dict) else None
    if isinstance(own, str):
        return _short(own)
    prompt = str(row["arguments"]["gen_args_0"]["arg_0"])
    return prompt if len(prompt) <= LONGEST else f"…{prompt[1 - LONGEST :]}"


def _choices(row: Entry) -> list[str]:
    """What a task of several choices let the model choose from; empty for other tasks."""
    given = row["arguments"].values()
    texts = [one["arg_1"] for one in given if isinstance(one.get("arg_1"), str)]
    return texts if len(texts) > 1 else []


def _target(row: Entry) -> str:
    choices, target = _choices(row), row["target"]
    own = target.isdecimal() and int(target) < len(choices)
    return choices[int(target)].strip() if own else _short(target)


def _answer(row: Entry) -> str:
    """What was read from the response, or the likeliest choice, and whether it is right."""
    found = row["filtered_resps"]
    if choices := _choices(row):
        likeliest = max(range(len(choices)), key=lambda i: float(found[i][0]))
        answer = choices[likeliest].strip()
    else:
        answer = ", ".join(one if isinstance(one, str) else str(one) for one in found)
    value = row.get(row["metrics"][0]) if row["metrics"] else None
    sign = "✓ " if value == 1 else "✗ " if value == 0 else ""
    return sign + _short(answer)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
