"""`forkpoint lab train`: make the embedded model again, from nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from forkpoint.cli.options import parse
from forkpoint.types import UserError


@dataclass(frozen=True)
class LabTrainOptions:
    """Train the lab's tokenizer and model from nothing, with the recipe of the shipped one."""

    out: Path = Path("runs/lab-model")
    """directory for the model and its tokenizer"""
    steps: int | None = None
    """optimizer steps (default: the shipped model's)"""
    seed: int = 0
    """seed of the corpus, the initial weights and the order of batches"""


OPTIONS = LabTrainOptions  # a recipe checks its stages against it


def run(argv: list[str]) -> None:
    """Train, reporting on stderr, and print where the model is."""
    options = parse("lab train", LabTrainOptions, argv)
    if options.steps is not None and options.steps < 1:
        raise UserError(f"--steps must be at least 1, but is {options.steps}")
    if options.out.exists() and any(options.out.iterdir()):
        raise UserError(f"{options.out} is not empty; choose another directory with --out")
    import sys

    from forkpoint.lab.train import LabRecipe, train_lab_model

    recipe = LabRecipe(seed=options.seed, **({} if options.steps is None else {"steps": options.steps}))
    train_lab_model(options.out, recipe, lambda line: print(line, file=sys.stderr, flush=True))
    print(options.out)
