"""Long work in units of fixed items, journalled: started again, a run does the same batches as one undisturbed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

from forkpoint.engines import Engine
from forkpoint.files import Journal
from forkpoint.trajectories.rows import Row, from_row, sample_trajectories, trajectory_row
from forkpoint.types import Problem, Sampling, Trajectory

T = TypeVar("T")
SAMPLED_UNIT = 640  # responses of one unit of sampling: enough to keep an engine busy, little to lose
Progress = Callable[[str, int, int, int], None]
"""Called with what is done, how many of how many, and the tokens of this stage so far."""


class Told:
    """Whom to tell of progress: nobody in the process of an engine's replica, where a copy of this one is silent."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress

    def __call__(self, what: str, done: int, of: int, tokens: int) -> None:
        if self._progress is not None:
            self._progress(what, done, of, tokens)

    def __reduce__(self) -> tuple[Any, ...]:
        return Told, (None,)


class Units:
    """The journal of a run, and whom to tell of its progress. `seconds`: what all units took, in earlier runs too."""

    def __init__(self, journal: Journal, progress: Progress | None) -> None:
        self.journal = journal
        self.progress = Told(progress)
        self.seconds = 0.0

    def rows(
        self, stage: str, items: Sequence[T], size: int, do: Callable[[Sequence[Sequence[T]]], Iterable[list[Row]]]
    ) -> list[Row]:
        """Do and journal every unit of `size` items that is not in the journal yet; the rows of all, in order.

        `do` gives the rows of each of several units, in order: `partial(engine.map, work)` or `partial(map, work)`.
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
            drawn = sample_trajectories(engine, part, sampling, n=n, prompt=prompt)
            return [trajectory_row(t, engine.tokenizer) for t in drawn]

        rows = self.rows("sampled problems", problems, max(1, SAMPLED_UNIT // n), partial(engine.map, sample))
        by_id = {p.id: p for p in problems}
        return rows, [from_row(row, by_id[row["problem_id"]]) for row in rows]
