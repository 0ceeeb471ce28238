"""TrainingArguments from plain values: ours where the user says nothing, the user's under transformers' own names."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from transformers import HfArgumentParser, PreTrainedModel, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from forkpoint.types import UserError

FIXED = ("output_dir", "remove_unused_columns", "disable_tqdm", "resume_from_checkpoint", "logging_nan_inf_filter",
         "push_to_hub", "hub_token")  # fmt: skip
AT_LEAST_1 = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
ORDERS = ("random", "group_by_length", "sequential")


def names() -> frozenset[str]:
    """The names of TrainingArguments that a user may set."""
    return frozenset(f.name for f in fields(TrainingArguments) if f.init) - set(FIXED)


def parsed(flags: Sequence[str]) -> dict[str, Any]:
    """The values of `--name=value` flags of TrainingArguments, typed. UserError for a value that does not fit."""
    given = [flag[2:].partition("=")[0] for flag in flags]
    parser: Any = HfArgumentParser(TrainingArguments)
    parser.exit_on_error = False
    try:
        found = parser.parse_args(["--output_dir=.", *flags])  # not as TrainingArguments, which would take a device
    except (argparse.ArgumentError, ValueError, TypeError) as error:
        raise UserError(f"a training argument cannot be read: {error}") from error
    return {name: getattr(found, name) for name in given}


def training_arguments(
    values: Mapping[str, Any], out: Path, model: PreTrainedModel, kind: type[TrainingArguments] = TrainingArguments
) -> TrainingArguments:
    """TrainingArguments, or a subclass of them, with checkpoints in `out`, for a model that stands on its device.

    Raises UserError where transformers refuses a combination.
    """
    known = inspect.signature(kind).parameters
    newer = "activation_checkpointing" in known  # the name since transformers 5.20; TRL's own default is True
    settings: dict[str, Any] = {
        "output_dir": str(out), "remove_unused_columns": False, "disable_tqdm": True, "logging_nan_inf_filter": False,
        "dataloader_pin_memory": model.device.type == "cuda", "use_cpu": model.device.type == "cpu",
        "report_to": "none", "save_total_limit": 1, "max_length": None,  # TRL would cut at 1024
        "activation_checkpointing" if newer else "gradient_checkpointing": values.get("gradient_checkpointing", False),
    }  # fmt: skip
    if unknown := [name for name in values if name not in known]:
        raise UserError(f"{kind.__name__} has no {unknown[0]}")
    _check(values)
    try:
        found = kind(**{name: value for name, value in (settings | dict(values)).items() if name in known})
        for callback in get_reporting_integration_callbacks(found.report_to):
            callback()  # raises where its library is not installed
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        raise UserError(f"the training arguments do not go together: {str(error).strip().splitlines()[0]}") from error
    if found.fsdp or found.deepspeed:
        raise UserError("sharding is asked for in a configuration of accelerate launch, not by --fsdp or --deepspeed")
    return found


def _check(values: Mapping[str, Any]) -> None:
    """UserError for numbers out of range that transformers would trip over later."""
    for name in AT_LEAST_1:
        if values.get(name, 1) < 1:
            raise UserError(f"{name} must be at least 1, but is {values[name]}")
    if values.get("num_train_epochs", 1) <= 0:
        raise UserError(f"num_train_epochs must be above 0, but is {values['num_train_epochs']}")
    if not 0 <= values.get("seed", 0) < 2**32:
        raise UserError(f"the seed must be from 0 to 2**32 - 1, but is {values['seed']}")
    if (order := values.get("train_sampling_strategy", "random")) not in ORDERS:
        raise UserError(f"train_sampling_strategy must be one of {', '.join(ORDERS)}, but is {order!r}")


def check_one_device(model: PreTrainedModel) -> None:
    """UserError where transformers would split batches over several GPUs of one process."""
    if model.device.type == "cuda" and torch.cuda.device_count() > 1 and not torch.distributed.is_initialized():
        raise UserError(
            "several GPUs are visible to one process: start one process a GPU with `accelerate launch`, "
            "or choose one with CUDA_VISIBLE_DEVICES"
        )
