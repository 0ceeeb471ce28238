"""The verbs `forkpoint train ...` that train on pairs, and those that write a model out as another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from forkpoint.cli.option_groups import BARE, ModelOptions, RunOptions, TransformersOptions, values_of
from forkpoint.cli.progress import progress_bar
from forkpoint.cli.setup import model_settings
from forkpoint.cli.verb import Verb
from forkpoint.losses.methods import ALPHA, Objective, objective
from forkpoint.training.fields import FittingFields, PairFields, PreferenceFields
from forkpoint.training.processes import as_one
from forkpoint.types import UserError

if TYPE_CHECKING:
    from forkpoint.training.configs import TrainingConfig

C = TypeVar("C", bound="TrainingConfig")
ABOUT_ADAPTERS = ("lora_alpha", "lora_target_modules", "lora_dropout", "merge", "load_in_4bit")


@dataclass
class FittingOptions(FittingFields, RunOptions, ModelOptions, TransformersOptions):
    """How weights are fitted to examples."""


@dataclass(kw_only=True)
class PairTrainingOptions(PairFields, FittingOptions):
    """How a model is trained on pairs."""

    pairs: Path
    """a run of `forkpoint pairs`, or its pairs.jsonl"""
    load_in_4bit: bool = False
    """with adapters: keep the model that they are on in four bits (QLoRA; needs bitsandbytes)"""
    eval_pairs: Path | None = None
    """held-out pairs, whose metrics are logged after each epoch, or as eval_strategy says"""


@dataclass(kw_only=True)
class SftOptions(PairTrainingOptions):
    """Fine-tune a model on the chosen responses of pairs, by TRL's SFT trainer."""

    method = "sft"


@dataclass(kw_only=True)
class DpoOptions(PairTrainingOptions):
    """Train a model on pairs with DPO (arXiv 2305.18290)."""

    method = "dpo"
    beta: float = 0.1
    """strength of the tie to the reference: the loss sees beta times the log-ratios"""
    precompute_ref_log_probs: bool = True
    """compute the reference's log-probabilities before training and keep them; false: at each step"""


@dataclass(kw_only=True)
class RpoOptions(DpoOptions):
    """Train a model on pairs with RPO: DPO and the likelihood of the chosen response (arXiv 2404.19733)."""

    method = "rpo"
    alpha: float = 1.0
    """weight of the chosen response's mean log-likelihood"""


@dataclass(kw_only=True)
class TdpoOptions(PairTrainingOptions):
    """Train a model on pairs with TDPO: DPO and the divergence from the reference at every token (arXiv 2404.11999)."""

    method = "tdpo"
    beta: float = 0.1
    """strength of the tie to the reference: the loss sees beta times the log-ratios"""
    variant: Literal[1, 2] = 2
    """TDPO1, or TDPO2 with the paper's alpha and no gradient through the chosen response's divergence"""
    alpha: float | None = None
    """TDPO2: weight of the divergence (default: 0.5)"""


@dataclass(kw_only=True)
class CriticalDpoOptions(PairTrainingOptions):
    """Train a model on pairs with critical DPO (arXiv 2411.19943), called cDPO there; `train cdpo` is the same."""

    method = "critical-dpo"
    gamma: float = 1.0
    """strength of the tie to the reference: the loss sees gamma times the log-ratios, those of rejected tokens times
    their weights"""
    precompute_ref_log_probs: bool = True
    """compute the reference's log-probabilities before training and keep them; false: at each step"""


@dataclass(kw_only=True)
class ForkDpoOptions(DpoOptions):
    """Train a model on pairs of single tokens with fork DPO: the token that rescues a response against its own."""

    method = "fork-dpo"


def train_on_pairs(options: PairTrainingOptions, out: Path) -> list[Path] | None:
    """Read the pairs, load the model, train."""
    from forkpoint.pairs.pair_files import read_pairs
    from forkpoint.training.configs import PreferenceConfig
    from forkpoint.training.models import MODEL, load_trainable, require_training, tokenizer_of
    from forkpoint.training.preference_run import fitting, train
    from forkpoint.training.processes import TIMEOUT, is_first

    require_training()
    for path in (options.pairs, options.eval_pairs):
        if path is not None and not path.exists():
            raise UserError(f"{path} does not exist")
    settings, config = model_settings(options), base_config(options)
    tokenizer, loss = tokenizer_of(settings), objective_of(options)
    method, alpha = ("sft", None) if loss is None else (loss.method, loss.alpha if loss.method in ALPHA else None)
    named = PreferenceFields(**values_of(options, PairFields, method=method))
    inner = config.get_text_config(decoder=True)
    pairs, held_out = (  # before the model is loaded
        read_pairs(path, tokenizer, inner.vocab_size) if path else [] for path in (options.pairs, options.eval_pairs)
    )
    for part in (pairs, held_out or pairs):
        fitting(part, named, getattr(inner, "max_position_embeddings", None))
    timeout = options.further.get("ddp_timeout", TIMEOUT)
    model, tokenizer = load_trainable(settings, timeout, four_bit=options.load_in_4bit)
    args = config_of(PreferenceConfig, options, method=method, save_dtype=save_dtype_of(options, config), alpha=alpha)
    with progress_bar(options.quiet or not is_first()) as progress:
        train(model, tokenizer, pairs, args, out, eval_pairs=held_out, name=options.model, progress=progress)
    return [out / MODEL] if is_first() else None


def objective_of(options: Any) -> Objective | None:
    """The loss with its constants; None is SFT. UserError for a constant out of range."""
    if options.method == "sft":
        return None
    strength = options.gamma if options.method == "critical-dpo" else options.beta
    return objective(f"{options.method}{getattr(options, 'variant', '')}", strength, getattr(options, "alpha", None))


def config_of(kind: type[C], options: FittingOptions, **values: Any) -> C:
    """The options as a config of a training."""
    from forkpoint.training.configs import config_of

    values["lora_target_modules"] = list(module_names(options.lora_target_modules))
    return config_of(kind, values_of(options, kind) | options.further | values)


def base_config(options: ModelOptions) -> Any:
    """The configuration of the model, or of the base of adapters."""
    from forkpoint.engines.loading import load_config
    from forkpoint.training.models import base_settings

    base = base_settings(model_settings(options))
    return load_config(**{name: base[name] for name in ("name", "revision", "trust_remote_code")})


def save_dtype_of(options: FittingOptions, config: Any) -> str:
    """The precision to save in: as asked for, or that in which the model is stored; auto where that is not known."""
    if options.save_dtype != "auto":
        return options.save_dtype
    stored = getattr(config, "dtype", None)
    return "auto" if stored is None else str(stored).removeprefix("torch.")


def module_names(words: Sequence[str]) -> tuple[str, ...]:
    """Names of layers, given one at a time, with commas between them, or as a JSON list; all-linear is none."""
    modules: list[str] = []
    for word in words:
        try:
            names = json.loads(word)
        except ValueError:
            names = word.split(",")
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise UserError(f"--lora_target_modules takes names of layers, as q_proj,v_proj, but got {word!r}")
        modules += [name.strip() for name in names if name.strip()]
    return () if modules == ["all-linear"] else tuple(dict.fromkeys(modules))


def check_fitting(options: FittingOptions) -> None:
    """UserError for what is wrong with adapters and TrainingArguments, which is known without a model."""
    if options.further:
        from forkpoint.training.configs import check_offered

        check_offered(options.further)
    starts_from_adapter = (Path(options.model) / "adapter_config.json").exists()
    changed = [
        f.name for f in fields(options) if f.name in ABOUT_ADAPTERS and getattr(options, f.name) not in (f.default, [])
    ]
    if starts_from_adapter:
        if options.lora_r:
            raise UserError(f"{options.model} is an adapter already, which is trained on; leave out --lora_r")
        changed = [name for name in changed if name not in ("merge", "load_in_4bit")]
        if changed:
            raise UserError(f"{options.model} is an adapter, which is trained on as it is; leave out --{changed[0]}")
    elif changed and not options.lora_r:
        raise UserError(f"--{changed[0]} is about adapters; ask for them with --lora_r")
    whole = getattr(options, "merge", True) or not (starts_from_adapter or options.lora_r)
    if options.save_dtype != "auto" and not whole:
        raise UserError("--save_dtype is about whole models, but adapters are saved in float32; add --merge")


def check_pair_training(options: PairTrainingOptions) -> None:
    """UserError for what is wrong without a model."""
    check_fitting(options)
    objective_of(options)


@dataclass
class MergeOptions:
    """Write the whole model that an adapter and its base make together."""

    adapter: Path = field(metadata=BARE)
    """the adapter's directory, such as model/ of `forkpoint train ... --lora_r`"""
    out: Path = field(metadata=BARE)
    """directory of the whole model"""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, ...; auto takes a GPU where there is one"""
    dtype: str = "auto"
    """auto (as the base is stored), float32, bfloat16 or float16"""
    trust_remote_code: bool = False
    """run model code that the Hub repository brings along"""


def merge_adapter(options: MergeOptions) -> None:
    """Merge, print where the model is."""
    from forkpoint.training.models import merge

    names = ("device", "dtype", "trust_remote_code")
    settings = {"name": str(options.adapter), "revision": None, "attn_implementation": None}
    merge(settings | {name: getattr(options, name) for name in names}, options.out)
    print(options.out)


@dataclass
class ConvertOptions:
    """Write a GGUF file out as a model directory: config, safetensors, tokenizer, chat template, generation config.

    A directory loads in a second, a GGUF file in half a minute; other engines and tools want directories, too.
    """

    file: str = field(metadata=BARE)
    """the GGUF file, or a directory with one"""
    out: Path = field(metadata=BARE)
    """directory of the model"""
    dtype: str = "auto"
    """float32, bfloat16 or float16; auto is float32, since quantised weights are unpacked"""


def convert_model(options: ConvertOptions) -> None:
    """Convert, print where the model is."""
    from forkpoint.engines.conversion import convert

    convert(options.file, options.out, options.dtype)
    print(options.out)


KINDS = (SftOptions, DpoOptions, RpoOptions, TdpoOptions, CriticalDpoOptions, ForkDpoOptions)
VERBS = (
    *(Verb(f"train {kind.method}", kind, train_on_pairs, check_pair_training, context=as_one) for kind in KINDS),
    Verb("merge", MergeOptions, merge_adapter),
    Verb("convert", ConvertOptions, convert_model),
)
