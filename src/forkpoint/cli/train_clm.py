"""`forkpoint train clm`: causal language modeling on every token of a corpus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from forkpoint.cli.pretraining import run_pretraining
from forkpoint.cli.pretraining_options import PretrainingOptions, check_corpus
from forkpoint.cli.training_options import parse_training
from forkpoint.training.processes import as_one


@dataclass(frozen=True)
class ClmOptions(PretrainingOptions):
    """Train a model on every token of a corpus: a reference model on clean text, or the control of `train slm`.

    Any other field of transformers' TrainingArguments is an option too, under its own name. Writes checkpoints, then
    model/, summary.json and report.html; started again, the same command goes on from the last checkpoint.
    """


OPTIONS = ClmOptions  # a recipe checks its stages against it


def parse_options(argv: list[str]) -> tuple[ClmOptions, dict[str, Any]]:
    """The options, and further TrainingArguments."""
    options, more = parse_training("train clm", ClmOptions, argv)
    check_corpus(options)
    return options, more


def run(argv: list[str]) -> None:
    """Parse the arguments and train."""
    with as_one():
        options, more = parse_options(argv)
        run_pretraining("train clm", argv, options, more)
