"""A static selection as labels for any trainer: a store's rows with `labels`, -100 for tokens that are left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from forkpoint import __version__
from forkpoint.files import claimed, fingerprint, read_json, to_json, write_whole
from forkpoint.scores.dynamics import DOCUMENTS
from forkpoint.scores.store import Store, describe_files, lists, write_arrow
from forkpoint.tasks.data_sets import read_rows
from forkpoint.training.sft import IGNORED
from forkpoint.training.store_batches import Rows, collate
from forkpoint.trajectories.rows import SUMMARY
from forkpoint.types import Results, UserError
from forkpoint.weights.rules import NONE, SCORES, Rule, check_rule, rankings, select

TOKENS_AT_ONCE, TOKENS_IN_A_FILE = 2**18, 2**22  # at most, where rows are as long as the store's may be
Ranked = Literal["sequence", "corpus"]
Batch = dict[str, Tensor]
Progress = Callable[[str, int, int, int], None]


def export_labels(
    store: Store, rule: Rule, out: Path, *, scope: Ranked = "sequence", seed: int = 0, progress: Progress | None = None
) -> dict[str, Any]:
    """Write the store's rows as a data set that `datasets.load_from_disk` reads; returns summary.json's content.

    A row has `input_ids` and `labels`, aligned: the id of a selected token, else -100. What is ranked together is each
    row (`sequence`) or all of the store (`corpus`), in place of the rule's own scope. Of the rows whose texts the store
    holds, documents.jsonl says which tokens are selected. Raises UserError for a rule that
    reads the trained model's loss, or scores that the store has not.
    """
    check_rule(rule)
    if rule.score == NONE or not rule.is_static:
        raise UserError(f"labels can be written for a rule that knows its tokens before training, but not {rule.score}")
    if rule.needs_reference and not store.has_scores:
        raise UserError(f"the rule {rule.score} needs a reference model's scores, but {store.path} has none")
    settings = {
        "verb": "select", "rule": rule.score, "ratio": rule.ratio, "entropy_ratio": rule.entropy_ratio, "scope": scope,
        "seed": seed, "store": fingerprint([shard.digest for shard in store.shards]), "version": __version__,
    }  # fmt: skip
    with claimed(out, settings):
        if not (out / SUMMARY).exists():
            keep = _in_rows(rule) if scope == "sequence" else _in_all(store, rule, seed)
            counts = _write(store, keep, out, seed, progress)
            _write_documents(store, keep, out, seed)
            write_whole(out / SUMMARY, to_json(settings | counts, indent=2) + "\n")
    return Results(read_json(out / SUMMARY))


def _batches(store: Store, seed: int, first: int, last: int) -> Iterator[tuple[int, Batch]]:
    """Rows first..last-1 as batches, each with its first row's index."""
    rows = Rows(store, seed)
    step = max(1, TOKENS_AT_ONCE // store.context.length)
    for begin in range(first, last, step):
        yield begin, collate([rows[i] for i in range(begin, min(begin + step, last))])


def _in_rows(rule: Rule) -> Callable[[Batch], Bool[Tensor, " n"]]:
    """A function from a batch to the tokens that are kept when each row is ranked by itself."""
    return lambda batch: select(batch, replace(rule, scope="sequence"), batch["owner"]).kept


def _in_all(store: Store, rule: Rule, seed: int) -> Callable[[Batch], Bool[Tensor, " n"]]:
    """The same for a ranking of the whole store.

    Scores are float16, so counting each of their values finds the last one that is kept; of tokens with just that value
    those with the lowest chance are kept, as many as are wanting in expectation.
    """
    if rule.score == "random":
        return lambda batch: batch["chance"] < rule.ratio
    counts = {name: np.zeros(2**16, dtype=np.int64) for name, _ in rankings(rule)}
    for _, batch in _batches(store, seed, 0, len(store)):
        for name, count in counts.items():
            values = SCORES[name].of(batch).numpy().astype(np.float16)
            count += np.bincount(values.view(np.uint16), minlength=2**16)  # grows with the value: none is negative
    limits = {name: _limit(counts[name], ratio) for name, ratio in rankings(rule)}

    def keep(batch: Batch) -> Tensor:
        kept = []
        for name, (value, share) in limits.items():
            scores = SCORES[name].of(batch)
            kept.append((scores < value) | ((scores == value) & (batch["chance"] < share)))
        combine = torch.logical_or if rule.score == "union" else torch.logical_and
        return combine(kept[0], kept[-1])

    return keep


def _limit(counts: np.ndarray, ratio: float) -> tuple[float, float]:
    """The highest value that is kept when the lowest ones are, and the share of its tokens that is."""
    wanted = ratio * counts.sum()
    ends = counts.cumsum()
    last = int(np.searchsorted(ends, wanted))
    share = 1 - (ends[last] - wanted) / counts[last]
    return float(np.array([last], dtype=np.uint16).view(np.float16)[0]), float(share)


def _write_documents(store: Store, keep: Callable[[Batch], Tensor], out: Path, seed: int) -> None:
    """Write the store's documents.jsonl, if it has one, with `selected`: 1, 0, or null for what is not predicted."""
    path = store.path / DOCUMENTS
    lines = [dict(line) for _, line in read_rows(path)] if path.is_file() else []
    for begin, batch in _batches(store, seed, 0, len(lines)):
        selected = torch.full_like(batch["input_ids"], -1)
        selected.view(-1)[batch["rows"] + 1] = keep(batch).to(selected.dtype)
        for line, marks in zip(lines[begin:], selected.tolist(), strict=False):
            line["selected"] = [None if mark < 0 else mark for mark in marks[: len(line["token_ids"])]]
    if lines:
        write_whole(out / DOCUMENTS, (to_json(line) + "\n" for line in lines))


def _write(
    store: Store, keep: Callable[[Batch], Tensor], out: Path, seed: int, progress: Progress | None
) -> dict[str, int]:
    """Write the files; returns the numbers of rows, of tokens that could be selected, and of those that are."""
    files: list[str] = []
    could = are = 0
    size = max(1, TOKENS_IN_A_FILE // store.context.length)
    for number, first in enumerate(range(0, len(store), size)):
        ids: list[np.ndarray] = []
        labels: list[np.ndarray] = []
        for begin, batch in _batches(store, seed, first, min(first + size, len(store))):
            kept = keep(batch)
            grid = torch.full_like(batch["input_ids"], IGNORED)
            grid.view(-1)[batch["rows"][kept] + 1] = batch["targets"][kept]
            lengths = batch["attention_mask"].sum(1).tolist()
            for rows, column in ((batch["input_ids"], ids), (grid, labels)):
                column += [row[:n] for row, n in zip(rows.numpy().astype(np.int32), lengths, strict=True)]
            could, are = could + len(kept), are + int(kept.sum())
            if progress:
                progress("rows", begin + len(lengths), len(store), could)
        files.append(f"data-{number:05}.arrow")
        write_arrow(out / files[-1], {"input_ids": lists(ids, np.int32), "labels": lists(labels, np.int32)})
    describe_files(out, files, "labels")
    return {"rows": len(store), "counted_tokens": could, "selected_tokens": are}
