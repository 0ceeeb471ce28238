"""`forkpoint train tdpo`: token-level DPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from forkpoint.cli.training import run_training
from forkpoint.cli.training_options import PreferenceOptions, parse_training
from forkpoint.losses.methods import Objective, objective
from forkpoint.training.processes import as_one


@dataclass(frozen=True)
class TdpoOptions(PreferenceOptions):
    """Train a model on pairs with TDPO: DPO and the KL divergence from the reference at every token (arXiv 2404.11999).

    Any other field of transformers' TrainingArguments is an option too, under its own name. Writes checkpoints, then
    model/, summary.json and report.html; started again, the same command goes on from the last checkpoint.
    """

    variant: Literal[1, 2] = 2
    """TDPO1, or TDPO2 with the paper's alpha and no gradient through the chosen response's divergence"""
    alpha: float | None = None
    """TDPO2: weight of the divergence (default: 0.5)"""


OPTIONS = TdpoOptions  # a recipe checks its stages against it


def loss_of(options: TdpoOptions) -> Objective:
    """The loss with its constants. UserError for one out of range."""
    return objective(f"tdpo{options.variant}", options.beta, options.alpha)


def parse_options(argv: list[str]) -> tuple[TdpoOptions, dict[str, Any]]:
    """The options, and further TrainingArguments."""
    options, more = parse_training("train tdpo", TdpoOptions, argv)
    loss_of(options)
    return options, more


def run(argv: list[str]) -> None:
    """Parse the arguments and train."""
    with as_one():
        options, more = parse_options(argv)
        run_training("train tdpo", argv, options, more, loss_of(options))
