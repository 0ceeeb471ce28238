"""`forkpoint rounds`: fine-tune a model on its own right answers, round by round."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from forkpoint.cli.option_groups import LocalOptions, SamplingOptions, TaskOptions, values_of
from forkpoint.cli.progress import progress_bar
from forkpoint.cli.setup import announce_sampling, problems_apart, problems_of, sampling_of
from forkpoint.cli.train import FittingOptions, check_fitting, config_of
from forkpoint.cli.verb import Verb
from forkpoint.types import UserError


@dataclass
class RoundsOptions(FittingOptions, SamplingOptions, TaskOptions, LocalOptions):
    """Fine-tune a model in rounds: sample, verify, leave out what it finds likely already, tune on the rest.

    Each round starts from the model of the one before. Writes round-0/ (the base model, evaluated), round-1/, ..., each
    with samples.jsonl, model/ and evaluation.jsonl, and summary.json, rounds.svg and report.html.
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


def tune(options: RoundsOptions, out: Path) -> list[Path]:
    """Do the rounds, and draw the figure."""
    from forkpoint.training.models import require_training

    require_training()  # before anything is loaded
    from forkpoint.files import write_whole
    from forkpoint.report.figures.charts import rounds_svg
    from forkpoint.training.configs import TrainingConfig
    from forkpoint.training.models import MODEL
    from forkpoint.training.own_answers import LikelihoodFilter
    from forkpoint.training.rounds import Base, RoundsConfig, tune_in_rounds

    sampling, tuning = sampling_of(options), config_of(TrainingConfig, options)
    left_out = LikelihoodFilter(**values_of(options, LikelihoodFilter, kind=options.filter))
    settings = RoundsConfig(**values_of(options, RoundsConfig, sampling=sampling, filter=left_out, tuning=tuning))
    base = Base(**values_of(options, Base, name=options.model))
    held_out = problems_of(
        replace(options, split=options.eval_split, data=options.eval_data or options.data, limit=options.eval_limit)
    )
    problems = problems_apart(options, {p.question for p in held_out})
    if not problems:
        raise UserError("every problem to tune on is held out: name others with --eval_data or --eval_split")
    announce_sampling("rounds", options, out, len(problems), options.n * options.rounds)
    with progress_bar(options.quiet) as progress:
        summary = tune_in_rounds(base, problems, held_out, settings, out, task=options.task, progress=progress)
    write_whole(out / "rounds.svg", rounds_svg({options.filter: summary}) + "\n")
    models = [out / f"round-{row['round']}" / MODEL for row in summary["results"] if "training" in row]
    return [*models[-1:], out / "rounds.svg"]


def check_end(options: RoundsOptions, out: Path) -> None:
    """UserError where the rounds ended early, for want of responses to tune on."""
    from forkpoint.files import SUMMARY, read_json

    if why := read_json(out / SUMMARY)["stopped"]:
        raise UserError(why)


VERBS = (Verb("rounds", RoundsOptions, tune, check_fitting, check_end),)
