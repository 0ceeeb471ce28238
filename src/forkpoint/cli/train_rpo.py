"""`forkpoint train rpo`: DPO with a likelihood term on the chosen response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from forkpoint.cli.training import run_training
from forkpoint.cli.training_options import StoredReferenceOptions, parse_training
from forkpoint.losses.methods import Objective, objective
from forkpoint.training.processes import as_one


@dataclass(frozen=True)
class RpoOptions(StoredReferenceOptions):
    """Train a model on pairs with RPO: DPO and the likelihood of the chosen response (arXiv 2404.19733).

    Any other field of transformers' TrainingArguments is an option too, under its own name. Writes checkpoints, then
    model/, summary.json and report.html; started again, the same command goes on from the last checkpoint.
    """

    alpha: float = 1.0
    """weight of the chosen response's mean log-likelihood"""


OPTIONS = RpoOptions  # a recipe checks its stages against it


def loss_of(options: RpoOptions) -> Objective:
    """The loss with its constants. UserError for one out of range."""
    return objective("rpo", options.beta, options.alpha)


def parse_options(argv: list[str]) -> tuple[RpoOptions, dict[str, Any]]:
    """The options, and further TrainingArguments."""
    options, more = parse_training("train rpo", RpoOptions, argv)
    loss_of(options)
    return options, more


def run(argv: list[str]) -> None:
    """Parse the arguments and train."""
    with as_one():
        options, more = parse_options(argv)
        run_training("train rpo", argv, options, more, loss_of(options))
