"""A static selection as labels for any trainer: a store's rows with `labels`, -100 for tokens that are left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from forkpoint import __version__
from forkpoint.files import SUMMARY, fingerprint, resumed, write_rows
from forkpoint.scores.dynamics import DOCUMENTS
from forkpoint.scores.store import Store, describe_files, lists, write_arrow
from forkpoint.tasks.data_sets import read_rows
from forkpoint.training.store_batches import IGNORED, Rows, check_scores, collate
from forkpoint.types import Progress, UserError
from forkpoint.weights.rules import RULES, UNIFORM, Rule, check_rule, select

TOKENS_AT_ONCE, TOKENS_IN_A_FILE = 2**18, 2**22  # at most, where rows are as long as the store's may be
Ranked = Literal["sequence", "corpus"]
Batch = dict[str, Tensor]
Keep = Callable[[Batch], Tensor]


def export_labels(
    store: Store, rule: Rule, out: Path, *, scope: Ranked = "sequence", seed: int = 0, progress: Progress | None = None
) -> dict[str, Any]:
    """Write the store's rows as a data set that `datasets.load_from_disk` reads; returns summary.json's content.

    A row has `input_ids` and `labels`, aligned: the id of a selected token, else -100. What is ranked together is each
    row (`sequence`) or all of the store (`corpus`), in place of the rule's own scope. Of the rows whose texts the store
    holds, documents.jsonl says which tokens are selected. UserError for a rule that reads the trained model's loss, or
    scores that the store has not.
    """
    check_rule(rule)
    if rule.score == UNIFORM or not rule.is_static:
        raise UserError(f"labels can be written for a rule that knows its tokens before training, but not {rule.score}")
    check_scores(rule, store, None)
    settings = {
        "verb": "select", "rule": rule.score, "ratio": rule.ratio, "entropy_ratio": rule.entropy_ratio, "scope": scope,
        "seed": seed, "store": fingerprint([shard.digest for shard in store.shards]), "version": __version__,
    }  # fmt: skip

    def work(_: object) -> dict[str, Any]:
        keep = _in_rows(rule) if scope == "sequence" else _in_all(store, rule, seed)
        counts = _write(store, keep, out, seed, progress)
        _write_documents(store, keep, out, seed)
        return settings | counts

    return resumed(out, settings, SUMMARY, work)


def _batches(store: Store, seed: int, first: int, last: int) -> Iterator[tuple[int, Batch]]:
    """Rows first..last-1 as batches, each with its first row's index."""
    rows = Rows(store, seed)
    step = max(1, TOKENS_AT_ONCE // store.context.length)
    for begin in range(first, last, step):
        yield begin, collate([rows[i] for i in range(begin, min(begin + step, last))])


def _in_rows(rule: Rule) -> Keep:
    """A function from a batch to the tokens that are kept when each row is ranked by itself."""
    by_row = replace(rule, scope="sequence")
    return lambda batch: select(batch, by_row, batch["owner"]).kept


@dataclass
class _CorpusRanks:
    """Lowest ranks of the whole store, in two passes: the first counts each value of a score, the second keeps tokens.

    Scores are float16 and none is negative, so their bits grow with them, and counting them finds the last value that
    is kept; of tokens with just that value those with the lowest chance are kept, as many as are wanting on average.
    """

    rule: Rule
    counts: dict[str, np.ndarray] = field(default_factory=dict)
    limits: dict[str, tuple[float, float]] = field(default_factory=dict)
    chance: Tensor = field(default_factory=lambda: torch.empty(0))

    def low(self, score: str, values: Tensor) -> Tensor:
        if score == "random":
            return values < self.rule.ratio
        if score not in self.limits:
            bits = values.numpy().astype(np.float16).view(np.uint16)
            self.counts[score] = self.counts.get(score, 0) + np.bincount(bits, minlength=2**16)
            return torch.zeros(len(values), dtype=torch.bool)
        limit, share = self.limits[score]
        return (values < limit) | ((values == limit) & (self.chance < share))

    def settle(self) -> None:
        """From counts to limits: the highest value that is kept, and the share of its tokens that is."""
        for score, counts in self.counts.items():
            wanted, ends = self.rule.share(score) * counts.sum(), counts.cumsum()
            last = int(np.searchsorted(ends, wanted))
            share = 1 - (ends[last] - wanted) / counts[last]
            self.limits[score] = float(np.array([last], dtype=np.uint16).view(np.float16)[0]), float(share)


def _in_all(store: Store, rule: Rule, seed: int) -> Keep:
    """A function from a batch to the tokens that are kept when the whole store is ranked together."""
    ranks = _CorpusRanks(rule)

    def keep(batch: Batch) -> Tensor:
        ranks.chance = batch["chance"]
        return RULES[rule.score].weigh(batch, ranks)

    if rule.score != "random":
        for _, batch in _batches(store, seed, 0, len(store)):
            keep(batch)
        ranks.settle()
    return keep


def _write_documents(store: Store, keep: Keep, out: Path, seed: int) -> None:
    """Write the store's documents.jsonl, if it has one, with `selected`: 1, 0, or null for what is not predicted."""
    path = store.path / DOCUMENTS
    lines = [dict(line) for _, line in read_rows(path)] if path.is_file() else []
    for begin, batch in _batches(store, seed, 0, len(lines)):
        selected = torch.full_like(batch["input_ids"], -1)
        selected.view(-1)[batch["rows"] + 1] = keep(batch).to(selected.dtype)
        for line, marks in zip(lines[begin:], selected.tolist(), strict=False):
            line["selected"] = [None if mark < 0 else mark for mark in marks[: len(line["token_ids"])]]
    if lines:
        write_rows(out / DOCUMENTS, lines)


def _write(store: Store, keep: Keep, out: Path, seed: int, progress: Progress | None) -> dict[str, int]:
    """Write the files; returns the numbers of rows, of tokens that could be selected, and of those that are."""
    files: list[str] = []
    could = are = 0
    size = max(1, TOKENS_IN_A_FILE // store.context.length)
    for number, first in enumerate(range(0, len(store), size)):
        columns: dict[str, list[np.ndarray]] = {"input_ids": [], "labels": []}
        for begin, batch in _batches(store, seed, first, min(first + size, len(store))):
            kept = keep(batch)
            grid = torch.full_like(batch["input_ids"], IGNORED)
            grid.view(-1)[batch["rows"][kept] + 1] = batch["targets"][kept]
            lengths = batch["attention_mask"].sum(1).tolist()
            for name, rows in (("input_ids", batch["input_ids"]), ("labels", grid)):
                columns[name] += [row[:n] for row, n in zip(rows.numpy().astype(np.int32), lengths, strict=True)]
            could, are = could + len(kept), are + int(kept.sum())
            if progress:
                progress("rows", begin + len(lengths), len(store), could)
        files.append(f"data-{number:05}.arrow")
        write_arrow(out / files[-1], {name: lists(values, np.int32) for name, values in columns.items()})
    describe_files(out, files, "labels")
    return {"rows": len(store), "counted_tokens": could, "selected_tokens": are}
