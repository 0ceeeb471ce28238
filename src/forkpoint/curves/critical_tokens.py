"""Critical tokens from beginning to end: sample, label by rollouts, replace; resumable, unit by unit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from forkpoint import __version__
from forkpoint.curves.estimator import BUDGET, WAVE, Alternative, ForkLabel, Until, fork_labels
from forkpoint.curves.paper_protocol import PaperLabel, paper_labels
from forkpoint.curves.replacement import replace_critical, replacement_table
from forkpoint.curves.rollout_policy import policies
from forkpoint.curves.summary import describe
from forkpoint.engines import Engine
from forkpoint.files import (
    JOURNAL,
    Journal,
    claimed,
    fingerprint,
    read_json,
    to_json,
    write_whole,
)
from forkpoint.text import pieces
from forkpoint.trajectories.rows import (
    CRITICAL,
    SAMPLES,
    SUMMARY,
    Row,
    check_prompts,
    check_room,
    finished,
    identities,
    trajectory_row,
)
from forkpoint.trajectories.units import Progress, Units
from forkpoint.types import Problem, Results, Sampling, Trajectory, UserError

REPLACEMENT = "replacement.jsonl"
UNIT = 16  # trajectories labelled together: enough to keep an engine busy, little to lose
Protocol = Literal["forks", "paper"]
Which = Literal["wrong", "correct", "all"]


@dataclass(frozen=True, slots=True)
class CriticalConfig:
    """What decides the result beside model and data.

    `sampling` is how responses and rollouts are drawn: n responses to each problem, in the prompt style `prompt`,
    `which` of them are labelled. Protocol "forks" spends up to `budget` rollouts on a trajectory, in waves of `wave`,
    `until` its label is decided or the budget spent; "paper" is 64 from every prefix. `replace` adds the replacement
    experiment.
    """

    protocol: Protocol = "forks"
    sampling: Sampling = field(default_factory=Sampling)
    prompt: str = "cot"
    n: int = 1
    which: Which = "wrong"
    budget: int = BUDGET
    wave: int = WAVE
    until: Until = "decided"
    replace: bool = False


def find_critical(
    engine: Engine,
    problems: Sequence[Problem],
    search: CriticalConfig,
    out: Path,
    *,
    task: str = "custom",
    trajectories: Sequence[Trajectory] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The critical tokens of `trajectories`, or of responses sampled to `problems`; returns summary.json's content.

    `out` gets samples.jsonl (where responses were sampled), critical.jsonl, replacement.jsonl (with `search.replace`)
    and summary.json; a repeated call goes on where the last one stopped. Raises UserError for settings out of range,
    and for trajectories and prompts that leave no room for a response.
    """
    _check(engine, problems, search, trajectories)
    settings = {key: value for key, value in asdict(search).items() if key not in ("n", "prompt") or not trajectories}
    run = {"verb": "critical", "model": engine.name, "task": task, **settings, "version": __version__}
    identity = {
        "engine": dict(engine.settings),
        "problems": fingerprint([asdict(p) for p in problems]) if trajectories is None else None,
        "trajectories": None if trajectories is None else fingerprint(identities(trajectories)),
    }
    with claimed(out, run | identity):
        if not (out / SUMMARY).exists():
            units = Units(Journal(out / JOURNAL), progress)
            given = _sample(engine, problems, search, out, units) if trajectories is None else trajectories
            summary = run | _work(engine, given, search, out, units)
            write_whole(out / SUMMARY, to_json(summary, indent=2) + "\n")
        (out / JOURNAL).unlink(missing_ok=True)
    return Results(read_json(out / SUMMARY))


def label_trajectories(
    engine: Engine, trajectories: Iterable[Trajectory], search: CriticalConfig
) -> Iterator[ForkLabel | PaperLabel]:
    """The label of each trajectory by the protocol asked for, in the order in which they are found."""
    given = list(trajectories)
    pairs = zip(given, policies(engine, given, search.sampling), strict=True)
    if search.protocol == "paper":
        return paper_labels(engine, pairs, search.sampling)
    return fork_labels(engine, pairs, search.sampling, budget=search.budget, wave=search.wave, until=search.until)


def _check(
    engine: Engine, problems: Sequence[Problem], search: CriticalConfig, trajectories: Sequence[Trajectory] | None
) -> None:
    for name in ("n", "budget", "wave"):
        if getattr(search, name) < 1:
            raise UserError(f"{name} must be at least 1, but is {getattr(search, name)}")
    if search.sampling.temperature == 0:
        raise UserError("the temperature must be above 0: greedy rollouts never leave their trajectory")
    if trajectories is None and not problems:
        raise UserError("there are no problems to sample responses to")
    room = search.sampling.max_tokens
    if trajectories is None:
        check_prompts(engine, problems, search.prompt, room)
    check_room(engine, [(t.id, len(t.prompt_ids) + room) for t in trajectories or ()])
    for trajectory in trajectories or ():
        finished(trajectory, search.sampling)


def _sample(
    engine: Engine, problems: Sequence[Problem], search: CriticalConfig, out: Path, units: Units
) -> list[Trajectory]:
    rows, drawn = units.sampled(engine, problems, search.sampling, n=search.n, prompt=search.prompt)
    write_whole(out / SAMPLES, (to_json(row) + "\n" for row in rows))
    return drawn


def _work(
    engine: Engine, given: Sequence[Trajectory], search: CriticalConfig, out: Path, units: Units
) -> dict[str, Any]:
    """Label the chosen ones of the given trajectories, replace their critical tokens, and describe what was found."""
    chosen = [t for t in given if search.which == "all" or t.correct == (search.which == "correct")]
    rows = _label(engine, chosen, search, units)
    write_whole(out / CRITICAL, (to_json(row) + "\n" for row in rows))
    responses = {
        "n": len(given),
        "correct": sum(t.correct for t in given),
        "no_answer": sum(t.answer is None for t in given),
        "cut_off": sum(t.finish_reason == "length" for t in given),
    }
    found = {"responses": responses, **describe(rows)}
    if search.replace:
        replaced = _replace(engine, chosen, rows, search.sampling, units)
        write_whole(out / REPLACEMENT, (to_json(row) + "\n" for row in replaced))
        found["replacement"] = {
            "n_trajectories": len(replaced),
            "tokens_generated": sum(row["tokens_generated"] for row in replaced),
            "table": replacement_table(replaced),
        }
    return found | {"seconds": round(units.seconds, 1)}


def _label(engine: Engine, chosen: Sequence[Trajectory], search: CriticalConfig, units: Units) -> list[Row]:
    """The rows of critical.jsonl."""
    found = rollouts = tokens = 0
    tell = units.progress

    def label(engine: Engine, part: Sequence[Trajectory]) -> list[Row]:
        nonlocal found, rollouts, tokens
        labels = {}
        for one in label_trajectories(engine, part, search):
            labels[one.trajectory.id] = one
            found, rollouts, tokens = found + 1, rollouts + one.rollouts, tokens + one.tokens_generated
            tell(f"labelled trajectories, {rollouts:,} rollouts", found, len(chosen), tokens)
        return [_row(engine, labels[t.id]) for t in part]

    return units.rows("labelled trajectories", chosen, UNIT, partial(engine.map, label))


def _replace(
    engine: Engine, chosen: Sequence[Trajectory], rows: Sequence[Row], sampling: Sampling, units: Units
) -> list[Row]:
    """The rows of replacement.jsonl: those of the trajectories with a critical token."""
    critical = {row["id"]: row["critical_index"] for row in rows if row["status"] == "critical"}

    def replace(engine: Engine, part: Sequence[Trajectory]) -> list[Row]:
        along = zip(part, policies(engine, part, sampling), strict=True)
        return list(replace_critical(engine, ((t, policy, critical[t.id]) for t, policy in along), sampling))

    theirs = [t for t in chosen if t.id in critical]
    return units.rows("replaced critical tokens", theirs, UNIT, partial(engine.map, replace))


def _row(engine: Engine, label: ForkLabel | PaperLabel) -> Row:
    """A label as a line of critical.jsonl. Numbers keep six digits; null is what was not evaluated."""
    policy = label.policy
    alternatives = label.alternatives if isinstance(label, ForkLabel) else ()
    return trajectory_row(label.trajectory, engine.tokenizer) | {
        "success": _rounded(label.success),
        "success_ci": [pair if None not in pair else None for pair in map(_rounded, label.success_ci)],
        "success_bias": _rounded(policy.bias_bound()) if policy.unnamed.any() else None,
        "status": label.status,
        "critical_index": label.critical_index,
        "alternatives": [_alternative(engine, label.trajectory, one) for one in alternatives],
        "rollouts": label.rollouts,
        "tokens_generated": label.tokens_generated,
        "brute_force_tokens": round(label.plain_tokens),
        "policy_prob": [float(f"{p:.6g}") for p in policy.own],
        "entropy": _rounded(policy.entropy),
        "gap": _rounded(policy.gap),
        "logprob": _rounded(policy.logprob),
    }


def _alternative(engine: Engine, trajectory: Trajectory, one: Alternative) -> Row:
    return {
        "position": one.position,
        "token_id": one.token_id,
        "token": pieces(engine.tokenizer, (*trajectory.token_ids[: one.position], one.token_id))[-1],
        "policy_prob": float(f"{one.prob:.6g}"),
        "success": round(one.correct / one.n, 6),
        "n": one.n,
    }


def _rounded(values: np.ndarray) -> list[float | None]:
    return [round(float(x), 6) if math.isfinite(x) else None for x in values]
