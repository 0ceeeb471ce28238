"""Rounds of tuning on own right answers: sample, verify, leave out what is likely already, tune, evaluate.

Resumable: samples and evaluations are journalled in `Units`, training goes on from its last checkpoint, a model's
directory is there whole or not at all, and a finished round is one file.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from forkpoint import __version__
from forkpoint.engines.loading import check_memory
from forkpoint.engines.local.transformers_engine import TransformersEngine
from forkpoint.files import (
    JOURNAL,
    SAMPLES,
    SUMMARY,
    Journal,
    fingerprint,
    read_json,
    resumed,
    to_json,
    write_rows,
    write_whole,
)
from forkpoint.sampling.draw import key_hash
from forkpoint.sampling.limits import validate
from forkpoint.training.configs import TrainingConfig, prepared, sft_config, stated
from forkpoint.training.fit import CHECKPOINTS, fit, remove_checkpoints
from forkpoint.training.heldout_eval import figures, mean_logprob, respond
from forkpoint.training.models import (
    MODEL,
    adapted,
    check_trainable,
    in_float32,
    is_adapter,
    load_trainable,
    model_card,
    save_trained,
)
from forkpoint.training.own_answers import LikelihoodFilter, check_filter, choose, why_nothing
from forkpoint.training.sft import sft_trainer
from forkpoint.trajectories.rows import SAMPLED_UNIT, Row, Units, check_prompts, sample_completions, trajectory_row
from forkpoint.types import Problem, Progress, Results, Sampling, UserError

ROUND, TRAINING, EVALUATION = "round.json", "training.json", "evaluation.jsonl"


@dataclass(frozen=True, slots=True)
class Base:
    """The model of the first round, and how models are loaded: as by `load_engine`."""

    name: str = "lab"
    device: str = "auto"
    dtype: str = "auto"
    attn_implementation: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    memory_gib: float | None = None


@dataclass(frozen=True, slots=True)
class RoundsConfig:
    """What decides the result beside model and data: `n` samples a problem and round, `eval_n` a held-out problem.

    `tuning` says how a round is trained; adapters are new in each round, and added to the weights. All seeds come of
    `sampling.seed`.
    """

    rounds: int = 3
    n: int = 8
    eval_n: int = 16
    prompt: str = "cot"
    sampling: Sampling = field(default_factory=Sampling)
    filter: LikelihoodFilter = field(default_factory=LikelihoodFilter)
    tuning: TrainingConfig = field(default_factory=lambda: TrainingConfig(num_train_epochs=1))


def tune_in_rounds(
    base: Base,
    problems: Sequence[Problem],
    held_out: Sequence[Problem],
    settings: RoundsConfig,
    out: Path,
    *,
    task: str = "custom",
    progress: Progress | None = None,
) -> Results:
    """Tune a model on its own right responses to the problems, round by round; returns summary.json's content.

    `out` gets a directory a round, with samples.jsonl, `model` and evaluation.jsonl (the responses to the held-out
    problems), and summary.json, whose `results` has a row a round; round 0 is the base model, evaluated. Where a round
    finds nothing to tune on, it is the last one, and `stopped` says why, else null. A repeated call goes on where the
    last one stopped. UserError for missing libraries, settings out of range or that do not go together, problems that
    are in both sets or leave no room for a response, memory that runs out and a loss that is no number.
    """
    if is_adapter(base.name):
        raise UserError(f"{base.name} holds an adapter; merge it into its base first: forkpoint merge ADAPTER DIR")
    work = _RoundsRun(base, problems, held_out, settings, out, progress)
    engine = work.engine(0)
    _check(engine, problems, held_out, settings)
    ready = prepared(settings.tuning, out / CHECKPOINTS, engine.model, has_eval=False, name=base.name)
    work.settings = replace(settings, tuning=replace(settings.tuning, learning_rate=ready.learning_rate))
    tuning = stated(settings.tuning, ready, engine.model)
    own = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name != "tuning"}
    own |= {"sampling": asdict(settings.sampling), "filter": asdict(settings.filter)}
    work.facts = json.loads(to_json(own | {name: tuning[name] for name in ("arguments", "lora", "save_dtype")}))
    run = {"verb": "rounds", "model": base.name, "task": task, **work.facts, "version": __version__}
    identity = {
        "engine": dict(engine.settings),
        "problems": fingerprint([asdict(p) for p in problems]),
        "held_out": fingerprint([asdict(p) for p in held_out]),
    }

    def rounds(_: Journal) -> dict[str, Any]:
        results = [work.round(0)]
        while len(results) <= settings.rounds and not results[-1]["stopped"]:
            results.append(work.round(len(results)))
        return run | {"results": results, "stopped": results[-1]["stopped"]}

    return resumed(out, run | identity, SUMMARY, rounds)


def round_seed(seed: int, number: int) -> int:
    """The seed of a round's samples and training: a hash, so that no round of another seed shares it."""
    return key_hash(seed, f"round {number}") % 2**31


@dataclass
class _RoundsRun:
    """The rounds of one run, each of which takes from its directory what is done. `facts`: what files say of it."""

    base: Base
    problems: Sequence[Problem]
    held_out: Sequence[Problem]
    settings: RoundsConfig
    out: Path
    progress: Progress | None
    facts: dict[str, Any] = field(default_factory=dict)
    loaded: tuple[int, TransformersEngine] | None = None

    def round(self, number: int) -> dict[str, Any]:
        """The row of a round, done now or before: sample, choose, tune and evaluate; of round 0, the last alone."""
        directory = self.out / f"round-{number}"
        if not (directory / ROUND).exists():
            directory.mkdir(exist_ok=True)
            units = Units(Journal(directory / JOURNAL), self.progress)
            row: dict[str, Any] = {"round": number, "stopped": None}
            examples: list[Any] = []
            if number:
                samples = self.sample(number, units)
                examples, row["samples"] = choose(samples, self.settings.filter)
                write_rows(directory / SAMPLES, samples)
            if examples:
                row["training"] = self.tune(number, directory, examples)
            if examples or number == 0:
                row["held_out"] = self.evaluate(number, directory, units)
            else:
                why = why_nothing(row["samples"], self.settings.filter)
                row["stopped"] = f"round {number} has nothing to tune on: {why}"
            write_whole(directory / ROUND, to_json(row, indent=2) + "\n")
        (directory / JOURNAL).unlink(missing_ok=True)
        return dict(read_json(directory / ROUND))

    def sample(self, number: int, units: Units) -> list[Row]:
        """Graded responses of the model of the round before, with their log-probabilities."""
        s = self.settings
        sampling = replace(s.sampling, seed=round_seed(s.sampling.seed, number))

        def sample(part: Sequence[Problem]) -> list[Row]:
            engine = self.engine(number - 1)
            drawn = sample_completions(engine, part, sampling, n=s.n, prompt=s.prompt)
            return [
                trajectory_row(one, engine.tokenizer)
                | {"logprobs": [round(min(x, 0.0), 6) for x in c.logprobs], "mean_logprob": mean_logprob(c.logprobs)}
                for one, c in drawn
            ]

        stage, size = f"round {number}, sampled problems", max(1, SAMPLED_UNIT // s.n)
        return units.rows(stage, self.problems, size, partial(map, sample))

    def tune(self, number: int, directory: Path, examples: list[dict[str, list[int]]]) -> dict[str, Any]:
        """What is known of the training of the round's model, tuned now or before."""
        if not (directory / MODEL).exists():
            engine = self.engine(number - 1)
            self.loaded = None  # its weights are going to change
            args = replace(self.settings.tuning, seed=round_seed(self.settings.sampling.seed, number))
            args = prepared(args, directory / CHECKPOINTS, engine.model, has_eval=False)
            dtype = in_float32(engine.model, args)
            trainer = sft_trainer(adapted(engine.model, args), engine.tokenizer, sft_config(args), examples)
            step = self.progress and partial(self.progress, f"round {number}, training steps")
            fitted = {"examples": len(examples)} | fit(trainer, sum(len(row["input_ids"]) for row in examples), step)
            write_whole(directory / TRAINING, to_json(fitted, indent=2) + "\n")
            how = f"supervised fine-tuning on own right answers, by TRL, round {number}"
            facts = {name: fitted[name] for name in ("examples", "tokens_in_an_epoch", "steps")}
            card = model_card(f"{self.base.name} after round {number}", self.base.name, how, self.facts, facts)
            policy = trainer.accelerator.unwrap_model(trainer.model)
            save_trained(policy, engine.tokenizer, card, directory / MODEL, dtype=dtype, merge=True)
        remove_checkpoints(directory)
        return {name: value for name, value in read_json(directory / TRAINING).items() if name != "history"}

    def evaluate(self, number: int, directory: Path, units: Units) -> dict[str, Any]:
        """The figures of the round's model; all rounds draw the same random numbers for them."""
        s = self.settings

        def ask(part: Sequence[Problem]) -> list[Row]:
            return respond(self.engine(number), part, s.sampling, n=s.eval_n, prompt=s.prompt)

        size = max(1, SAMPLED_UNIT // (s.eval_n + 1))
        rows = units.rows(f"round {number}, held-out problems", self.held_out, size, partial(map, ask))
        write_rows(directory / EVALUATION, rows)
        return figures(rows)

    def engine(self, number: int) -> TransformersEngine:
        """The model after that round, always as it is on disk; the one before is let go."""
        if self.loaded is None or self.loaded[0] != number:
            self.loaded = None
            gc.collect()  # a trainer refers to itself, and would hold its model beside the new one
            settings, name = asdict(self.base), self.base.name
            budget = check_memory(settings.pop("memory_gib"))
            if number:
                settings |= {"name": str(self.out / f"round-{number}" / MODEL), "revision": None}
                name += f" after round {number}"
            self.loaded = number, TransformersEngine(*load_trainable(settings), name=name, memory_bytes=budget)
        return self.loaded[1]


def _check(
    engine: TransformersEngine, problems: Sequence[Problem], held_out: Sequence[Problem], settings: RoundsConfig
) -> None:
    """What can be known to be wrong before any work is done."""
    from accelerate import PartialState

    if PartialState().num_processes > 1:
        raise UserError("rounds sample and tune in one process: start them without a launcher of several")
    check_trainable(engine.model, settings.tuning)
    for name in ("rounds", "n", "eval_n"):
        if (value := getattr(settings, name)) < 1:
            raise UserError(f"{name} must be at least 1, but is {value}")
    validate(settings.sampling)
    if settings.sampling.temperature == 0:
        raise UserError("the temperature must be above 0: all greedy responses to a problem are the same")
    check_filter(settings.filter)
    for what, some in (("to tune on", problems), ("held out", held_out)):
        if not some:
            raise UserError(f"there are no problems {what}")
        if len({p.id for p in some}) < len(some):
            raise UserError(f"two of the problems {what} have the same id; each needs its own")
    questions = {p.question for p in problems}
    if both := next((p for p in held_out if p.question in questions), None):
        raise UserError(f"the held-out problem {both.id} is also one to tune on; its answer would not be held out")
    check_prompts(engine, [*problems, *held_out], settings.prompt, settings.sampling.max_tokens)
