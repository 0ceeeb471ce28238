"""The options of the verbs that train on a corpus: `train clm` and `train slm`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from forkpoint.cli.corpus import context_of
from forkpoint.cli.corpus_options import CorpusOptions
from forkpoint.cli.training_options import FittingOptions
from forkpoint.types import UserError


@dataclass(frozen=True)
class PretrainingOptions(FittingOptions, CorpusOptions):
    """How a model is trained on a corpus."""

    store: Path | None = None
    """a store of `forkpoint score` to train on, in place of --data"""
    eval_data: str | None = None
    """held-out text, or a store: its mean loss is logged after each epoch, or as eval_strategy says"""
    from_scratch: bool = False
    """begin with new weights, drawn from the seed, for the model's configuration and tokenizer"""
    snapshots: int = 0
    """keep this many models on the way, the first and the last included"""
    merge: bool = False
    """with adapters: save a whole model, the adapters added to its weights"""
    num_train_epochs: float = 1.0
    """passes over the rows"""
    per_device_train_batch_size: int = 8
    """rows at a time"""


def check_corpus(options: PretrainingOptions) -> None:
    """UserError where the options do not name one corpus to train on."""
    if (options.store is None) == (options.data is None):
        raise UserError("name what to train on: --store, made by `forkpoint score`, or --data, but not both")
    if options.store is None:
        context_of(options)
