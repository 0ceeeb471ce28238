"""`forkpoint train fork-dpo`: preference at single tokens where rollouts fork."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from forkpoint.cli.training import run_training
from forkpoint.cli.training_options import StoredReferenceOptions, parse_training
from forkpoint.losses.methods import Objective, objective
from forkpoint.training.processes import as_one


@dataclass(frozen=True)
class ForkDpoOptions(StoredReferenceOptions):
    """Train a model on pairs of single tokens with fork DPO: the token that rescues a response against its own.

    Any other field of transformers' TrainingArguments is an option too, under its own name. Writes checkpoints, then
    model/, summary.json and report.html; started again, the same command goes on from the last checkpoint.
    """


OPTIONS = ForkDpoOptions  # a recipe checks its stages against it


def loss_of(options: ForkDpoOptions) -> Objective:
    """The loss with its constants. UserError for one out of range."""
    return objective("fork-dpo", options.beta)


def parse_options(argv: list[str]) -> tuple[ForkDpoOptions, dict[str, Any]]:
    """The options, and further TrainingArguments."""
    options, more = parse_training("train fork-dpo", ForkDpoOptions, argv)
    loss_of(options)
    return options, more


def run(argv: list[str]) -> None:
    """Parse the arguments and train."""
    with as_one():
        options, more = parse_options(argv)
        run_training("train fork-dpo", argv, options, more, loss_of(options))
