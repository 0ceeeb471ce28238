"""`forkpoint train rpo`: DPO with a likelihood term on the chosen response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from forkpoint.cli.training import run_training
from forkpoint.cli.training_options import PreferenceOptions, parse_training


@dataclass(frozen=True)
class RpoOptions(PreferenceOptions):
    """Train a model on pairs with RPO: DPO and the likelihood of the chosen response (arXiv 2404.19733).

    Any other field of transformers' TrainingArguments is an option too, under its own name. Writes checkpoints, then
    model/ and summary.json; started again, the same command goes on from the last checkpoint.
    """

    alpha: float = 1.0
    """weight of the chosen response's mean log-likelihood"""


OPTIONS = RpoOptions  # a recipe checks its stages against it


def parse_options(argv: list[str]) -> tuple[RpoOptions, dict[str, Any]]:
    """The options, and further TrainingArguments."""
    return parse_training("train rpo", RpoOptions, argv)


def run(argv: list[str]) -> None:
    """Parse the arguments and train."""
    options, more = parse_options(argv)
    from forkpoint.preference.objective import objective

    run_training(options, more, "train rpo", objective("rpo", options.beta, options.alpha))
