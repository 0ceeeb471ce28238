"""`forkpoint dynamics`: how the loss of each token moves over the checkpoints of a training."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forkpoint.cli.corpus_options import StoreOptions, store_of
from forkpoint.cli.finish import finish
from forkpoint.cli.options import LoadingOptions, parse
from forkpoint.cli.setup import default_directory, loading_settings
from forkpoint.types import UserError


@dataclass(frozen=True)
class DynamicsOptions(StoreOptions, LoadingOptions):
    """Class the tokens of a store by how their loss moves over checkpoints (Rho-1, arXiv 2404.07965).

    Writes the losses, documents.jsonl, summary.json and report.html, a page with the classes' table and curves and
    documents whose tokens are coloured by class or score. Started again, the same command goes on where it stopped.
    """

    checkpoints: list[str] = field(default_factory=list)
    """models in the order of training, or a directory of them, such as a training's snapshots/; repeatable"""
    limit: int = 2000
    """only the first N rows of the store"""
    shown: int = 50
    """rows on the page"""


OPTIONS = DynamicsOptions  # a recipe checks its stages against it


def parse_options(argv: list[str]) -> DynamicsOptions:
    """The options. UserError for what can be known to be wrong without a model."""
    options = parse("dynamics", DynamicsOptions, argv)
    store_of(options)
    if not options.checkpoints:
        raise UserError("name the models with --checkpoints, in the order of training, or a directory of them")
    for name in ("limit", "shown"):
        if getattr(options, name) < 1:
            raise UserError(f"{name} must be at least 1, but is {getattr(options, name)}")
    return options


def run(argv: list[str]) -> None:
    """Parse the arguments, compute the losses, print the classes."""
    options = parse_options(argv)
    from forkpoint.cli.progress import progress_bar
    from forkpoint.engines.loading import load_pretrained
    from forkpoint.scores.checkpoint_losses import checkpoints_of, study
    from forkpoint.scores.store import open_store

    def load(name: str) -> tuple[Any, Any]:
        return load_pretrained(name, **loading_settings(options))

    checkpoints = checkpoints_of([Path(path) for path in options.checkpoints])
    store = open_store(store_of(options))
    out = options.out or default_directory("dynamics", options)
    with progress_bar(options.quiet, out) as progress:
        study(load, checkpoints, store, out, limit=options.limit, shown=options.shown, progress=progress)
    finish("dynamics", argv, out)
