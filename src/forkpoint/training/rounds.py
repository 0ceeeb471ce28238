"""RoundsConfig of tuning on own right answers: sample, verify, leave out what is likely already, tune, evaluate.

Each round starts from the model of the one before. Resumable: samples and evaluations are journalled in units of fixed
problems, training goes on from its last checkpoint, a model's directory is there whole or not at all, and a finished
round is one file.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from forkpoint import __version__
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
from forkpoint.sampling.draw import key_hash
from forkpoint.sampling.limits import validate
from forkpoint.training.arguments import check_one_device, training_arguments
from forkpoint.training.card import model_card
from forkpoint.training.fit import fit
from forkpoint.training.heldout_eval import figures, mean_logprob, respond
from forkpoint.training.likelihood_filter import LikelihoodFilter, check_filter
from forkpoint.training.models import (
    MODEL,
    Lora,
    adapted,
    check_trainable,
    in_float32,
    is_adapter,
    load_trainable,
    save_trained,
)
from forkpoint.training.own_answers import choose, why_nothing
from forkpoint.training.rates import with_rate
from forkpoint.training.run_directory import CHECKPOINTS, remove_checkpoints
from forkpoint.training.sft import sft_trainer
from forkpoint.trajectories.rows import SAMPLES, SUMMARY, Row, check_prompts, sample_completions, trajectory_row
from forkpoint.trajectories.units import SAMPLED_UNIT, Progress, Units
from forkpoint.types import Problem, Results, Sampling, UserError

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

    `arguments` are TrainingArguments by name. With `lora` each round tunes new adapters and adds them to the weights.
    All seeds come of `sampling.seed`. Models are saved in the precision `save_dtype`, by default in the base's.
    """

    rounds: int = 3
    n: int = 8
    eval_n: int = 16
    prompt: str = "cot"
    sampling: Sampling = field(default_factory=Sampling)
    filter: LikelihoodFilter = field(default_factory=LikelihoodFilter)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    lora: Lora | None = None
    save_dtype: str | None = None


def tune_in_rounds(
    base: Base,
    problems: Sequence[Problem],
    held_out: Sequence[Problem],
    settings: RoundsConfig,
    out: Path,
    *,
    task: str = "custom",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Tune a model on its own right responses to the problems, round by round; returns summary.json's content.

    `out` gets a directory a round, with samples.jsonl, `model` and evaluation.jsonl (the responses to the held-out
    problems), and summary.json, whose `results` has a row a round; round 0 is the base model, evaluated. Where a round
    finds nothing to tune on, it is the last one, and `stopped` says why, else null. A repeated call goes on where the
    last one stopped.

    Raises UserError for missing libraries, settings out of range or that do not go together, problems that are in both
    sets or leave no room for a response, memory that runs out and a loss that is no number.
    """
    if is_adapter(base.name):
        raise UserError(f"{base.name} holds an adapter; merge it into its base first: forkpoint merge ADAPTER DIR")
    rated = with_rate(settings.arguments, "sft", adapters=settings.lora is not None, name=base.name)
    settings = replace(settings, arguments=rated)
    work = _RoundsRun(base, problems, held_out, settings, out, progress)
    _check(work.engine(0), problems, held_out, settings, out)
    run = {"verb": "rounds", "model": base.name, "task": task, **_plain(settings), "version": __version__}
    identity = {
        "engine": dict(work.engine(0).settings),
        "problems": fingerprint([asdict(p) for p in problems]),
        "held_out": fingerprint([asdict(p) for p in held_out]),
    }
    with claimed(out, run | identity):
        if not (out / SUMMARY).exists():
            results: list[dict[str, Any]] = []
            while len(results) <= settings.rounds and not (results and results[-1]["stopped"]):
                results.append(work.round(len(results)))
            summary = run | {"results": results, "stopped": results[-1]["stopped"]}
            write_whole(out / SUMMARY, to_json(summary, indent=2) + "\n")
    return Results(read_json(out / SUMMARY))


def round_seed(seed: int, number: int) -> int:
    """The seed of a round's samples and training: a hash, so that no round of another seed shares it."""
    return key_hash(seed, f"round {number}") % 2**31


class _RoundsRun:
    """The rounds of one run, each of which takes from its directory what is done."""

    def __init__(
        self,
        base: Base,
        problems: Sequence[Problem],
        held_out: Sequence[Problem],
        settings: RoundsConfig,
        out: Path,
        progress: Progress | None,
    ) -> None:
        self.base, self.problems, self.held_out = base, problems, held_out
        self.settings, self.out, self.progress = settings, out, progress
        self.loaded: tuple[int, TransformersEngine] | None = None

    def round(self, number: int) -> dict[str, Any]:
        """The row of a round, done now or before."""
        directory = self.out / f"round-{number}"
        if not (directory / ROUND).exists():
            directory.mkdir(exist_ok=True)
            row = self.row(number, directory, Units(Journal(directory / JOURNAL), self.progress))
            write_whole(directory / ROUND, to_json(row, indent=2) + "\n")
        (directory / JOURNAL).unlink(missing_ok=True)
        return dict(read_json(directory / ROUND))

    def row(self, number: int, directory: Path, units: Units) -> dict[str, Any]:
        """Sample, choose, tune and evaluate; of round 0, the last alone."""
        row: dict[str, Any] = {"round": number, "stopped": None}
        if number:
            samples = self.sample(number, units)
            examples, row["samples"] = choose(samples, self.settings.filter)
            write_whole(directory / SAMPLES, (to_json(one) + "\n" for one in samples))
            if not examples:
                why = why_nothing(row["samples"], self.settings.filter)
                return row | {"stopped": f"round {number} has nothing to tune on: {why}"}
            row["training"] = self.tune(number, directory, examples)
        return row | {"held_out": self.evaluate(number, directory, units)}

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
        s = self.settings
        if not (directory / MODEL).exists():
            engine = self.engine(number - 1)
            self.loaded = None  # its weights are going to change
            seed = round_seed(s.sampling.seed, number)
            arguments = _arguments(s, directory, engine.model, seed)
            lora = s.lora and replace(s.lora, merge=True)  # the next round samples from a whole model
            came_in = in_float32(engine.model, lora)
            model = adapted(engine.model, lora, seed)
            tokens = sum(len(row["input_ids"]) for row in examples)
            step = None if self.progress is None else partial(self.progress, f"round {number}, training steps")
            trainer = sft_trainer(model, engine.tokenizer, arguments, examples)
            fitted = fit(trainer, tokens, step)
            facts = {"examples": len(examples), "tokens_in_an_epoch": tokens, "steps": fitted["steps"]}
            write_whole(directory / TRAINING, to_json(facts | fitted, indent=2) + "\n")
            card = self.card(number, facts)
            policy = trainer.accelerator.unwrap_model(trainer.model)
            save_trained(policy, engine.tokenizer, lora, card, directory / MODEL, dtype=s.save_dtype or came_in)
        remove_checkpoints(directory)
        return {name: value for name, value in read_json(directory / TRAINING).items() if name != "history"}

    def card(self, number: int, facts: dict[str, Any]) -> str:
        """README.md of a round's model."""
        how = f"supervised fine-tuning on own right answers, by TRL, round {number}"
        return model_card(f"{self.base.name} after round {number}", self.base.name, how, _plain(self.settings), facts)

    def evaluate(self, number: int, directory: Path, units: Units) -> dict[str, Any]:
        """The figures of the round's model; all rounds draw the same random numbers for them."""
        s = self.settings

        def ask(part: Sequence[Problem]) -> list[Row]:
            return respond(self.engine(number), part, s.sampling, n=s.eval_n, prompt=s.prompt)

        size = max(1, SAMPLED_UNIT // (s.eval_n + 1))
        rows = units.rows(f"round {number}, held-out problems", self.held_out, size, partial(map, ask))
        write_whole(directory / EVALUATION, (to_json(row) + "\n" for row in rows))
        return figures(rows)

    def engine(self, number: int) -> TransformersEngine:
        """The model after that round, always as it is on disk; the one before is let go."""
        if self.loaded is None or self.loaded[0] != number:
            self.loaded = None
            gc.collect()  # a trainer refers to itself, and would hold its model beside the new one
            settings = asdict(self.base)
            memory = settings.pop("memory_gib")
            if number:
                settings |= {"name": str(self.out / f"round-{number}" / MODEL), "revision": None}
            model, tokenizer = load_trainable(settings)
            budget = None if memory is None else int(memory * 2**30)
            name = self.base.name if number == 0 else f"{self.base.name} after round {number}"
            self.loaded = number, TransformersEngine(model, tokenizer, name=name, memory_bytes=budget)
        return self.loaded[1]


def _arguments(settings: RoundsConfig, directory: Path, model: PreTrainedModel, seed: int) -> Any:
    from trl import SFTConfig

    return training_arguments({**settings.arguments, "seed": seed}, directory / CHECKPOINTS, model, SFTConfig)


def _check(
    engine: TransformersEngine,
    problems: Sequence[Problem],
    held_out: Sequence[Problem],
    settings: RoundsConfig,
    out: Path,
) -> None:
    """What can be known to be wrong before any work is done."""
    from accelerate import PartialState

    if PartialState().num_processes > 1:
        raise UserError("rounds sample and tune in one process: start them without a launcher of several")
    check_one_device(engine.model)
    check_trainable(engine.model, settings.lora)
    for name in ("rounds", "n", "eval_n"):
        if getattr(settings, name) < 1:
            raise UserError(f"{name} must be at least 1, but is {getattr(settings, name)}")
    validate(settings.sampling)
    if settings.sampling.temperature == 0:
        raise UserError("the temperature must be above 0: all greedy responses to a problem are the same")
    check_filter(settings.filter)
    _check_problems(problems, held_out)
    check_prompts(engine, [*problems, *held_out], settings.prompt, settings.sampling.max_tokens)
    _arguments(settings, out, engine.model, 0)


def _check_problems(problems: Sequence[Problem], held_out: Sequence[Problem]) -> None:
    for what, some in (("to tune on", problems), ("held out", held_out)):
        if not some:
            raise UserError(f"there are no problems {what}")
        if len({p.id for p in some}) < len(some):
            raise UserError(f"two of the problems {what} have the same id; each needs its own")
    questions = {p.question for p in problems}
    if both := next((p for p in held_out if p.question in questions), None):
        raise UserError(f"the held-out problem {both.id} is also one to tune on; its answer would not be held out")


def _plain(settings: RoundsConfig) -> dict[str, Any]:
    return dict(json.loads(to_json(asdict(settings))))
