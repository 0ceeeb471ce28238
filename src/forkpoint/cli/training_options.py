"""The options of the verbs that train: ours, and by name whatever transformers' TrainingArguments has."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from forkpoint.cli.options import ModelOptions, RunOptions, flag, parse
from forkpoint.types import UserError

T = TypeVar("T", bound="FittingOptions")
NAMED = (
    "learning_rate", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "warmup_steps",
    "lr_scheduler_type", "bf16", "logging_steps", "save_steps", "report_to", "train_sampling_strategy",
)  # fmt: skip
"""The options of `FittingOptions` that are TrainingArguments."""
ABOUT_ADAPTERS = ("lora_alpha", "lora_modules", "lora_dropout", "merge", "load_in_4bit")


@dataclass(frozen=True)
class FittingOptions(RunOptions, ModelOptions):
    """How weights are fitted to examples."""

    learning_rate: float | None = None
    """highest learning rate (default: by method, and by what is trained; the table is in docs/training.md)"""
    num_train_epochs: float = 3.0
    """passes over the examples"""
    per_device_train_batch_size: int = 8
    """examples at a time"""
    gradient_accumulation_steps: int = 1
    """so many times as many examples in one step"""
    warmup_steps: float = 0.1
    """steps, or below 1 the share of all steps, in which the learning rate rises"""
    lr_scheduler_type: str = "cosine"
    """how the learning rate falls: cosine, linear, constant_with_warmup, ..."""
    bf16: bool = False
    """compute in bfloat16; weights that are trained are float32 in any case"""
    logging_steps: float = 10
    """steps, or below 1 the share of all steps, between two lines of the log"""
    save_steps: float = 0.2
    """steps, or below 1 the share of all steps, between two checkpoints"""
    report_to: str = "none"
    """where metrics go as well: none, tensorboard, wandb, ..."""
    train_sampling_strategy: str = "group_by_length"
    """group_by_length (rows of similar length together) or random"""
    lora_rank: int = 0
    """train low-rank adapters of this rank (0: all weights)"""
    lora_alpha: float = 32.0
    """scale of the adapters: lora_alpha / lora_rank"""
    lora_modules: list[str] = field(default_factory=list)
    """linear layers that get adapters, by name: q_proj,v_proj; repeatable (default: all but the output matrix)"""
    lora_dropout: float = 0.0
    """share of the inputs of adapters that is set to 0 in training"""
    save_dtype: Literal["auto", "float64", "float32", "bfloat16", "float16"] = "auto"
    """precision in which a whole model is saved; auto: the one that it came in"""
    seed: int = 0
    """seed of the order of examples, of new weights and adapters, and of what is drawn by lot"""


@dataclass(frozen=True)
class TrainingOptions(FittingOptions):
    """How a model is trained on pairs."""

    pairs: Path | None = None
    """the pairs: a run of `forkpoint pairs` or its pairs.jsonl"""
    eval_pairs: Path | None = None
    """held-out pairs, whose metrics are logged after each epoch, or as eval_strategy says"""
    max_length: int | None = None
    """leave out pairs of which a response with its prompt has more tokens (default: than the model reads)"""
    merge: bool = False
    """with adapters: save a whole model, the adapters added to its weights"""
    load_in_4bit: bool = False
    """with adapters: keep the model that they are on in four bits (QLoRA; needs bitsandbytes)"""


@dataclass(frozen=True)
class PreferenceOptions(TrainingOptions):
    """Training on pairs."""

    beta: float = 0.1
    """strength of the tie to the reference: the loss sees beta times the log-ratios"""


@dataclass(frozen=True)
class StoredReferenceOptions(PreferenceOptions):
    """Training on pairs by a loss that needs the reference's log-probabilities alone."""

    precompute_ref_log_probs: bool = True
    """compute the reference's log-probabilities before training and keep them; false: at each step"""


ELSEWHERE = {
    "ref_model": "the reference is --model as it is before the training",
    "label_smoothing": "no conservative or robust DPO is offered",
    "loss_type": "the loss is the verb: train dpo, rpo, tdpo, critical-dpo, fork-dpo or sft",
}
"""Options of TRL's that are something else here, or nothing."""


def parse_training(verb: str, options: type[T], argv: list[str]) -> tuple[T, dict[str, Any]]:
    """The verb's options, and further TrainingArguments, from flags and `--config`. UserError for anything unknown."""
    own = {f.name for f in fields(options)}
    ours, theirs = _split(argv, own)
    found = parse(verb, options, ours)
    more = _parse_theirs(verb, theirs, own) if theirs else {}
    _check(found)
    return found, more


def _parse_theirs(verb: str, flags: list[str], own: set[str]) -> dict[str, Any]:
    """The values of TrainingArguments. UserError for a name that is neither theirs nor ours."""
    from forkpoint.training.configs import check_offered, names, parsed

    given = [flag[2:].partition("=")[0] for flag in flags]
    check_offered(given)
    for name in given:
        if name not in names():
            if why := ELSEWHERE.get(name):
                raise UserError(f"there is no --{name} here: {why}")
            near = difflib.get_close_matches(name, [*own, *names()], n=1, cutoff=0.5)
            hint = f", did you mean {flag(near[0])}?" if near else f"; forkpoint {verb} --help lists the options"
            raise UserError(f"unknown option --{name}{hint}")
    return parsed(flags)


def _check(options: FittingOptions) -> None:
    """UserError for what can be known to be wrong without a model."""
    if isinstance(options, TrainingOptions) and options.pairs is None:
        raise UserError("name the pairs to train on with --pairs: a run of `forkpoint pairs` or its pairs.jsonl")
    started = not options.lora_rank and _holds_adapter(options.model)
    changed = [
        f.name for f in fields(options)
        if f.name in ABOUT_ADAPTERS and getattr(options, f.name) not in (f.default, [])
    ]  # fmt: skip
    if started:
        changed = [name for name in changed if name not in ("merge", "load_in_4bit")]
    if changed and started:
        raise UserError(f"{options.model} is an adapter, which is trained on as it is; leave out --{changed[0]}")
    if options.lora_rank and _holds_adapter(options.model):
        raise UserError(f"{options.model} is an adapter already, which is trained on; leave out --lora_rank")
    if changed and not options.lora_rank:
        raise UserError(f"--{changed[0]} is about adapters; ask for them with --lora_rank")
    whole = getattr(options, "merge", True) or not (started or options.lora_rank)
    if options.save_dtype != "auto" and not whole:
        raise UserError("--save_dtype is about whole models, but adapters are saved in float32; add --merge")


def _holds_adapter(name: str) -> bool:
    return (Path(name) / "adapter_config.json").exists()


def _split(argv: list[str], own: set[str]) -> tuple[list[str], list[str]]:
    """The arguments without the flags that are not the verb's own, and those flags as --name=value.

    A file given with --config is told apart in the same way.
    """
    ours: list[str] = []
    theirs: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        plain = name[2:].replace("-", "_")
        if plain == "config" and (equals or words):
            mine, others = _split_file(Path(value if equals else words.pop(0)), own)
            ours, theirs = [*mine, *ours], [*others, *theirs]
        elif not name.startswith("--") or plain in own or plain in ("help", "print_config"):
            ours.append(word)
        elif equals or not words or words[0].startswith("--"):
            theirs.append(f"--{plain}={value if equals else 'true'}")
        else:
            theirs.append(f"--{plain}={words.pop(0)}")
    return ours, theirs


def _split_file(path: Path, own: set[str]) -> tuple[list[str], list[str]]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} should hold options and their values, but holds {type(content).__name__}")
    mine = {name: value for name, value in content.items() if name in own}
    others = [
        f"--{name}={json.dumps(value) if isinstance(value, (dict, list)) else value}"
        for name, value in content.items()
        if name not in own
    ]
    return ([f"--config={yaml.safe_dump(mine)}"] if mine else []), others
