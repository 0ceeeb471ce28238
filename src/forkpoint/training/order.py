"""The order of training rows: random, with rows of similar length side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler
from transformers import TrainerCallback

GROUP = 50  # steps within which rows of similar length are put together


class ByLength(Sampler[int]):
    """A random order in which the rows of one optimizer step are of similar length; a function of seed and epoch."""

    def __init__(self, lengths: Sequence[int] | np.ndarray, step: int, seed: int) -> None:
        self.lengths, self.step, self.seed = np.asarray(lengths), step, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.lengths))
        steps = []
        for at in range(0, len(order), self.step * GROUP):
            group = order[at : at + self.step * GROUP]
            group = group[np.argsort(self.lengths[group], kind="stable")]
            steps += [group[i : i + self.step] for i in range(0, len(group), self.step)]
        whole = [s for s in steps if len(s) == self.step]
        rest = [s for s in steps if len(s) < self.step]  # at most one, which must come last
        shuffled = [whole[i] for i in rng.permutation(len(whole))] + rest
        return iter(np.concatenate(shuffled).tolist())


class Epochs(TrainerCallback):  # type: ignore[misc]
    """Tells the sampler its epoch: after a resume a data loader of several processes no longer does."""

    def __init__(self, sampler: ByLength) -> None:
        self.sampler = sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.sampler.epoch = int((state.epoch or 0.0) + 1e-6)


def by_length(trainer: Any, lengths: Sequence[int] | np.ndarray) -> ByLength:
    """The sampler of a transformers Trainer whose rows have these lengths."""
    arguments = trainer.args
    step = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    seed = arguments.seed if arguments.data_seed is None else arguments.data_seed
    sampler = ByLength(lengths, step, seed)
    trainer.add_callback(Epochs(sampler))
    return sampler
