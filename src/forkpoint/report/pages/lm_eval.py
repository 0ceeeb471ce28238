"""The page of an `lm-eval` run: every metric of every task with each strategy, and the logged samples side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from forkpoint.evaluation.lm_eval_tasks import RESULTS, samples_of
from forkpoint.jsonl import Row
from forkpoint.report.content import Page, Table, cut_off_hint

FILES = (RESULTS,)
SAMPLES_SHOWN = 2000  # rows
LONGEST = 400  # characters of a question or an answer
DIRECTIONS = {True: " ↑", False: " ↓"}


def page(results: Row, run: Path | None = None) -> Page:
    """What `evaluate_tasks` returns, and the samples."""
    entries = results["strategies"]
    tokens = "; ".join("{strategy}, {tokens_generated:,} tokens, {cut_off:,} cut off".format_map(e) for e in entries)
    counted = ((f"{entry['strategy']} ", entry["cut_off"], entry["responses"]) for entry in entries)
    hint = cut_off_hint(*counted, option="max_tokens of the strategy")
    sections = [_figures("Tasks", "results", entries)]
    if any(entry.get("groups") for entry in entries):
        sections.append(_figures("Groups", "groups", entries))
    if run:
        sections += _samples(run, entries)
    return Page(f"{results['model']} on {', '.join(results['tasks'])}", [tokens, *hint], sections)


def _figures(title: str, key: str, entries: Sequence[Row]) -> Table:
    """A row for each task, metric and strategy, so that the strategies of a metric stand beneath each other."""
    first, rows, asked = entries[0], [], []
    for task, figures in first[key].items():
        for metric, value in figures.items():
            if not isinstance(value, float) or "_stderr" in metric:
                continue
            name, _, filtered = metric.partition(",")  # which answers went through
            better = first.get("higher_is_better", {}).get(task, {}).get(name)
            label = f"{name}{DIRECTIONS.get(better, '')}" + (f", {filtered}" if filtered not in ("", "none") else "")
            for entry in entries:
                own = entry[key][task]
                stderr = own.get(f"{name}_stderr,{filtered}")
                cell = f"{stderr:.4f}" if isinstance(stderr, float) else ""
                rows.append((task, label, entry["strategy"], f"{own[metric]:.4f}", cell))
    for task, version in first.get("versions", {}).items():
        if task in first[key]:
            n = first.get("n-samples", {}).get(task, {}).get("effective")
            questions = "" if n is None else f", {n:,} question{'s' * (n != 1)}"
            plain = f"{version:g}" if isinstance(version, float) else version
            asked.append(f"{task}: version {plain}, {first['n-shot'].get(task, 0)}-shot{questions}")
    note = f"{'; '.join(asked)}." if asked else ""
    return Table(title, ("task", "metric", "strategy", "value", "stderr"), rows, left=3, note=note)


def _samples(run: Path, entries: Sequence[Row]) -> list[Table]:
    """The questions with the strategies' answers beside each other, folded; nothing where there are none."""
    answered = list(islice(_answered(run, entries), SAMPLES_SHOWN + 1))
    if not answered:
        return []
    several = [len({row[i] for row in answered}) > 1 for i in (0, 1)]  # tasks, filters
    kept = [*(i for i in (0, 1) if several[i]), *range(2, 4 + len(entries))]
    columns = ("task", "filter", "question", "target", *(entry["strategy"] for entry in entries))
    rows = [tuple(row[i] for i in kept) for row in answered[:SAMPLES_SHOWN]]
    note = "✓ right, ✗ wrong by the task's first metric."
    if len(answered) > SAMPLES_SHOWN:
        note += f" The first {SAMPLES_SHOWN:,} rows; all are in the strategies' samples files."
    return [Table("Samples", [columns[i] for i in kept], rows, left=len(kept), note=note, folded=True)]


def _answered(run: Path, entries: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    """Of each sample: task, filter, question, target, and an answer a strategy."""
    for task in entries[0]["results"]:
        paths = [run / entry["directory"] / samples_of(task) for entry in entries]
        if not all(path.is_file() for path in paths):  # a group has figures of its own, but no samples
            continue
        first = list(islice(_lines(paths[0]), SAMPLES_SHOWN + 1))
        keys = set(map(_key, first))
        answers_of = [{_key(row): _answer(row) for row in _lines(path) if _key(row) in keys} for path in paths[1:]]
        for row in first:
            more = [answers[_key(row)] for answers in answers_of]
            yield task, row["filter"], _question(row), _target(row), _answer(row), *more


def _lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _key(row: Row) -> tuple[Any, str]:
    return row["doc_id"], row["filter"]


def _question(row: Row) -> str:
    """The document's own question, or else the end of the prompt that was made of it."""
    own = row["doc"].get("question") if isinstance(row["doc"], dict) else None
    if isinstance(own, str):
        return _short(own)
    prompt = str(row["arguments"]["gen_args_0"]["arg_0"])
    return prompt if len(prompt) <= LONGEST else f"…{prompt[1 - LONGEST :]}"


def _choices(row: Row) -> list[str]:
    """What a task of several choices let the model choose from; empty for other tasks."""
    texts = [one["arg_1"].strip() for one in row["arguments"].values() if isinstance(one.get("arg_1"), str)]
    return texts if len(texts) > 1 else []


def _target(row: Row) -> str:
    choices, target = _choices(row), row["target"]
    return choices[int(target)] if target.isdecimal() and int(target) < len(choices) else _short(target)


def _answer(row: Row) -> str:
    """What was read from the response, or the likeliest choice, and whether it is right."""
    responses = row["filtered_resps"]
    answer = ", ".join(map(str, responses))
    if choices := _choices(row):
        answer = choices[max(range(len(choices)), key=lambda i: float(responses[i][0]))]
    value = row.get(row["metrics"][0]) if row["metrics"] else None
    sign = "✓ " if value == 1 else "✗ " if value == 0 else ""
    return sign + _short(answer)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
