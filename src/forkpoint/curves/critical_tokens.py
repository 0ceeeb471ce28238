"""Critical tokens from beginning to end: sample, label by rollouts, replace, describe; resumable, unit by unit."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from forkpoint import __version__
from forkpoint.curves.estimator import BUDGET, WAVE, Until, fork_labels
from forkpoint.curves.paper_protocol import paper_labels
from forkpoint.curves.replacement import replace_critical, replacement_table
from forkpoint.curves.rollouts import CurveLabel, policies
from forkpoint.engines import Engine
from forkpoint.engines.checks import check_room
from forkpoint.files import CRITICAL, REPLACEMENT, SAMPLES, SUMMARY, Journal, fingerprint, resumed, write_rows
from forkpoint.proportions import clustered_interval
from forkpoint.text import pieces
from forkpoint.trajectories.rows import Row, Units, check_prompts, finished, identities, silent, trajectory_row
from forkpoint.types import Problem, Progress, Sampling, Trajectory, UserError

STATUSES = ("critical", "none", "undecided")
COSTS = ("rollouts", "tokens_generated", "brute_force_tokens")
OPERATORS = frozenset("+-*/=^%<>×÷·−≤≥≠≈±√")
UNIT = 16  # trajectories labelled together: enough to keep an engine busy, little to lose


@dataclass(frozen=True, slots=True)
class CriticalConfig:
    """What decides the result beside model and data.

    `sampling` is how responses and rollouts are drawn: n responses to each problem, in the prompt style `prompt`,
    `which` of them are labelled. Protocol "forks" spends up to `budget` rollouts on a trajectory, in waves of `wave`,
    `until` its label is decided or the budget spent; "paper" is 64 from every prefix. `replace` adds the replacement
    experiment.
    """

    protocol: Literal["forks", "paper"] = "forks"
    sampling: Sampling = field(default_factory=Sampling)
    prompt: str = "cot"
    n: int = 1
    which: Literal["wrong", "correct", "all"] = "wrong"
    budget: int = BUDGET
    wave: int = WAVE
    until: Until = "decided"
    replace: bool = False

    def __post_init__(self) -> None:
        for name in ("n", "budget", "wave"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, but is {getattr(self, name)}")


def find_critical(
    engine: Engine,
    problems: Sequence[Problem],
    config: CriticalConfig,
    out: Path,
    *,
    task: str = "custom",
    trajectories: Sequence[Trajectory] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The critical tokens of `trajectories`, or of responses sampled to `problems`; returns summary.json's content.

    `out` gets samples.jsonl (where responses were sampled), critical.jsonl, replacement.jsonl (with `config.replace`)
    and summary.json; a repeated call goes on where the last one stopped. UserError for settings out of range, and for
    trajectories and prompts that leave no room for a response.
    """
    _check(engine, problems, config, trajectories)
    settings = {key: value for key, value in asdict(config).items() if key not in ("n", "prompt") or not trajectories}
    run = {"verb": "critical", "model": engine.name, "task": task, **settings, "version": __version__}
    identity = {
        "engine": dict(engine.settings),
        "problems": fingerprint([asdict(p) for p in problems]) if trajectories is None else None,
        "trajectories": None if trajectories is None else fingerprint(identities(trajectories)),
    }

    def work(journal: Journal) -> dict[str, Any]:
        units = Units(journal, progress)
        labelled = trajectories
        if labelled is None:
            rows, labelled = units.sampled(engine, problems, config.sampling, n=config.n, prompt=config.prompt)
            write_rows(out / SAMPLES, rows)
        return run | _label_all(engine, labelled, config, out, units)

    return resumed(out, run | identity, SUMMARY, work)


def label_trajectories(
    engine: Engine, trajectories: Iterable[Trajectory], config: CriticalConfig
) -> Iterator[CurveLabel]:
    """The label of each trajectory by the protocol asked for, in the order in which they are found."""
    trajectories = list(trajectories)
    pairs = zip(trajectories, policies(engine, trajectories, config.sampling), strict=True)
    if config.protocol == "paper":
        return paper_labels(engine, pairs, config.sampling)
    return fork_labels(engine, pairs, config.sampling, budget=config.budget, wave=config.wave, until=config.until)


def _check(
    engine: Engine, problems: Sequence[Problem], config: CriticalConfig, trajectories: Sequence[Trajectory] | None
) -> None:
    if config.sampling.temperature == 0:
        raise UserError("the temperature must be above 0: greedy rollouts never leave their trajectory")
    if trajectories is None:
        if not problems:
            raise UserError("there are no problems to sample responses to")
        check_prompts(engine, problems, config.prompt, config.sampling.max_tokens)
    check_room(engine, [(t.id, len(t.prompt_ids) + config.sampling.max_tokens) for t in trajectories or ()])
    for t in trajectories or ():
        finished(t, config.sampling)


def _label_all(
    engine: Engine, trajectories: Sequence[Trajectory], config: CriticalConfig, out: Path, units: Units
) -> dict[str, Any]:
    chosen = [t for t in trajectories if config.which == "all" or t.correct == (config.which == "correct")]
    labelling = Labelling(config, len(chosen), units.progress)
    rows = units.rows("labelled trajectories", chosen, UNIT, partial(engine.map, labelling))
    write_rows(out / CRITICAL, rows)
    responses = {
        "n": len(trajectories),
        "correct": sum(t.correct for t in trajectories),
        "no_answer": sum(t.answer is None for t in trajectories),
        "cut_off": sum(t.finish_reason == "length" for t in trajectories),
    }
    results = {"responses": responses, **describe(rows)}
    if config.replace:
        replaced = _replace(engine, chosen, rows, config.sampling, units)
        write_rows(out / REPLACEMENT, replaced)
        results["replacement"] = {
            "n_trajectories": len(replaced),
            "tokens_generated": sum(row["tokens_generated"] for row in replaced),
            "table": replacement_table(replaced),
        }
    return results | {"seconds": round(units.seconds, 1)}


class Labelling:
    """Makes the rows of one unit of trajectories after another, and counts for the progress."""

    def __init__(self, config: CriticalConfig, total: int, progress: Progress) -> None:
        self.config, self.total, self.progress = config, total, progress
        self.done = self.rollouts = self.tokens = 0

    def __call__(self, engine: Engine, part: Sequence[Trajectory]) -> list[Row]:
        rows = {}
        for label in label_trajectories(engine, part, self.config):
            rows[label.trajectory.id] = _row(engine, label)
            self.done += 1
            self.rollouts += label.rollouts
            self.tokens += label.tokens_generated
            self.progress(f"labelled trajectories, {self.rollouts:,} rollouts", self.done, self.total, self.tokens)
        return [rows[t.id] for t in part]

    def __getstate__(self) -> dict[str, Any]:
        """A copy in a replica's process has nobody to show its progress to."""
        return self.__dict__ | {"progress": silent}


def _replace(engine: Engine, chosen: list[Trajectory], rows: list[Row], sampling: Sampling, units: Units) -> list[Row]:
    """The rows of replacement.jsonl: those of the trajectories with a critical token."""
    index = {row["id"]: row["critical_index"] for row in rows if row["status"] == "critical"}

    def replace(engine: Engine, part: Sequence[Trajectory]) -> list[Row]:
        pairs = zip(part, policies(engine, part, sampling), strict=True)
        return list(replace_critical(engine, [(t, policy, index[t.id]) for t, policy in pairs], sampling))

    critical = [t for t in chosen if t.id in index]
    return units.rows("replaced critical tokens", critical, UNIT, partial(engine.map, replace))


def _row(engine: Engine, label: CurveLabel) -> Row:
    """A label as a line of critical.jsonl; null is what was not evaluated.

    {"id": …, "token_ids": [78, 11, 0], …, "success": [0.41, 0.4, 0.0, 0.0], "success_ci": [[0.3, 0.5], …],
     "status": "critical", "critical_index": 1, "alternatives": [{"position": 1, "token_id": 12, "token": "9",
     "policy_prob": 0.2, "success": 0.9, "n": 31}], "rollouts": 192, "tokens_generated": 4100, …}
    """
    trajectory, policy, tokenizer = label.trajectory, label.policy, engine.tokenizer
    return trajectory_row(trajectory, tokenizer) | {
        "success": _rounded(label.success),
        "success_ci": [pair if None not in pair else None for pair in map(_rounded, label.success_ci)],
        "success_bias": _rounded(policy.bias_bound()) if policy.unnamed.any() else None,
        "status": label.status,
        "critical_index": label.critical_index,
        "alternatives": [
            {
                "position": a.position,
                "token_id": a.token_id,
                "token": pieces(tokenizer, (*trajectory.token_ids[: a.position], a.token_id))[-1],
                "policy_prob": float(f"{a.prob:.6g}"),
                "success": round(a.correct / a.n, 6),
                "n": a.n,
            }
            for a in label.alternatives
        ],
        "rollouts": label.rollouts,
        "tokens_generated": label.tokens_generated,
        "brute_force_tokens": round(label.plain_tokens),
        "policy_prob": [float(f"{p:.6g}") for p in policy.own],
        **{name: _rounded(getattr(policy, name)) for name in ("entropy", "gap", "logprob")},
    }


def _rounded(values: np.ndarray) -> list[float | None]:
    return [round(float(x), 6) if math.isfinite(x) else None for x in values]


def describe(rows: Sequence[Row]) -> dict[str, Any]:
    """The figures of rows of critical.jsonl; null where there is nothing to take them over.

    `share_critical` is that of the wrong trajectories, each problem counting the same, with a 95% interval that takes
    trajectories of one problem as dependent. `causes` has the wrong ones of the lab. `critical_position` counts tokens
    from 0; `relative_mean` is the mean of index / (length - 1). `success_bias` bounds how far success may lie from the
    truth for tokens that the engine cannot name. Of those `cut_off` by the length limit, `critical_at_cut` have their
    last token as critical one, where it may only mean that no room was left.
    """
    wrong = [row for row in rows if not row["correct"]]
    critical = [row for row in wrong if row["status"] == "critical"]
    statuses = Counter(row["status"] for row in rows)
    kinds = Counter(token_kind(row["tokens"][row["critical_index"]]) for row in critical)
    bounds = [bound for row in rows for bound in row.get("success_bias") or ()]
    causes, found = (Counter(row["cause"] for row in some if row["cause"]) for some in (wrong, critical))
    by_problem = defaultdict(list)
    for row in wrong:
        by_problem[row["problem_id"]].append(float(row["status"] == "critical"))
    clusters = list(by_problem.values())
    return {
        "n_trajectories": len(rows),
        "n_wrong": len(wrong),
        "statuses": {status: statuses[status] for status in STATUSES},
        "share_critical": round(float(np.mean([np.mean(one) for one in clusters])), 6) if wrong else None,
        "share_critical_ci95": [round(end, 6) for end in clustered_interval(clusters)] if wrong else None,
        "critical_position": _position(critical),
        "cut_off": _cut_off(rows),
        "critical_at_cut": _cut_off(row for row in critical if row["critical_index"] == len(row["token_ids"]) - 1),
        "success_bias": {"mean": round(float(np.mean(bounds)), 6), "largest": max(bounds)} if bounds else None,
        "causes": [{"cause": cause, "wrong": n, "critical": found[cause]} for cause, n in sorted(causes.items())],
        "token_kinds": [{"kind": kind, "count": -n} for n, kind in sorted((-n, kind) for kind, n in kinds.items())],
        **{cost: sum(row[cost] for row in rows) for cost in COSTS},
    }


def token_kind(piece: str) -> str:
    """number, operator, word, punctuation, space, or no text (an end, a part of a character), by its characters."""
    text = piece.strip()
    if not text:
        return "space" if piece else "no text"
    if any(c.isdigit() for c in text):
        return "number"
    if any(c.isalpha() for c in text):
        return "word"
    return "operator" if any(c in OPERATORS for c in text) else "punctuation"


def _cut_off(rows: Iterable[Row]) -> int:
    return sum(row.get("finish_reason") == "length" for row in rows)


def _position(critical: Sequence[Row]) -> dict[str, float] | None:
    if not critical:
        return None
    at = np.array([row["critical_index"] for row in critical], dtype=np.float64)
    last = np.array([max(1, len(row["token_ids"]) - 1) for row in critical])
    return {
        "mean": round(float(at.mean()), 2),
        "median": float(np.median(at)),
        "relative_mean": round(float((at / last).mean()), 4),
    }
