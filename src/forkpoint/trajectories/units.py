"""Long work in units of fixed items, journalled: a run started again does the same batches as one undisturbed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from forkpoint.engines import Engine
from forkpoint.files import Journal
from forkpoint.trajectories.rows import Row, from_row, sample_trajectories, trajectory_row
from forkpoint.types import Problem, Progress, Sampling, Trajectory

T = TypeVar("T")
SAMPLED_UNIT = 640  # responses of one unit of sampling: enough to keep an engine busy, little to lose


def silent(what: str, done: int, total: int, tokens: int) -> None:
    """The progress of a run that nobody watches."""


class Units:
    """The journal of a run and its progress. `seconds` is the time of all units, in earlier runs too."""

    def __init__(self, journal: Journal, progress: Progress | None) -> None:
        self.journal = journal
        self.progress = progress or silent
        self.seconds = 0.0

    def rows(
        self, stage: str, items: Sequence[T], size: int, do: Callable[[list[Sequence[T]]], Iterable[list[Row]]]
    ) -> list[Row]:
        """Do and journal every unit of `size` items that is not in the journal yet; the rows of all, in order.

        `do` takes several units and gives the rows of each, in order.
        """
        done: dict[int, list[Row]] = {}
        for entry in self.journal:
            if entry["stage"] == stage:
                done[entry["start"]] = entry["rows"]
                self.seconds += entry["seconds"]
        starts = range(0, len(items), size)
        tokens, begun = 0, time.monotonic()
        results = iter(do([items[start : start + size] for start in starts if start not in done]))
        for start in starts:
            if start not in done:
                done[start] = next(results)
                seconds, begun = time.monotonic() - begun, time.monotonic()
                self.seconds += seconds
                self.journal.append({"stage": stage, "start": start, "rows": done[start], "seconds": round(seconds, 3)})
                tokens += sum(row.get("tokens_generated", len(row.get("token_ids", ()))) for row in done[start])
            self.progress(stage, min(start + size, len(items)), len(items), tokens)
        return [row for start in starts for row in done[start]]

    def sampled(
        self, engine: Engine, problems: Sequence[Problem], sampling: Sampling, *, n: int, prompt: str
    ) -> tuple[list[Row], list[Trajectory]]:
        """n responses to each problem, as rows and as trajectories."""

        def sample(engine: Engine, part: Sequence[Problem]) -> list[Row]:
            trajectories = sample_trajectories(engine, part, sampling, n=n, prompt=prompt)
            return [trajectory_row(t, engine.tokenizer) for t in trajectories]

        size = max(1, SAMPLED_UNIT // n)
        rows = self.rows("sampled problems", problems, size, lambda parts: engine.map(sample, parts))
        by_id = {p.id: p for p in problems}
        return rows, [from_row(row, by_id[row["problem_id"]]) for row in rows]
