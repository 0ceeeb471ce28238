"""`forkpoint select`: the tokens of a store that a rule selects, as labels that any trainer takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from forkpoint.cli.corpus_options import StoreOptions, store_of
from forkpoint.cli.finish import finish
from forkpoint.cli.options import parse
from forkpoint.cli.setup import default_directory


@dataclass(frozen=True)
class SelectOptions(StoreOptions):
    """Write a store's rows with labels, -100 for every token that a rule leaves out: a data set for any trainer.

    Only rules that know their tokens before training: excess_loss and loss need the trained model, so `train slm`.
    """

    rule: Literal["reference_loss", "reference_entropy", "union", "intersection", "random"] = "reference_loss"
    """what tokens are ranked by: reference_loss (low), reference_entropy (low), both, or random (the control)"""
    ratio: float = 0.6
    """share of the tokens that is kept; for union and intersection that of reference_loss"""
    entropy_ratio: float | None = None
    """union, intersection: share of reference_entropy (default: ratio)"""
    scope: Literal["sequence", "corpus"] = "sequence"
    """what is ranked together: each row, or all of the store"""
    seed: int = 0
    """seed of the rule random, and of the choice between equal scores"""


OPTIONS = SelectOptions  # a recipe checks its stages against it


def parse_options(argv: list[str]) -> SelectOptions:
    """The options. UserError where no store is named."""
    options = parse("select", SelectOptions, argv)
    store_of(options)
    return options


def run(argv: list[str]) -> None:
    """Parse the arguments, write the labels, print how many."""
    options = parse_options(argv)
    from forkpoint.cli.progress import progress_bar
    from forkpoint.scores.store import open_store
    from forkpoint.training.selection_labels import export_labels
    from forkpoint.weights.rules import Rule

    out = options.out or default_directory("select", options)
    rule = Rule(options.rule, options.ratio, options.entropy_ratio)
    with progress_bar(options.quiet, out) as progress:
        export_labels(
            open_store(store_of(options)), rule, out, scope=options.scope, seed=options.seed, progress=progress
        )
    finish("select", argv, out, out)
