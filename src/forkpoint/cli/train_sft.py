"""`forkpoint train sft`: supervised fine-tuning on the chosen responses of pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from forkpoint.cli.training import run_training
from forkpoint.cli.training_options import TrainingOptions, parse_training
from forkpoint.training.processes import as_one


@dataclass(frozen=True)
class SftOptions(TrainingOptions):
    """Fine-tune a model on the chosen responses of pairs, by TRL's SFT trainer.

    Any other field of transformers' TrainingArguments is an option too, under its own name. Writes checkpoints, then
    model/, summary.json and report.html; started again, the same command goes on from the last checkpoint.
    """


OPTIONS = SftOptions  # a recipe checks its stages against it


def parse_options(argv: list[str]) -> tuple[SftOptions, dict[str, Any]]:
    """The options, and further TrainingArguments."""
    return parse_training("train sft", SftOptions, argv)


def run(argv: list[str]) -> None:
    """Parse the arguments and train."""
    with as_one():
        options, more = parse_options(argv)
        run_training("train sft", argv, options, more, None)
