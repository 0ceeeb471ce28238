"""Contrastive estimation from beginning to end: sample, choose sets, tune two adapters, score, compare with rollouts.

Resumable: samples and scores are journalled in units of fixed problems and trajectories, so that batches do not depend
on where a run was interrupted, and an adapter's directory is there whole or not at all.
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
from forkpoint.engines.local.transformers_engine import TransformersEngine
from forkpoint.files import (
    JOURNAL,
    Journal,
    claimed,
    fingerprint,
    read_json,
    to_json,
    write_whole,
)
from forkpoint.scores.agreement import Labelled, agreement
from forkpoint.scores.contrast_sets import ContrastSets, about_few, choose_sets
from forkpoint.scores.contrastive import shared_base
from forkpoint.training.adapters import TuningConfig, check_tuning, require_training, tune_adapter
from forkpoint.trajectories.rows import (
    SAMPLES,
    SCORES,
    SUMMARY,
    Row,
    check_prompts,
    check_room,
    identities,
    trajectory_row,
)
from forkpoint.trajectories.units import Progress, Units
from forkpoint.types import Problem, Results, Sampling, TokenIds, TokenScores, Trajectory, UserError

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
    beta: float = 1.0
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
    stopped.

    Raises UserError for an engine without a model in this process, missing libraries, settings out of range,
    trajectories that are too long or do not fit the references, and sets that come out empty.
    """
    require_training()
    model_engine = _checked(
        engine, problems if samples is None else (), settings, [*(samples or ()), *(trajectories or ())]
    )
    _check_references(trajectories, references)
    run = {"verb": "contrast", "model": engine.name, "task": task, **_plain(settings)}
    identity = {
        "engine": dict(engine.settings),
        "problems": fingerprint([asdict(p) for p in problems]),
        "samples": None if samples is None else fingerprint(identities(samples)),
        "trajectories": None if trajectories is None else fingerprint(identities(trajectories)),
        "references": None if references is None else fingerprint([[k, asdict(v)] for k, v in references.items()]),
    }
    with claimed(out, run | identity):
        if not (out / SUMMARY).exists():
            work = _ContrastRun(model_engine, settings, out, Units(Journal(out / JOURNAL), progress))
            drawn = work.draw(problems) if samples is None else samples
            sets = choose_sets(drawn, settings.tuning.seed)
            if few := about_few(sets.counts):
                log.warning("forkpoint: contrast tunes %s", few)
            training = {name: work.tune(name, getattr(sets, name)) for name in ("positive", "negative")}
            scored = [t for t in drawn if not t.correct] if trajectories is None else trajectories
            rows = [row | _critical(row, references) for row in work.score(scored)]
            write_whole(out / SCORES, (to_json(row) + "\n" for row in rows))
            compared = None if references is None else compare(rows, references, settings.tuning.seed)
            summary = run | _described(sets, training, rows) | {"agreement": compared}
            write_whole(out / SUMMARY, to_json(summary, indent=2) + "\n")
        (out / JOURNAL).unlink(missing_ok=True)
    return Results(read_json(out / SUMMARY))


def _critical(row: Row, references: Mapping[str, Reference] | None) -> Row:
    """What scores.jsonl says of the critical token of rollouts, where there is one."""
    reference = (references or {}).get(row["id"])
    return {} if reference is None else {"critical_index": reference.critical}


def compare(rows: Sequence[Row], references: Mapping[str, Reference], seed: int = 0) -> dict[str, Any]:
    """How well rows of scores.jsonl find the critical tokens of the same trajectories, beside the baselines."""
    labelled = []
    for row in rows:
        if reference := references.get(row["id"]):
            scores = {name: np.array(values) for name, values in row["scores"].items()}
            scorers = {
                "contrast": -scores["s"],
                "policy_prob": -scores["policy_prob"],
                "entropy": scores["entropy"],
                "random": np.zeros(len(row["token_ids"])),
            }
            labelled.append(Labelled(row["problem_id"], reference.critical, scorers))
    return agreement(labelled, seed)


def read_references(path: Path, problems: Sequence[Problem]) -> dict[str, Reference]:
    """The critical tokens in a critical.jsonl, by trajectory id.

    Trajectories without one, and those of other problems, are left out. Raises UserError with file and line for a row
    that is no such row, and where no trajectory is left.
    """
    known = {p.id for p in problems}
    found: dict[str, Reference] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
            status, index, ids = row["status"], row["critical_index"], tuple(row["token_ids"])
            if status == "critical" and row["problem_id"] in known:
                if not (isinstance(index, int) and 0 <= index < len(ids)):
                    raise UserError(f"{where}: critical_index is {index!r}, but the trajectory has {len(ids)} tokens")
                found[row["id"]] = Reference(ids, index)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{where}: expected a row of critical.jsonl with id, problem_id, token_ids, status and critical_index: "
                f"{error}"
            ) from error
    if not found:
        raise UserError(f"{path} holds no trajectory of status critical of the task's {len(known)} problems")
    return found


class _ContrastRun:
    """The stages of one run, each of which takes from the journal what is done."""

    def __init__(
        self,
        engine: TransformersEngine,
        settings: ContrastConfig,
        out: Path,
        units: Units,
    ) -> None:
        self.engine, self.settings, self.out, self.units = engine, settings, out, units

    def draw(self, problems: Sequence[Problem]) -> list[Trajectory]:
        """The samples."""
        s = self.settings
        rows, drawn = self.units.sampled(self.engine, problems, s.sampling, n=s.n, prompt=s.prompt)
        if not (self.out / SAMPLES).exists():
            write_whole(self.out / SAMPLES, (to_json(row) + "\n" for row in rows))
        return drawn

    def tune(self, name: str, responses: Sequence[Trajectory]) -> dict[str, Any]:
        """The adapter of that name, tuned or already there."""
        return tune_adapter(
            self.engine.model, self.engine.tokenizer, responses, self.settings.tuning, self.out / name,
            partial(self.units.progress, f"tuned the {name} model"),
        )  # fmt: skip

    def score(self, trajectories: Sequence[Trajectory]) -> list[Row]:
        """The rows of scores.jsonl, in units of trajectories."""
        s = self.settings
        with shared_base(self.engine.model, self.out / "positive", self.out / "negative") as base:

            def score(part: Sequence[Trajectory]) -> list[Row]:
                scores = base.score(part, s.beta, s.sampling, self.engine.ends)
                return [_score_row(one, self.engine.tokenizer) for one in scores]

            return self.units.rows("scored trajectories", trajectories, SCORED_UNIT, partial(map, score))


def _score_row(scores: TokenScores, tokenizer: Any) -> Row:
    columns = {
        name: [float(f"{x:.6g}") if name in PROBABILITIES else round(float(x), 6) for x in column]
        for name, column in scores.columns.items()
    }
    return trajectory_row(scores.trajectory, tokenizer) | {"scores": columns}


def _described(sets: ContrastSets, training: dict[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "sets": sets.counts,
        "dropped": sets.dropped,
        "training": training,
        "scored": {"trajectories": len(rows), "tokens": sum(len(row["token_ids"]) for row in rows)},
    }


def _checked(
    engine: Engine, problems: Sequence[Problem], settings: ContrastConfig, given: Sequence[Trajectory]
) -> TransformersEngine:
    """The engine, once all that can be checked before any work is."""
    if not isinstance(engine, TransformersEngine):
        raise UserError(f"contrast tunes adapters on a transformers model in this process, which {engine.name} is not")
    check_tuning(settings.tuning, engine.model)
    if settings.n < 1:
        raise UserError(f"n must be at least 1, but is {settings.n}")
    if not 0 < settings.beta < float("inf"):
        raise UserError(f"beta must be above 0, but is {settings.beta}")
    check_room(engine, [(t.id, len(t.prompt_ids) + len(t.token_ids)) for t in given])
    check_prompts(engine, problems, settings.prompt, settings.sampling.max_tokens)
    return engine


def _check_references(trajectories: Sequence[Trajectory] | None, references: Mapping[str, Reference] | None) -> None:
    by_id = {t.id: t for t in trajectories or ()}
    for name, reference in (references or {}).items():
        if name not in by_id:
            raise UserError(f"the critical trajectory {name!r} is not among the {len(by_id)} trajectories to score")
        if by_id[name].token_ids != reference.token_ids:
            raise UserError(f"the critical trajectory {name!r} has other tokens than the one of that id to score")


def _plain(settings: ContrastConfig) -> dict[str, Any]:
    return dict(json.loads(to_json(asdict(settings))))
