"""Trajectories: sampled from a task, in journalled units, read from a file, and written as rows.

A trajectory is token ids from its first moment to its last; nothing here makes ids from text.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from forkpoint.engines import Engine
from forkpoint.engines.checks import check_room
from forkpoint.files import SAMPLES, Journal
from forkpoint.jsonl import column, list_of, text
from forkpoint.lab.mistakes import cause_of_error
from forkpoint.tasks import grade_response, render_prompt
from forkpoint.tasks.data_sets import each_once, read_rows
from forkpoint.text import cut_at_stop, decode, pieces
from forkpoint.types import (
    Completion,
    FinishReason,
    Problem,
    Progress,
    Request,
    Sampling,
    TokenIds,
    Trajectory,
    UserError,
    check_texts,
)

if TYPE_CHECKING:
    from forkpoint.engines.loading import Vocabulary

Row = dict[str, Any]
T = TypeVar("T")
SAMPLED_UNIT = 640  # responses of one unit of sampling: enough to keep an engine busy, little to lose


def sample_trajectories(
    engine: Engine, problems: Sequence[Problem], sampling: Sampling, *, n: int, prompt: str
) -> list[Trajectory]:
    """n graded responses to each problem, in the problems' order; the ids are "PROBLEM/0", "PROBLEM/1", ..."""
    return [trajectory for trajectory, _ in sample_completions(engine, problems, sampling, n=n, prompt=prompt)]


def sample_completions(
    engine: Engine, problems: Sequence[Problem], sampling: Sampling, *, n: int, prompt: str
) -> list[tuple[Trajectory, Completion]]:
    """The trajectories of `sample_trajectories`, each with the engine's completion."""
    prompts = {p.id: render_prompt(p, prompt, engine.tokenizer) for p in problems}
    keys = [(f"{p.id}/{i}", p) for p in problems for i in range(n)]
    completions = {c.key: c for c in engine.generate([Request(k, prompts[p.id]) for k, p in keys], sampling)}
    pairs = []
    for key, problem in keys:
        c = completions[key]
        grade = grade_response(c.text, problem, cut_off=c.finish_reason == "length")
        known = key, problem, prompts[problem.id], c.token_ids, grade.extracted, grade.correct, c.finish_reason
        pairs.append((Trajectory(*known), c))
    return pairs


def load_trajectories(
    path: Path, problems: Sequence[Problem], engine: Engine | Vocabulary, stop: tuple[str, ...] = ()
) -> list[Trajectory]:
    """Trajectories from an `eval` run's directory or samples.jsonl (every path of every row), from critical.jsonl, or
    from any rows with `problem_id`, `prompt_ids` and `token_ids`; graded anew. Those of other problems are left out.

    UserError with file and line for a broken row, ids outside the vocabulary, ids that spell other tokens in this
    engine's tokenizer, and a repeated id.
    """
    check_texts("stop", stop)
    if path.is_dir():
        path /= SAMPLES
    by_id = {p.id: p for p in problems}

    def trajectories() -> Iterator[tuple[str, Trajectory]]:
        for where, row in read_rows(path):
            if problem := by_id.get(text(row, "problem_id", where)):
                name = text(row, "id", where) if "id" in row else problem.id
                for suffix, part in _parts(row, where):
                    yield where, _trajectory(part, f"{name}{suffix}", problem, engine, stop, where)

    none = f"{path} holds no trajectory of the task's {len(problems)} problems"
    return each_once(trajectories(), "trajectory", none)


def trajectory_row(trajectory: Trajectory, tokenizer: Any) -> Row:
    """The columns of every file about trajectories; `tokens` are the texts of the token ids.

    {"id": "lab/test/0/0/0", "problem_id": "lab/test/0/0", "question": "Tom has …", "prompt_ids": [34, 12],
     "token_ids": [78, 11, 0], "tokens": [" 1", "8", ""], "answer": "18", "gold": "18", "correct": true,
     "finish_reason": "stop", "cause": null}

    `cause` is that of the first error of a wrong response to a problem of the lab.
    """
    knows = trajectory.problem.wordings and not trajectory.correct
    return {
        "id": trajectory.id,
        "problem_id": trajectory.problem.id,
        "question": trajectory.problem.question,
        "prompt_ids": list(trajectory.prompt_ids),
        "token_ids": list(trajectory.token_ids),
        "tokens": pieces(tokenizer, trajectory.token_ids),
        "answer": trajectory.answer,
        "gold": trajectory.problem.answer,
        "correct": trajectory.correct,
        "finish_reason": trajectory.finish_reason,
        "cause": cause_of_error(trajectory.problem.id, decode(tokenizer, trajectory.token_ids)) if knows else None,
    }


def from_row(row: Row, problem: Problem) -> Trajectory:
    """The trajectory that `trajectory_row` wrote."""
    ids = tuple(row["prompt_ids"]), tuple(row["token_ids"])
    return Trajectory(row["id"], problem, *ids, row["answer"], row["correct"], row["finish_reason"])


def identities(trajectories: Iterable[Trajectory]) -> list[list[Any]]:
    """The identity of each trajectory, as plain data."""
    return [[t.id, t.problem.id, t.prompt_ids, t.token_ids] for t in trajectories]


def check_prompts(engine: Engine, problems: Iterable[Problem], prompt: str, max_tokens: int) -> None:
    """UserError for the first problem whose prompt leaves no room for a response of `max_tokens`."""
    check_room(engine, ((p.id, len(render_prompt(p, prompt, engine.tokenizer)) + max_tokens) for p in problems))


def finished(trajectory: Trajectory, sampling: Sampling) -> bool:
    """Whether nothing can follow: it ended by itself or has max_tokens tokens. UserError if it has more than that."""
    n = len(trajectory.token_ids)
    if n > sampling.max_tokens:
        raise UserError(
            f"trajectory {trajectory.id} has {n} tokens, more than the {sampling.max_tokens} that a rollout may have"
        )
    return trajectory.finish_reason == "stop" or n == sampling.max_tokens


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
        """The rows of all units of `size` items, in order; `do` gives those of each unit that is not journalled yet."""
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
        rows = self.rows("sampled problems", problems, size, partial(engine.map, sample))
        by_id = {p.id: p for p in problems}
        return rows, [from_row(row, by_id[row["problem_id"]]) for row in rows]


def _parts(row: Mapping[str, Any], where: str) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """A row's trajectories with what to add to its id: the paths of an `eval` row, else the row itself."""
    if "paths" not in row:
        return [("", row)]
    paths = list_of(row, "paths", dict, where)
    prompt = column(row, "prompt_ids", where)
    return [(f"/{row.get('strategy', '')}/{i}", {**path, "prompt_ids": prompt}) for i, path in enumerate(paths)]


def _trajectory(
    row: Mapping[str, Any], name: str, problem: Problem, engine: Engine | Vocabulary, stop: tuple[str, ...], where: str
) -> Trajectory:
    prompt, ids = (ids_of(row, key, engine.vocab_size, where, model=engine.name) for key in ("prompt_ids", "token_ids"))
    check_spelling(row, ids, engine.tokenizer, where, model=engine.name)
    early = next((i for i, token in enumerate(ids[:-1]) if token in engine.ends), None)
    if early is not None:
        raise UserError(f"{where}: token {early} ends the response, but {len(ids) - 1 - early} tokens follow it")
    whole = decode(engine.tokenizer, ids)
    response = cut_at_stop(whole, stop)
    ended = ids[-1] in engine.ends or response != whole
    reason: Any = row.get("finish_reason") or ("stop" if ended else "length")
    if reason not in get_args(FinishReason):
        raise UserError(f"{where}: finish_reason must be stop or length, but is {reason!r}")
    grade = grade_response(response, problem, cut_off=reason == "length" and not ended)
    return Trajectory(name, problem, prompt, ids, grade.extracted, grade.correct, reason)


def ids_of(
    row: Mapping[str, Any], key: str, vocab_size: int, where: str, *, model: str, what: str = "trajectories"
) -> TokenIds:
    """A column of at least one token id, all of the model's vocabulary; `what` names the rows to the user."""
    values = list_of(row, key, int, where)
    if wrong := [value for value in values if not 0 <= value < vocab_size]:
        raise UserError(
            f"{where}: {key} holds {wrong[0]}, but the ids of {model} go from 0 to {vocab_size - 1}; "
            f"the {what} come from another tokenizer"
        )
    if not values:
        raise UserError(f"{where}: {key} is empty")
    return tuple(values)


def check_spelling(row: Mapping[str, Any], ids: TokenIds, tokenizer: Any, where: str, *, model: str) -> None:
    """UserError for ids whose texts in this tokenizer are not the row's `tokens`, where it has any."""
    if row.get("tokens") is None:
        return
    written, spelled = list_of(row, "tokens", str, where), pieces(tokenizer, ids)
    if written != spelled:
        at = next((i for i, (a, b) in enumerate(zip(written, spelled, strict=False)) if a != b), len(spelled))
        raise UserError(
            f"{where}: token {at} is {written[at : at + 1]} there but {spelled[at : at + 1]} for {model}; "
            "the trajectories come from another tokenizer"
        )
