"""TrainingArguments from plain values: ours where the user says nothing, the user's under transformers' own names."""

from __future__ import annotations

import argparse
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import HfArgumentParser, PreTrainedModel, Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_reporting_integration_callbacks

from forkpoint.types import UserError

_JUDGED = "an evaluation computes the loss and the metrics alone"
_HUB = "nothing is uploaded"
_DO = "a training has no such parts"
REFUSED = {
    "output_dir": "the run's directory is --out",
    "use_cpu": "the device is --device",
    "use_cache": "no keys and values are kept in training",
    "disable_tqdm": "the progress bar goes with --quiet",
    "resume_from_checkpoint": "the same command goes on from the last checkpoint by itself",
    "save_only_model": "a stopped run could not go on from such checkpoints",
    "restore_callback_states_from_checkpoint": "no callback has a state",
    "remove_unused_columns": "the data has no columns but those that are read",
    "label_names": "the data has no columns but those that are read",
    "length_column_name": "the lengths are those of the token ids",
    "logging_nan_inf_filter": "a loss that is not finite stops the run",
    "bf16_full_eval": "evaluations are those within the training, in its precision",
    "fp16_full_eval": "evaluations are those within the training, in its precision",
    **dict.fromkeys(
        ("prediction_loss_only", "eval_do_concat_batches", "eval_use_gather_object", "eval_accumulation_steps",
         "include_for_metrics", "batch_eval_metrics"), _JUDGED),
    **dict.fromkeys(
        ("push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push",
         "hub_revision"), _HUB),
    **dict.fromkeys(("do_train", "do_eval", "do_predict"), _DO),
    **dict.fromkeys(("fsdp", "fsdp_config", "deepspeed", "parallelism_config"),
                    "sharding is asked for in a configuration of accelerate launch"),
    "local_rank": "processes are started by accelerate launch",
    "ddp_backend": "processes on GPUs talk by nccl, on CPUs by gloo",
    "skip_memory_metrics": "what is logged must be the same at every run",
}  # fmt: skip
"""TrainingArguments that would do nothing here, or break a promise, and why."""
TRL_ONLY = {
    "label_smoothing_factor": "a preference loss, and that of a corpus' tokens, has no smoothed labels",
    "average_tokens_across_devices": "the loss is the mean over all processes in any case",
}
"""Those that TRL's SFT heeds and our own trainers do not."""


def _judges(a: Any) -> bool:
    return bool(a.eval_strategy != "no")


def _ranks(a: Any) -> bool:
    return bool(a.load_best_model_at_end or a.save_strategy == "best")


NEEDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "eval_steps": ("--eval_strategy steps", lambda a: a.eval_strategy == "steps"),
    "eval_delay": ("--eval_strategy", _judges),
    "eval_on_start": ("--eval_strategy", _judges),
    "metric_for_best_model": ("--load_best_model_at_end", _ranks),
    "greater_is_better": ("--load_best_model_at_end", _ranks),
    "run_name": ("--report_to", lambda a: bool(a.report_to)),
    **dict.fromkeys(
        ("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
        ("--report_to trackio", lambda a: "trackio" in a.report_to)),
    "optim_target_modules": ("an --optim of GaLore or APOLLO", lambda a: "galore" in a.optim or "apollo" in a.optim),
    "activation_checkpointing_kwargs": ("--activation_checkpointing", lambda a: a.activation_checkpointing),
    "gradient_checkpointing_kwargs": ("--activation_checkpointing", lambda a: a.activation_checkpointing),
    "liger_kernel_config": ("--use_liger_kernel", lambda a: a.use_liger_kernel),
    **dict.fromkeys(
        ("dataloader_persistent_workers", "dataloader_prefetch_factor", "dataloader_multiprocessing_context"),
        ("--dataloader_num_workers", lambda a: a.dataloader_num_workers > 0)),
}  # fmt: skip
"""TrainingArguments that do something only with others: which, and whether they are there."""
AT_LEAST = {
    "per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, "gradient_accumulation_steps": 1,
    "learning_rate": 0, "warmup_steps": 0, "max_grad_norm": 0, "weight_decay": 0, "eval_delay": 0,
    "dataloader_num_workers": 0, "label_smoothing_factor": 0, "neftune_noise_alpha": 0, "save_total_limit": 1,
}  # fmt: skip
ABOVE_0 = ("num_train_epochs", "logging_steps", "save_steps", "eval_steps", "adam_epsilon")
ORDERS = ("random", "group_by_length", "sequential")


def names() -> frozenset[str]:
    """The names of TrainingArguments that a user may set."""
    return frozenset(f.name for f in fields(TrainingArguments) if f.init) - REFUSED.keys()


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
    values: Mapping[str, Any],
    out: Path,
    model: PreTrainedModel,
    kind: type[TrainingArguments] = TrainingArguments,
    *,
    evaluated: bool = False,
    ours: Mapping[str, Any] | None = None,
) -> TrainingArguments:
    """TrainingArguments, or a subclass of them, with checkpoints in `out`, for a model that stands on its device.

    `values` are the user's, `ours` what holds without them; `evaluated` says whether there is data to judge the model
    on. Raises UserError for whatever would do nothing, is out of range, lacks a library, or transformers refuses.
    """
    known = inspect.signature(kind).parameters
    newer = "activation_checkpointing" in known  # the name since transformers 5.20; TRL's own default is True
    settings: dict[str, Any] = {
        "output_dir": str(out), "remove_unused_columns": False, "disable_tqdm": True, "logging_nan_inf_filter": False,
        "dataloader_pin_memory": model.device.type == "cuda", "use_cpu": model.device.type == "cpu",
        "report_to": "none", "save_total_limit": 1, "max_length": None,  # TRL would cut at 1024
        "activation_checkpointing" if newer else "gradient_checkpointing": values.get("gradient_checkpointing", False),
        "eval_strategy": "epoch" if evaluated else "no",
    }  # fmt: skip
    check_offered(values)
    if kind is TrainingArguments and (useless := next((name for name in TRL_ONLY if name in values), None)):
        raise UserError(f"--{useless} does nothing here: {TRL_ONLY[useless]}")
    if unknown := [name for name in values if name not in known]:
        raise UserError(f"{kind.__name__} has no {unknown[0]}")
    _check_range(values)
    try:
        given = settings | dict(ours or {}) | dict(values)
        found = kind(**{name: value for name, value in given.items() if name in known})
        _check_libraries(found, model)
    except (ValueError, TypeError, ImportError, RuntimeError, AttributeError) as error:
        raise UserError(f"the training arguments do not go together: {' '.join(str(error).split())}") from error
    if _judges(found) and not evaluated:
        raise UserError(
            "eval_strategy asks for an evaluation, but there is no held-out data (--eval_pairs, --eval_data)"
        )
    if found.save_strategy == "best" and not (_judges(found) and found.metric_for_best_model):
        raise UserError(
            "--save_strategy best needs held-out data (--eval_pairs, --eval_data) and a --metric_for_best_model"
        )
    for name, (other, there) in NEEDS.items():
        if values.get(name) not in (None, 0, False, "huggingface") and not there(found):
            raise UserError(f"--{name} does nothing without {other}")
    return found


def check_offered(names: Sequence[str] | Mapping[str, Any]) -> None:
    """UserError for the first name of TrainingArguments that is not the user's to set."""
    if refused := next((name for name in names if name in REFUSED), None):
        raise UserError(f"--{refused} is not offered: {REFUSED[refused]}")


def _check_libraries(found: Any, model: PreTrainedModel) -> None:
    """Try what a Trainer tries only when the run's directory is claimed: loggers, kernels, optimizer, schedule."""
    for callback in get_reporting_integration_callbacks(found.report_to):
        callback()  # raises where its library is not installed
    if found.use_liger_kernel and find_spec("liger_kernel") is None:
        raise ImportError("--use_liger_kernel needs the package liger-kernel")
    optimizer, settings = Trainer.get_optimizer_cls_and_kwargs(found, model)
    if not settings.keys() & {"params", "model", "optimizer_dict"}:
        tried = optimizer([torch.nn.Parameter(torch.zeros(1, device=model.device))], **settings)
        get_scheduler(found.lr_scheduler_type, tried, 1, 10, scheduler_specific_kwargs=found.lr_scheduler_kwargs)


def _check_range(values: Mapping[str, Any]) -> None:
    """UserError for numbers out of range that transformers would trip over later."""
    for name, least in AT_LEAST.items():
        value = values.get(name)
        if value is not None and not least <= value < math.inf:
            raise UserError(f"{name} must be at least {least}, but is {value}")
    for name in ABOVE_0:
        value = values.get(name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{name} must be above 0, but is {value}")
    for name in ("adam_beta1", "adam_beta2"):
        if not 0 <= values.get(name, 0) < 1:
            raise UserError(f"{name} must be at least 0 and below 1, but is {values[name]}")
    if values.get("max_steps", -1) == 0:
        raise UserError("max_steps must be at least 1, or -1 for num_train_epochs, but is 0")
    for name in ("seed", "data_seed"):
        if not 0 <= (values.get(name) or 0) < 2**32:
            raise UserError(f"the {name} must be from 0 to 2**32 - 1, but is {values[name]}")
    if (order := values.get("train_sampling_strategy", "random")) not in ORDERS:
        raise UserError(f"train_sampling_strategy must be one of {', '.join(ORDERS)}, but is {order!r}")


def check_one_device(model: PreTrainedModel) -> None:
    """UserError where transformers would split batches over several GPUs of one process."""
    if model.device.type == "cuda" and torch.cuda.device_count() > 1 and not torch.distributed.is_initialized():
        raise UserError(
            "several GPUs are visible to one process: start one process a GPU with `accelerate launch`, "
            "or choose one with CUDA_VISIBLE_DEVICES"
        )
