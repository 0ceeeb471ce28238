"""`forkpoint train critical-dpo`: DPO in which the critical tokens of the rejected response count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from forkpoint.cli.training import run_training
from forkpoint.cli.training_options import StoredReferenceOptions, parse_training
from forkpoint.losses.methods import Objective, objective
from forkpoint.training.processes import as_one


@dataclass(frozen=True)
class CriticalDpoOptions(StoredReferenceOptions):
    """Train a model on pairs with critical DPO (arXiv 2411.19943), called cDPO there; `train cdpo` is the same.

    Any other field of transformers' TrainingArguments is an option too, under its own name. Writes checkpoints, then
    model/, summary.json and report.html; started again, the same command goes on from the last checkpoint.
    """

    beta: float = 1.0
    """the paper's gamma: the loss sees beta times the log-ratios, those of rejected tokens times their weights"""


OPTIONS = CriticalDpoOptions  # a recipe checks its stages against it


def loss_of(options: CriticalDpoOptions) -> Objective:
    """The loss with its constants. UserError for one out of range."""
    return objective("critical-dpo", options.beta)


def parse_options(argv: list[str]) -> tuple[CriticalDpoOptions, dict[str, Any]]:
    """The options, and further TrainingArguments."""
    options, more = parse_training("train critical-dpo", CriticalDpoOptions, argv)
    loss_of(options)
    return options, more


def run(argv: list[str]) -> None:
    """Parse the arguments and train."""
    with as_one():
        options, more = parse_options(argv)
        run_training("train critical-dpo", argv, options, more, loss_of(options))
