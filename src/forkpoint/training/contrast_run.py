"""Contrastive estimation from beginning to end: sample, choose sets, tune two adapters, score, compare with rollouts.

Samples and scores are journalled in `Units`, and an adapter's directory is there whole or not at all.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from forkpoint.engines import Engine
from forkpoint.engines.checks import check_room
from forkpoint.engines.local.transformers_engine import TransformersEngine
from forkpoint.files import SAMPLES, SCORES, SUMMARY, Journal, fingerprint, resumed, to_json, write_rows
from forkpoint.scores.agreement import Labelled, agreement
from forkpoint.scores.contrast_sets import about_few, choose_sets
from forkpoint.scores.contrastive import shared_base
from forkpoint.tasks.data_sets import read_rows
from forkpoint.training.adapters import TuningConfig, check_tuning, tune_adapter
from forkpoint.trajectories.rows import Row, Units, check_prompts, identities, trajectory_row
from forkpoint.types import Problem, Progress, Sampling, TokenIds, Trajectory, UserError

log = logging.getLogger("forkpoint")
SCORED_UNIT = 64  # trajectories of one unit of scoring
PROBABILITIES = ("s", "policy_prob")  # columns kept to six digits that count; the others to six decimals


@dataclass(frozen=True, slots=True)
class Reference:
    """A critical token that rollouts found: `token_ids` tell whether it is of the trajectory of that id."""

    token_ids: TokenIds
    critical: int


@dataclass(frozen=True, slots=True)
class ContrastConfig:
    """What decides the result beside model and data: `n` samples a question in the style `prompt`, β, and the tuning.

    `sampling` is how samples are drawn, and the policy that `policy_prob` is of.
    """

    prompt: str = "cot"
    n: int = 64
    contrast_beta: float = 1.0
    sampling: Sampling = field(default_factory=Sampling)
    tuning: TuningConfig = field(default_factory=TuningConfig)


def estimate(
    engine: Engine,
    problems: Sequence[Problem],
    settings: ContrastConfig,
    out: Path,
    *,
    task: str = "custom",
    samples: Sequence[Trajectory] | None = None,
    trajectories: Sequence[Trajectory] | None = None,
    references: Mapping[str, Reference] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Contrastive scores of `trajectories` by models tuned on samples of `problems`; returns summary.json's content.

    Without `samples` (several graded responses a problem) they are drawn from the problems; without `trajectories` the
    wrong samples are scored, by models that were tuned on the same problems. With `references` (by trajectory id) the
    summary says how well the scores find the critical tokens. `out` gets samples.jsonl (if they were drawn), the
    adapters `positive` and `negative`, scores.jsonl and summary.json; a repeated call goes on where the last one
    stopped. UserError for an engine without a model in this process, missing libraries, settings out of range,
    trajectories that are too long or do not fit the references, and sets that come out empty.
    """
    responses = [*(samples or ()), *(trajectories or ())]
    local = _checked(engine, problems if samples is None else (), settings, responses)
    _check_references(trajectories, references)
    run = {"verb": "contrast", "model": engine.name, "task": task, **json.loads(to_json(asdict(settings)))}
    identity = {
        "engine": dict(engine.settings),
        "problems": fingerprint([asdict(p) for p in problems]),
        "samples": None if samples is None else fingerprint(identities(samples)),
        "trajectories": None if trajectories is None else fingerprint(identities(trajectories)),
        "references": None if references is None else fingerprint([[k, asdict(v)] for k, v in references.items()]),
    }

    def tuned(name: str, responses: Sequence[Trajectory], units: Units) -> dict[str, Any]:
        step = partial(units.progress, f"tuned the {name} model")
        return tune_adapter(local.model, local.tokenizer, responses, settings.tuning, out / name, step)

    def work(journal: Journal) -> dict[str, Any]:
        units, drawn = Units(journal, progress), samples
        if drawn is None:
            sampled, drawn = units.sampled(local, problems, settings.sampling, n=settings.n, prompt=settings.prompt)
            write_rows(out / SAMPLES, sampled)
        sets = choose_sets(drawn, settings.tuning.seed)
        if few := about_few(sets.counts):
            log.warning("forkpoint: contrast tunes %s", few)
        training = {name: tuned(name, getattr(sets, name), units) for name in ("positive", "negative")}
        scored = [t for t in drawn if not t.correct] if trajectories is None else trajectories
        rows = _scored(local, scored, settings, out, units)
        for row in rows:
            if known := (references or {}).get(row["id"]):
                row["critical_index"] = known.critical
        write_rows(out / SCORES, rows)
        return run | {
            "sets": sets.counts,
            "dropped": sets.dropped,
            "training": training,
            "scored": {"trajectories": len(rows), "tokens": sum(len(row["token_ids"]) for row in rows)},
            "agreement": None if references is None else compare(rows, references, settings.tuning.seed),
        }

    return resumed(out, run | identity, SUMMARY, work)


def _checked(
    engine: Engine, problems: Sequence[Problem], settings: ContrastConfig, responses: Sequence[Trajectory]
) -> TransformersEngine:
    """The engine, once all is checked that can be before any work: `problems` are sampled from, `responses` read."""
    if not isinstance(engine, TransformersEngine):
        raise UserError(f"contrast tunes adapters on a transformers model in this process, which {engine.name} is not")
    check_tuning(settings.tuning, engine.model)
    if settings.n < 1:
        raise UserError(f"n must be at least 1, but is {settings.n}")
    if not 0 < settings.contrast_beta < float("inf"):
        raise UserError(f"contrast_beta must be above 0, but is {settings.contrast_beta}")
    check_room(engine, [(t.id, len(t.prompt_ids) + len(t.token_ids)) for t in responses])
    check_prompts(engine, problems, settings.prompt, settings.sampling.max_tokens)
    return engine


def _check_references(trajectories: Sequence[Trajectory] | None, references: Mapping[str, Reference] | None) -> None:
    by_id = {t.id: t for t in trajectories or ()}
    for name, reference in (references or {}).items():
        if name not in by_id:
            raise UserError(f"the critical trajectory {name!r} is not among the {len(by_id)} trajectories to score")
        if by_id[name].token_ids != reference.token_ids:
            raise UserError(f"the critical trajectory {name!r} has other tokens than the one of that id to score")


def compare(rows: Sequence[Row], references: Mapping[str, Reference], seed: int = 0) -> dict[str, Any]:
    """How well rows of scores.jsonl find the critical tokens of the same trajectories, beside the baselines.

    `causes` has the scorers' figures for the responses of each known cause.
    """
    labelled: list[Labelled] = []
    causes: dict[str, list[Labelled]] = {}
    for row in rows:
        if reference := references.get(row["id"]):
            s, policy_prob, entropy = (np.array(row["scores"][name]) for name in ("s", "policy_prob", "entropy"))
            scorers = {"contrast": -s, "policy_prob": -policy_prob, "entropy": entropy, "random": np.zeros(len(s))}
            labelled.append(Labelled(row["problem_id"], reference.critical, scorers))
            if row["cause"]:
                causes.setdefault(row["cause"], []).append(labelled[-1])
    by_cause = [{"cause": cause} | agreement(those, seed) for cause, those in sorted(causes.items())]
    return agreement(labelled, seed) | {"causes": by_cause}


def read_references(path: Path, problems: Sequence[Problem]) -> dict[str, Reference]:
    """The critical tokens in a critical.jsonl, by trajectory id; trajectories of other problems are left out.

    UserError with file and line for a row that is no such row, and where no trajectory is left.
    """
    known = {p.id for p in problems}
    references: dict[str, Reference] = {}
    for where, row in read_rows(path):
        try:
            status, index, ids = row["status"], row["critical_index"], tuple(row["token_ids"])
            if status == "critical" and row["problem_id"] in known:
                if not (isinstance(index, int) and 0 <= index < len(ids)):
                    raise UserError(f"{where}: critical_index is {index!r}, but the trajectory has {len(ids)} tokens")
                references[row["id"]] = Reference(ids, index)
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{where}: expected a row of critical.jsonl with id, problem_id, token_ids, status and critical_index: "
                f"{error}"
            ) from error
    if not references:
        raise UserError(f"{path} holds no trajectory of status critical of the task's {len(known)} problems")
    return references


def _scored(
    engine: TransformersEngine, trajectories: Sequence[Trajectory], settings: ContrastConfig, out: Path, units: Units
) -> list[Row]:
    """The rows of scores.jsonl."""

    def score(part: Sequence[Trajectory]) -> list[Row]:
        return [
            trajectory_row(one.trajectory, engine.tokenizer)
            | {"scores": {name: _rounded(name, column) for name, column in one.columns.items()}}
            for one in base.score(part, settings.contrast_beta, settings.sampling, engine.ends)
        ]

    with shared_base(engine.model, out / "positive", out / "negative") as base:
        return units.rows("scored trajectories", trajectories, SCORED_UNIT, partial(map, score))


def _rounded(name: str, column: np.ndarray) -> list[float]:
    return [float(f"{x:.6g}") if name in PROBABILITIES else round(float(x), 6) for x in column]
