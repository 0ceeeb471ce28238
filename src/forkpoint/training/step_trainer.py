"""What our trainers share: a loss over a whole optimizer step, the output matrix by itself, and the order of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler, SequentialSampler
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from forkpoint.engines.local.head import head_of
from forkpoint.training.configs import TrainingConfig, rate_of

Inputs = dict[str, Tensor]
GROUP = 50  # steps within which rows of similar length are put together


class StepTrainer(Trainer):  # type: ignore[misc]
    """`transformers.Trainer` whose loss is a sum over the rows of a step, however they are spread over micro-batches
    and processes: `step_loss` gives a batch's share. `lengths` are the training rows'; `ref_model` is frozen, or None.
    """

    def __init__(
        self, model: Any, args: TrainingConfig, train: Any, evaluation: Any, collate: Callable[..., Inputs],
        lengths: Sequence[int] | np.ndarray, ref_model: PreTrainedModel | None, **options: Any,
    ) -> None:  # fmt: skip
        args.learning_rate = rate_of(args, model)
        if args.evaluates_by_default and evaluation is not None:
            args.eval_strategy = IntervalStrategy.EPOCH
        super().__init__(model, args, data_collator=collate, train_dataset=train, eval_dataset=evaluation, **options)
        if self.is_deepspeed_enabled or args.n_gpu > 1:
            raise ValueError("one process trains on one device, without DeepSpeed: the output matrix is used by itself")
        if self.is_fsdp_enabled:  # bfloat16 by autocast alone, as where nothing is sharded
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = None
        self.loss_is_scaled_for_ga = True
        self.lengths, self.ref_model, self.head = lengths, ref_model, head_of(model)
        if ref_model is not None:
            ref_model.requires_grad_(False).eval().to(self.accelerator.device)
        self.ref_head = self.head if ref_model is None else head_of(ref_model)

    def compute_loss(
        self, model: Any, inputs: Inputs, return_outputs: bool = False, num_items_in_batch: Tensor | None = None
    ) -> Any:
        """The loss, times the number of processes, over which gradients are averaged; of an evaluation the mean."""
        loss = self.step_loss(model, inputs, num_items_in_batch)
        if num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        return (loss, {}) if return_outputs else loss

    def prediction_step(self, model: Any, inputs: Any, *_: Any, **__: Any) -> tuple[Tensor, None, None]:
        """The mean loss of a batch."""
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, self._prepare_inputs(inputs)).detach(), None, None

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        return SequentialSampler(eval_dataset)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        a = self.args
        if a.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        step = a.per_device_train_batch_size * a.gradient_accumulation_steps * a.world_size
        sampler = ByLength(self.lengths, step, a.seed if a.data_seed is None else a.data_seed)
        self.add_callback(_Epochs(sampler))
        return sampler


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
        for group in np.split(order, range(self.step * GROUP, len(order), self.step * GROUP)):  # in place
            group[:] = group[np.argsort(self.lengths[group], kind="stable")]
        steps = np.split(order, range(self.step, len(order), self.step))
        whole = len(order) // self.step  # what is left of a step must come last
        shuffled = [*(steps[i] for i in rng.permutation(whole)), *steps[whole:]]
        return iter(np.concatenate(shuffled).tolist())


class _Epochs(TrainerCallback):  # type: ignore[misc]
    """Sets the sampler's epoch: after a resume a data loader of several processes no longer does."""

    def __init__(self, sampler: ByLength) -> None:
        self.sampler = sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.sampler.epoch = int((state.epoch or 0.0) + 1e-6)
