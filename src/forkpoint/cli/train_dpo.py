"""`forkpoint train dpo`: Direct Preference Optimization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from forkpoint.cli.training import run_training
from forkpoint.cli.training_options import PreferenceOptions, parse_training


@dataclass(frozen=True)
class DpoOptions(PreferenceOptions):
    """Train a model on pairs with DPO (arXiv 2305.18290).

    Any other field of transformers' TrainingArguments is an option too, under its own name. Writes checkpoints, then
    model/ and summary.json; started again, the same command goes on from the last checkpoint.
    """


OPTIONS = DpoOptions  # a recipe checks its stages against it


def parse_options(argv: list[str]) -> tuple[DpoOptions, dict[str, Any]]:
    """The options, and further TrainingArguments."""
    return parse_training("train dpo", DpoOptions, argv)


def run(argv: list[str]) -> None:
    """Parse the arguments and train."""
    options, more = parse_options(argv)
    from forkpoint.preference.objective import objective

    run_training(options, more, "train dpo", objective("dpo", options.beta))
