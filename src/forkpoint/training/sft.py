"""Supervised fine-tuning on responses, by TRL's trainer: token ids as they are, the loss on the response only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from forkpoint.losses.language_modeling import weighted_nll
from forkpoint.training.store_batches import IGNORED
from forkpoint.types import TokenIds


def response_row(prompt: TokenIds, ids: TokenIds, weights: Sequence[float] | None = None) -> dict[str, list[Any]]:
    """A prompt and its response as a row; tokens of weight 0 are labelled as without loss.

    {"input_ids": [5, 6, 7, 2], "labels": [-100, -100, 7, 2], "weights": [0.0, 0.0, 0.5, 1.0]}
    """
    row: dict[str, list[Any]] = {"input_ids": [*prompt, *ids], "labels": [*[IGNORED] * len(prompt), *ids]}
    if weights is not None:
        row["weights"] = [*[0.0] * len(prompt), *weights]
        row["labels"] = [token if w else IGNORED for token, w in zip(row["input_ids"], row["weights"], strict=True)]
    return row


class WeightedSft(SFTTrainer):  # type: ignore[misc]
    """TRL's SFTTrainer, with weighted tokens, and an order that is the same for any number of processes."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: torch.Tensor | None = None
    ) -> Any:
        """TRL's, or with weights the weighted sum over the number of tokens whose weight is not 0."""
        if (weights := inputs.pop("weights", None)) is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        outputs = model(**inputs, use_cache=False, fused_lm_head=True)
        count = outputs.label_mask.sum() if num_items_in_batch is None else num_items_in_batch
        loss = weighted_nll(outputs.log_probs, weights[:, 1:], count)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        sampler = super()._get_train_sampler(train_dataset)
        if isinstance(sampler, LengthGroupedSampler):
            sampler.batch_size *= self.args.world_size  # it knows of one process' share of a step
        return sampler


class _WeightedCollator(DataCollatorForLanguageModeling):  # type: ignore[misc]
    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super().torch_call(examples)
        own = [torch.tensor(example["weights"]) for example in examples]
        batch["weights"] = pad_sequence(own, batch_first=True)
        return batch


def sft_trainer(
    model: Any, tokenizer: Any, arguments: Any, rows: Any, eval_rows: Any = None, **options: Any
) -> WeightedSft:
    """TRL's trainer on such rows, all of them with weights or none; `arguments` are an SFTConfig."""
    data, held_out = (datasets.Dataset.from_list(part) if part else None for part in (rows, eval_rows))
    if "weights" in rows[0]:
        options["data_collator"] = _WeightedCollator(pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id)
    return WeightedSft(
        model=model, args=arguments, train_dataset=data, eval_dataset=held_out, processing_class=tokenizer, **options
    )
