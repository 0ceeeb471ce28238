"""`forkpoint rounds`: fine-tune a model on its own right answers, round by round."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from forkpoint.cli.finish import finish
from forkpoint.cli.options import LocalOptions, SamplingOptions, TaskOptions
from forkpoint.cli.setup import announce_sampling, default_directory, problems_of, sampling_of
from forkpoint.cli.training import config_of
from forkpoint.cli.training_options import FittingOptions, parse_training
from forkpoint.types import Problem, UserError


@dataclass(frozen=True)
class RoundsOptions(FittingOptions, SamplingOptions, TaskOptions, LocalOptions):
    """Fine-tune a model in rounds: sample, verify, leave out what it finds likely already, tune on the rest.

    Each round starts from the model of the one before. Any other field of transformers' TrainingArguments is an option
    too, under its own name. Writes round-0/ (the base model, evaluated), round-1/, ..., each with samples.jsonl, model/
    and evaluation.jsonl, and summary.json, rounds.svg and report.html; started again, the same command goes on where it
    stopped.
    """

    split: str = "train"
    """the Hub data set's split of the problems to tune on; for the lab, test or train"""
    limit: int | None = None
    """only the first N problems to tune on"""
    eval_split: str = "test"
    """the split of the held-out problems"""
    eval_data: str | None = None
    """local JSON Lines file of the held-out problems (default: --data)"""
    eval_limit: int | None = None
    """only the first N held-out problems"""
    rounds: int = 3
    """how many rounds"""
    n: int = 8
    """responses sampled for each problem and round"""
    eval_n: int = 16
    """responses sampled for each held-out problem after each round, beside a greedy one"""
    filter: Literal["none", "example", "token"] = "none"
    """what is left out of the right responses: nothing, the likeliest ones, or the loss on the likeliest tokens"""
    keep_quantile: float = 0.5
    """filter example: the share of right responses that is kept, the least likely by mean log-probability"""
    max_token_probability: float = 0.9
    """filter token: tokens with a probability above this have no loss"""
    num_train_epochs: float = 1.0
    """passes over the right responses of a round"""
    seed: int = 0
    """seed of every random draw; each round's own is made of it and the round's number"""


OPTIONS = RoundsOptions  # a recipe checks its stages against it


def parse_options(argv: list[str]) -> tuple[RoundsOptions, dict[str, Any]]:
    """The options, and further TrainingArguments."""
    return parse_training("rounds", RoundsOptions, argv)


def run(argv: list[str]) -> None:
    """Parse the arguments, do the rounds, print and draw the figures."""
    options, more = parse_options(argv)
    from forkpoint.training.models import require_training

    require_training()  # before anything is loaded
    from forkpoint.cli.progress import progress_bar
    from forkpoint.files import write_whole
    from forkpoint.report.figures.charts import rounds_svg
    from forkpoint.training.configs import TrainingConfig
    from forkpoint.training.models import MODEL
    from forkpoint.training.own_answers import LikelihoodFilter
    from forkpoint.training.rounds import Base, RoundsConfig, tune_in_rounds

    settings = RoundsConfig(
        options.rounds, options.n, options.eval_n, options.prompt, sampling_of(options, options.task),
        LikelihoodFilter(options.filter, options.keep_quantile, options.max_token_probability),
        config_of(TrainingConfig, options, more, save_dtype=options.save_dtype),
    )  # fmt: skip
    given = asdict(options) | {"name": options.model}
    base = Base(**{f.name: given[f.name] for f in fields(Base)})
    held_out = problems_of(
        replace(options, split=options.eval_split, data=options.eval_data or options.data, limit=options.eval_limit)
    )
    problems = _others(options, held_out)
    out = options.out or default_directory("rounds", options, more)
    announce_sampling("rounds", options, out, len(problems), options.n * options.rounds)
    with progress_bar(options.quiet, out) as progress:
        summary = tune_in_rounds(base, problems, held_out, settings, out, task=options.task, progress=progress)
    write_whole(out / "rounds.svg", rounds_svg({options.filter: summary}) + "\n")
    models = [out / f"round-{row['round']}" / MODEL for row in summary["results"] if "training" in row]
    finish("rounds", argv, out, *models[-1:], out / "rounds.svg")
    if summary["stopped"]:
        raise UserError(summary["stopped"])


def _others(options: RoundsOptions, held_out: list[Problem]) -> list[Problem]:
    """The first `limit` problems whose questions are not held out."""
    questions = {p.question for p in held_out}
    limit = options.limit and options.limit + len(questions)
    found = [p for p in problems_of(replace(options, limit=limit)) if p.question not in questions][: options.limit]
    if not found:
        raise UserError("every problem to tune on is held out: name others with --eval-data or --eval-split")
    return found
