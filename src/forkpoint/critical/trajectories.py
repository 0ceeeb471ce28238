"""Trajectories: sampled from a task, read from a file, and written as rows.

A trajectory is token ids from its first moment to its last; nothing here makes ids from text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from forkpoint.engines import Engine
from forkpoint.engines.stopping import cut_at_stop, decode, decode_with_offsets
from forkpoint.tasks import grade_response, render_prompt
from forkpoint.types import FinishReason, Problem, Request, Sampling, TokenIds, Trajectory, UserError

Row = dict[str, Any]
SAMPLES, CRITICAL, SUMMARY = "samples.jsonl", "critical.jsonl", "summary.json"  # what a run's directory holds


def sample_trajectories(
    engine: Engine, problems: Sequence[Problem], sampling: Sampling, *, n: int, prompt: str
) -> list[Trajectory]:
    """n graded responses to each problem, in the problems' order; the ids are "PROBLEM/0", "PROBLEM/1", ..."""
    prompts = {p.id: render_prompt(p, prompt, engine.tokenizer) for p in problems}
    requests = [Request(f"{p.id}/{i}", prompts[p.id]) for p in problems for i in range(n)]
    done = {c.key: c for c in engine.generate(requests, sampling)}
    found = []
    for problem in problems:
        for i in range(n):
            c = done[f"{problem.id}/{i}"]
            grade = grade_response(c.text, problem)
            found.append(
                Trajectory(c.key, problem, prompts[problem.id], c.token_ids, grade.extracted, grade.correct,
                           c.finish_reason)
            )  # fmt: skip
    return found


def load_trajectories(
    path: Path, problems: Sequence[Problem], engine: Engine, stop: tuple[str, ...] = ()
) -> list[Trajectory]:
    """Trajectories from an `eval` run's directory or samples.jsonl (every path of every row), from critical.jsonl, or
    from any JSON Lines with `problem_id`, `prompt_ids` and `token_ids`; graded anew against the problems.

    Rows of problems that are not among the given ones are left out. Raises UserError with file and line for a broken
    row, ids outside the vocabulary, ids that spell other tokens in this engine's tokenizer, and a repeated id.
    """
    if path.is_dir():
        path /= SAMPLES
    by_id = {p.id: p for p in problems}
    found: dict[str, Trajectory] = {}
    for number, row in _rows(path):
        where = f"{path}, line {number}"
        problem = by_id.get(_field(row, "problem_id", str, where))
        if problem is None:
            continue
        for suffix, part in _parts(row):
            one = _trajectory(part, f"{row.get('id', row['problem_id'])}{suffix}", problem, engine, stop, where)
            if one.id in found:
                raise UserError(f"{where}: the trajectory {one.id!r} is there twice")
            found[one.id] = one
    if not found:
        raise UserError(f"{path} holds no trajectory of the task's {len(problems)} problems")
    return list(found.values())


def trajectory_row(trajectory: Trajectory, tokenizer: Any) -> Row:
    """What every file about trajectories says of one: `tokens` are the pieces of text, one a token id."""
    text, offsets = decode_with_offsets(tokenizer, trajectory.token_ids)
    return {
        "id": trajectory.id,
        "problem_id": trajectory.problem.id,
        "question": trajectory.problem.question,
        "prompt_ids": list(trajectory.prompt_ids),
        "token_ids": list(trajectory.token_ids),
        "tokens": [text[start:end] for start, end in offsets],
        "answer": trajectory.answer,
        "gold": trajectory.problem.answer,
        "correct": trajectory.correct,
        "finish_reason": trajectory.finish_reason,
    }


def from_row(row: Row, problem: Problem) -> Trajectory:
    """The trajectory that `trajectory_row` wrote."""
    return Trajectory(
        row["id"], problem, tuple(row["prompt_ids"]), tuple(row["token_ids"]), row["answer"], row["correct"],
        row["finish_reason"],
    )  # fmt: skip


def identities(trajectories: Iterable[Trajectory]) -> list[list[Any]]:
    """What makes trajectories the same ones, as plain data."""
    return [[t.id, t.problem.id, t.prompt_ids, t.token_ids] for t in trajectories]


def check_room(engine: Engine, lengths: Iterable[tuple[str, int]]) -> None:
    """Raise UserError for the first (name, tokens) that is longer than what the engine reads."""
    for name, length in lengths:
        if engine.context and length > engine.context:
            raise UserError(f"{name} may have {length} tokens, but {engine.name} reads at most {engine.context}")


def finished(trajectory: Trajectory, sampling: Sampling) -> bool:
    """Whether nothing can follow: it ended by itself or has max_tokens tokens. UserError if it has more than that."""
    n = len(trajectory.token_ids)
    if n > sampling.max_tokens:
        raise UserError(
            f"trajectory {trajectory.id} has {n} tokens, more than the {sampling.max_tokens} that a rollout may have"
        )
    return trajectory.finish_reason == "stop" or n == sampling.max_tokens


def _rows(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("not an object")
                yield number, row
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}, line {number}: expected a JSON object: {error}") from error


def _parts(row: Row) -> Iterable[tuple[str, Row]]:
    """A row's trajectories with what to add to its id: the paths of an `eval` row, else the row itself."""
    if isinstance(row.get("paths"), list):
        spec = row.get("strategy", "")
        return [(f"/{spec}/{i}", {**path, "prompt_ids": row["prompt_ids"]}) for i, path in enumerate(row["paths"])]
    return [("", row)]


def _trajectory(row: Row, name: str, problem: Problem, engine: Engine, stop: tuple[str, ...], where: str) -> Trajectory:
    prompt, ids = (_ids(row, key, engine, where) for key in ("prompt_ids", "token_ids"))
    _check_spelling(row, ids, engine, where)
    ended = bool(ids) and ids[-1] in engine.ends
    text = decode(engine.tokenizer, ids)
    reason: FinishReason = row.get("finish_reason") or ("stop" if ended else "length")
    grade = grade_response(cut_at_stop(text, stop), problem)
    return Trajectory(name, problem, prompt, ids, grade.extracted, grade.correct, reason)


def _ids(row: Mapping[str, Any], key: str, engine: Engine, where: str) -> TokenIds:
    values = _field(row, key, list, where)
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool):
            raise UserError(f"{where}: {key} must hold whole numbers, but holds {value!r}")
        if not 0 <= value < engine.vocab_size:
            raise UserError(
                f"{where}: {key} holds {value}, but the ids of {engine.name} go from 0 to {engine.vocab_size - 1}; "
                "the trajectories come from another tokenizer"
            )
    if not values:
        raise UserError(f"{where}: {key} is empty")
    return tuple(values)


def _check_spelling(row: Row, ids: TokenIds, engine: Engine, where: str) -> None:
    """Refuse ids that the row itself spells otherwise than this tokenizer does."""
    written = row.get("tokens")
    if written is None:
        return
    text, offsets = decode_with_offsets(engine.tokenizer, ids)
    spelled = [text[start:end] for start, end in offsets]
    if written != spelled:
        at = next((i for i, (a, b) in enumerate(zip(written, spelled, strict=False)) if a != b), len(spelled))
        raise UserError(
            f"{where}: token {at} is {written[at : at + 1]} there but {spelled[at : at + 1]} for {engine.name}; "
            "the trajectories come from another tokenizer"
        )


def _field(row: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    if not isinstance(row.get(key), kind):
        raise UserError(f"{where}: expected {key} as {'text' if kind is str else 'a list'}, got {row.get(key)!r}")
    return row[key]
