"""What decides a training beside model and data: dataclasses that extend TrainingArguments, and their checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel, Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_reporting_integration_callbacks

from forkpoint.losses.methods import ALPHA, Objective, objective
from forkpoint.training.fields import FittingFields, LoraFields, MergeFields, PreferenceFields, SelectiveFields
from forkpoint.types import UserError
from forkpoint.weights.rules import UNIFORM, Rule

C = TypeVar("C", bound="TrainingConfig")


@dataclass
class TrainingConfig(MergeFields, FittingFields, TrainingArguments):  # type: ignore[misc]
    """TrainingArguments with the defaults under which a resumed run logs and ends as an undisturbed one.

    `eval_strategy` is `epoch` where there is data to evaluate on, if nothing else is asked for. `learning_rate` is the
    method's own where it is None (`RATES`).
    """

    remove_unused_columns: bool = False
    disable_tqdm: bool | None = True
    logging_nan_inf_filter: bool = False
    save_total_limit: int | None = 1
    load_best_model_at_end: bool = False
    eval_strategy: str = "auto"

    def __post_init__(self) -> None:
        if not torch.accelerator.is_available():
            self.use_cpu = True
        self.evaluates_by_default = self.eval_strategy == "auto"
        best = self.load_best_model_at_end
        if self.evaluates_by_default:  # whether there is data to evaluate on is known later
            self.eval_strategy, self.load_best_model_at_end = "no", False
        super().__post_init__()
        self.load_best_model_at_end = best


@dataclass
class PreferenceConfig(PreferenceFields, TrainingConfig):
    """How a model is trained on pairs: by a preference loss, or by SFT on the chosen responses (method `sft`)."""

    @property
    def objective(self) -> Objective:
        """The preference loss with its constants. UserError for constants out of range."""
        return objective(self.method, self.gamma if self.method == "critical-dpo" else self.beta, self.alpha)


@dataclass
class SelectiveConfig(SelectiveFields, TrainingConfig):
    """How a model is trained on the tokens of a corpus; with the rule `uniform` on all of them."""

    include_num_input_tokens_seen: str = "non_padding"

    @property
    def selection(self) -> Rule:
        """The rule with its shares."""
        return Rule(self.rule, self.ratio, self.entropy_ratio, self.scope, self.ratio_warmup)  # type: ignore[arg-type]

    @property
    def method(self) -> str:
        """The name of the method."""
        return "clm" if self.rule == UNIFORM else "slm"


_DPO = (1e-6, 2e-5, 1e-4)
RATES: dict[str, tuple[float, float, float]] = {
    "sft": (2e-5, 2e-4, 3e-4),
    "dpo": _DPO, "rpo": _DPO, "tdpo1": _DPO, "tdpo2": _DPO, "fork-dpo": _DPO,
    "critical-dpo": (1e-6, 4e-5, 1e-4),
    "clm": (8e-5, 2e-4, 1e-3), "slm": (8e-5, 2e-4, 1e-3),
}  # fmt: skip
"""Learning rates by method: of all weights, of adapters, and of the embedded lab model (0.9M parameters).

All weights: TRL's own (SFT 2e-5, DPO 1e-6), and for a corpus that of Rho-1 at 1B (arXiv 2404.07965). Adapters: those of
the critical DPO paper (4e-5, and 2e-5 for its baselines; arXiv 2411.19943), and ten times TRL's for SFT, as it advises.
"""


def _by_name(groups: Mapping[Any, str]) -> dict[str, Any]:
    """From names by what is true of them, with spaces between, to what is true of each name."""
    return {name: truth for truth, names in groups.items() for name in names.split()}


def _evaluates(a: Any) -> bool:
    return bool(a.eval_strategy != "no")


REFUSED: dict[str, str] = _by_name({
    "the run's directory is --out": "output_dir",
    "the device is --device": "use_cpu",
    "no keys and values are kept in training": "use_cache",
    "the progress bar goes with --quiet": "disable_tqdm",
    "the same command goes on from the last checkpoint by itself": "resume_from_checkpoint",
    "a stopped run could not go on from such checkpoints": "save_only_model",
    "no callback has a state": "restore_callback_states_from_checkpoint",
    "the data has no columns but those that are read": "remove_unused_columns label_names",
    "the lengths are those of the token ids": "length_column_name",
    "a loss that is not finite stops the run": "logging_nan_inf_filter",
    "evaluations have the precision of the training": "bf16_full_eval fp16_full_eval",
    "an evaluation computes the loss and the metrics alone":
        "prediction_loss_only eval_do_concat_batches eval_use_gather_object eval_accumulation_steps "
        "include_for_metrics batch_eval_metrics",
    "nothing is uploaded":
        "push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision",
    "a training has no such parts": "do_train do_eval do_predict",
    "sharding is asked for in a configuration of accelerate launch": "fsdp fsdp_config deepspeed parallelism_config",
    "processes are started by accelerate launch": "local_rank",
    "processes on GPUs talk by nccl, on CPUs by gloo": "ddp_backend",
    "what is logged must be the same at every run": "skip_memory_metrics",
})  # fmt: skip
"""TrainingArguments that would do nothing here, or break a promise, and why."""
TRL_ONLY = {
    "label_smoothing_factor": "a preference loss, and that of a corpus' tokens, has no smoothed labels",
    "average_tokens_across_devices": "the loss is the mean over all processes in any case",
}
"""Those that TRL's SFT heeds and our own trainers do not."""
NEEDS: dict[str, tuple[str, Callable[[Any], bool]]] = _by_name({
    ("--eval_strategy steps", lambda a: a.eval_strategy == "steps"): "eval_steps",
    ("--eval_strategy", _evaluates): "eval_delay eval_on_start",
    ("--load_best_model_at_end", lambda a: a.load_best_model_at_end or a.save_strategy == "best"):
        "metric_for_best_model greater_is_better",
    ("--report_to", lambda a: bool(a.report_to)): "run_name",
    ("--report_to trackio", lambda a: "trackio" in a.report_to):
        "project trackio_space_id trackio_bucket_id trackio_static_space_id",
    ("an --optim of GaLore or APOLLO", lambda a: "galore" in a.optim or "apollo" in a.optim): "optim_target_modules",
    ("--activation_checkpointing", lambda a: a.activation_checkpointing):
        "activation_checkpointing_kwargs gradient_checkpointing_kwargs",
    ("--use_liger_kernel", lambda a: a.use_liger_kernel): "liger_kernel_config",
    ("--dataloader_num_workers", lambda a: a.dataloader_num_workers > 0):
        "dataloader_persistent_workers dataloader_prefetch_factor dataloader_multiprocessing_context",
})  # fmt: skip
"""TrainingArguments that do something only with others: which, and whether they are there."""
RANGES: dict[str, tuple[str, Callable[[Any], bool]]] = _by_name({
    ("{} must be at least 1", lambda v: 1 <= v < math.inf):
        "per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps save_total_limit",
    ("{} must be at least 0", lambda v: 0 <= v < math.inf):
        "learning_rate warmup_steps max_grad_norm weight_decay eval_delay dataloader_num_workers "
        "label_smoothing_factor neftune_noise_alpha",
    ("{} must be above 0", lambda v: 0 < v < math.inf):
        "num_train_epochs logging_steps save_steps eval_steps adam_epsilon",
    ("{} must be at least 0 and below 1", lambda v: 0 <= v < 1): "adam_beta1 adam_beta2",
    ("{} must be at least 1, or -1 for num_train_epochs", lambda v: v != 0): "max_steps",
    ("the {} must be from 0 to 2**32 - 1", lambda v: 0 <= v < 2**32): "seed data_seed",
    ("{} must be one of random, group_by_length, sequential",
     lambda v: v in ("random", "group_by_length", "sequential")): "train_sampling_strategy",
})  # fmt: skip
"""What values must be that transformers would trip over later."""
HELD_OUT_DATA = "held-out data (--eval_pairs, --eval_data)"
ARGUMENTS = frozenset(f.name for f in fields(TrainingArguments) if f.init)
STATED = frozenset(f.name for f in fields(FittingFields)) & ARGUMENTS - {"seed"}  # what every summary holds


def config_of(kind: type[C], values: Mapping[str, Any]) -> C:
    """A config of these values. UserError for what is not offered, out of range, or refused by transformers."""
    check_offered(values)
    _check_range(values)
    with _refusal_explained():
        return kind(output_dir=".", **values)


def prepared(args: C, out: Path, model: PreTrainedModel, *, has_eval: bool, name: str = "custom") -> C:
    """The config of one training: with checkpoints in `out`, for a model on its device, with a learning rate.

    `has_eval` says whether there is data to evaluate on. Raises UserError for whatever would do nothing, is out of
    range, lacks a library, or transformers refuses.
    """
    values = changed(args)
    check_offered(values)
    _check_range({f.name: getattr(args, f.name) for f in fields(args)})
    if method_of(args) != "sft" and (useless := next((name for name in TRL_ONLY if name in values), None)):
        raise UserError(f"--{useless} does nothing here: {TRL_ONLY[useless]}")
    settings: dict[str, Any] = {
        "output_dir": str(out), "learning_rate": rate_of(args, model, name), "use_cpu": model.device.type == "cpu",
        "dataloader_pin_memory": model.device.type == "cuda",
        "eval_strategy": "epoch" if args.evaluates_by_default and has_eval else args.eval_strategy,
    }  # fmt: skip
    with _refusal_explained():
        ready = replace(args, **settings)
        _check_libraries(ready, model)
    if _evaluates(ready) and not has_eval:
        raise UserError(f"eval_strategy asks for an evaluation, but there is no {HELD_OUT_DATA}")
    if ready.save_strategy == "best" and not (_evaluates(ready) and ready.metric_for_best_model):
        raise UserError(f"--save_strategy best needs {HELD_OUT_DATA} and a --metric_for_best_model")
    for option, (need, is_there) in NEEDS.items():
        if values.get(option) not in (None, 0, False, "huggingface") and not is_there(ready):
            raise UserError(f"--{option} does nothing without {need}")
    return ready


def rate_of(args: TrainingConfig, model: Any, name: str = "custom") -> float:
    """The learning rate that is asked for, or that of the method and of what is trained."""
    if args.learning_rate is not None:
        return args.learning_rate
    full, low_rank, lab = RATES[method_of(args)]
    return lab if name == "lab" else low_rank if args.lora_r or hasattr(model, "peft_config") else full


def sft_config(args: TrainingConfig) -> Any:
    """The same for TRL's SFT trainer, which would cut rows at 1024 tokens by itself."""
    from trl import SFTConfig

    return SFTConfig(**{name: getattr(args, name) for name in ARGUMENTS}, max_length=None)


def method_of(args: TrainingConfig) -> str:
    """The method of a config; a config that names none is of SFT."""
    return str(getattr(args, "method", "sft"))


def changed(args: TrainingConfig) -> dict[str, Any]:
    """The TrainingArguments that are not the defaults of their config, as plain values."""
    plain = type(args)(output_dir=args.output_dir, use_cpu=args.use_cpu).to_dict()
    names = ARGUMENTS - {"do_eval"}  # which follows from eval_strategy
    return {name: value for name, value in args.to_dict().items() if name in names and value != plain[name]}


def stated(args: TrainingConfig, ready: TrainingConfig, model: Any) -> dict[str, Any]:
    """What a run's files say of a config: what decides the result. `ready` is the same, prepared."""
    values = changed(args) | {name: getattr(ready, name) for name in STATED}
    if not args.evaluates_by_default:
        values["eval_strategy"] = args.to_dict()["eval_strategy"]
    values |= {"report_to": args.report_to or "none", "lr_scheduler_type": args.to_dict()["lr_scheduler_type"]}
    settings: dict[str, Any] = {}
    if isinstance(args, PreferenceConfig) and args.method != "sft":
        settings = {"gamma" if args.method == "critical-dpo" else "beta": args.objective.beta}
        settings |= {"alpha": args.objective.alpha} if args.method in ALPHA else {}
    return settings | {
        "arguments": {name: values[name] for name in sorted(values) if name != "seed"}, "lora": _lora(args, model),
        "seed": args.seed, **({"max_length": args.max_length} if isinstance(args, PreferenceConfig) else {}),
        "save_dtype": None if args.save_dtype == "auto" else args.save_dtype,
    }  # fmt: skip


def _lora(args: TrainingConfig, model: Any) -> dict[str, Any] | None:
    """The adapters that are trained: new ones, or those of a PEFT model."""
    if args.lora_r:
        return {f.name: getattr(args, f.name) for f in fields(LoraFields)} | {"merge": args.merge}
    if hasattr(model, "peft_config"):
        adapters = model.peft_config["default"]
        return {"lora_r": adapters.r, "lora_alpha": adapters.lora_alpha, "merge": args.merge, "trained_on": True}
    return None


def check_offered(names: Iterable[str]) -> None:
    """UserError for the first name of TrainingArguments that is not the user's to set."""
    if refused := next((name for name in names if name in REFUSED), None):
        raise UserError(f"--{refused} is not offered: {REFUSED[refused]}")


@contextmanager
def _refusal_explained() -> Iterator[None]:
    """A UserError where transformers refuses settings within the context."""
    try:
        yield
    except (ValueError, TypeError, ImportError, RuntimeError, AttributeError) as error:
        raise UserError(f"the training arguments do not go together: {' '.join(str(error).split())}") from error


def _check_libraries(args: Any, model: PreTrainedModel) -> None:
    """Try what a Trainer tries only when the run's directory is claimed: loggers, kernels, optimizer, schedule."""
    for callback in get_reporting_integration_callbacks(args.report_to):
        callback()  # raises where its library is not installed
    if args.use_liger_kernel and find_spec("liger_kernel") is None:
        raise ImportError("--use_liger_kernel needs the package liger-kernel")
    optimizer, settings = Trainer.get_optimizer_cls_and_kwargs(args, model)
    if not settings.keys() & {"params", "model", "optimizer_dict"}:
        tried = optimizer([torch.nn.Parameter(torch.zeros(1, device=model.device))], **settings)
        get_scheduler(args.lr_scheduler_type, tried, 1, 10, scheduler_specific_kwargs=args.lr_scheduler_kwargs)


def _check_range(values: Mapping[str, Any]) -> None:
    """UserError for the first value out of range."""
    for name, (must_be, holds) in RANGES.items():
        if (value := values.get(name)) is not None and not holds(value):
            raise UserError(f"{must_be.format(name)}, but is {value!r}")
