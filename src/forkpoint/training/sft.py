"""Supervised fine-tuning on given responses, by TRL's trainer: token ids as they are, the loss on the response only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from forkpoint.types import TokenIds

Row = dict[str, list[int]]
IGNORED = -100  # the label of a token without loss


def response_rows(responses: Iterable[tuple[TokenIds, TokenIds]]) -> list[Row]:
    """Prompts and responses as the rows of token ids and labels that TRL takes as they are."""
    return [
        {"input_ids": [*prompt, *ids], "labels": [*[IGNORED] * len(prompt), *ids]} for prompt, ids in responses
    ]  # fmt: skip


def sft_trainer(
    model: Any, tokenizer: Any, arguments: Any, rows: list[Row], evaluated: list[Row] | None = None, **others: Any
) -> Any:
    """TRL's SFTTrainer on such rows; `arguments` are an SFTConfig.

    Their order is the same for any number of processes.
    """
    import datasets
    from transformers.trainer_pt_utils import LengthGroupedSampler
    from trl import SFTTrainer

    class Ordered(SFTTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            sampler = super()._get_train_sampler(train_dataset)
            if isinstance(sampler, LengthGroupedSampler):
                sampler.batch_size *= self.args.world_size  # it knows of one process' share of a step
            return sampler

    data, held_out = (datasets.Dataset.from_list(part) if part else None for part in (rows, evaluated))
    return Ordered(
        model=model, args=arguments, train_dataset=data, eval_dataset=held_out, processing_class=tokenizer, **others
    )
