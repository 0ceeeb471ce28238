"""`forkpoint train slm`: language modeling on the tokens of a corpus that a rule selects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from forkpoint.cli.pretraining import run_pretraining
from forkpoint.cli.pretraining_options import PretrainingOptions, check_corpus
from forkpoint.cli.training_options import parse_training
from forkpoint.training.processes import as_one
from forkpoint.types import UserError


@dataclass(frozen=True)
class SlmOptions(PretrainingOptions):
    """Train a model on the useful tokens of a corpus (Rho-1, arXiv 2404.07965).

    Takes a store of `forkpoint score`, or --data and a --reference that is asked at each step. Any other field of
    transformers' TrainingArguments is an option too, under its own name. Writes checkpoints, then model/,
    summary.json and report.html; started again, the same command goes on from the last checkpoint.
    """

    rule: Literal[
        "excess_loss", "reference_loss", "reference_entropy", "loss", "random", "union", "intersection"
    ] = "excess_loss"  # fmt: skip
    """what tokens are ranked by: excess_loss (high), reference_loss (low), reference_entropy (low), union or
    intersection of the last two, loss (high; no reference), random (the control)"""
    ratio: float = 0.6
    """share of the tokens that is kept; for union and intersection that of reference_loss"""
    entropy_ratio: float | None = None
    """union, intersection: share of reference_entropy (default: ratio)"""
    scope: Literal["sequence", "micro_batch", "batch"] = "batch"
    """what is ranked together: a row, a process's forward pass, or an optimizer step over all processes"""
    ratio_warmup: float = 0.0
    """steps, or below 1 the share of all steps, in which the kept share falls from 1 to ratio"""
    reference: str | None = None
    """model asked for the scores at each step, in place of a store's"""


OPTIONS = SlmOptions  # a recipe checks its stages against it


def parse_options(argv: list[str]) -> tuple[SlmOptions, dict[str, Any]]:
    """The options, and further TrainingArguments."""
    options, more = parse_training("train slm", SlmOptions, argv)
    check_corpus(options)
    rule = rule_of(options)
    if rule.needs_reference and options.store is None and options.reference is None:
        raise UserError(
            f"the rule {rule.score} needs a reference model: its scores with --store, made by `forkpoint score`, or "
            "the model itself with --reference"
        )
    if options.reference is not None and not rule.needs_reference:
        raise UserError(f"the rule {rule.score} asks no reference model; leave out --reference")
    return options, more


def rule_of(options: SlmOptions) -> Any:
    """The selection rule. UserError for one out of range."""
    from forkpoint.weights.rules import Rule, check_rule

    rule = Rule(options.rule, options.ratio, options.entropy_ratio, options.scope, options.ratio_warmup)
    check_rule(rule)
    return rule


def run(argv: list[str]) -> None:
    """Parse the arguments and train."""
    with as_one():
        options, more = parse_options(argv)
        run_pretraining("train slm", argv, options, more, rule_of(options), options.reference)
