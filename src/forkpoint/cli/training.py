"""The run behind the verbs `forkpoint train ...`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

from forkpoint.cli.finish import finish
from forkpoint.cli.setup import default_directory, model_settings
from forkpoint.cli.training_options import NAMED, FittingOptions, TrainingOptions
from forkpoint.losses.methods import ALPHA
from forkpoint.types import UserError

if TYPE_CHECKING:
    from forkpoint.losses.methods import Objective
    from forkpoint.training.configs import TrainingConfig


C = TypeVar("C", bound="TrainingConfig")


def run_training(
    verb: str, argv: list[str], options: TrainingOptions, more: dict[str, Any], objective: Objective | None
) -> None:
    """Read the pairs, load the model, train, print what came of it; without an objective this is SFT.

    `options` and `more` are what the arguments `argv` of the verb say.
    """
    from forkpoint.cli.progress import progress_bar
    from forkpoint.engines.loading import load_config
    from forkpoint.pairs.pair_files import read_pairs
    from forkpoint.training.configs import PreferenceConfig
    from forkpoint.training.models import MODEL, base_settings, load_trainable, require_training, tokenizer_of
    from forkpoint.training.preference_run import fitting, train
    from forkpoint.training.processes import TIMEOUT, is_first

    require_training()
    for path in (options.pairs, options.eval_pairs):
        if path is not None and not path.exists():
            raise UserError(f"{path} does not exist")
    assert options.pairs is not None
    settings = model_settings(options)
    base = base_settings(settings)
    common = {name: base[name] for name in ("revision", "trust_remote_code")}
    config, tokenizer = load_config(base["name"], **common), tokenizer_of(settings)
    values: dict[str, Any] = {"method": "sft"} if objective is None else {
        "method": objective.method, "gamma" if objective.method == "critical-dpo" else "beta": objective.beta,
        **({"alpha": objective.alpha} if objective.method in ALPHA else {}),
        "precompute_ref_log_probs": getattr(options, "precompute_ref_log_probs", True),
    }  # fmt: skip
    values |= {"max_length": options.max_length, "save_dtype": save_dtype_of(options, config)}
    about = SimpleNamespace(lora_r=options.lora_rank, lora_dropout=options.lora_dropout, **values)
    inner = config.get_text_config(decoder=True)
    pairs, evaluated = (  # before the model is loaded
        read_pairs(path, tokenizer, inner.vocab_size) if path else [] for path in (options.pairs, options.eval_pairs)
    )
    for part in (pairs, evaluated or pairs):
        fitting(part, about, getattr(inner, "max_position_embeddings", None))
    model, tokenizer = load_trainable(settings, more.get("ddp_timeout", TIMEOUT), four_bit=options.load_in_4bit)
    out = options.out or default_directory(verb, options, more)
    with progress_bar(options.quiet or not is_first(), out) as progress:
        config = config_of(PreferenceConfig, options, more, **values)
        train(model, tokenizer, pairs, config, out, eval_pairs=evaluated, name=options.model, progress=progress)
    if is_first():
        finish(verb, argv, out, out / MODEL)


def arguments_of(options: FittingOptions, more: dict[str, Any]) -> dict[str, Any]:
    """The TrainingArguments of the options; a learning rate only where one is given."""
    return {name: value for name in NAMED if (value := getattr(options, name)) is not None} | more


def config_of(kind: type[C], options: FittingOptions, more: dict[str, Any], **values: Any) -> C:
    """The options as a config of a training."""
    from forkpoint.training.configs import config_of

    lora: dict[str, Any] = {
        "lora_r": options.lora_rank,
        "lora_alpha": options.lora_alpha,
        "lora_dropout": options.lora_dropout,
    }
    lora |= {"lora_target_modules": list(module_names(options.lora_modules)), "merge": getattr(options, "merge", False)}
    return config_of(kind, arguments_of(options, more) | lora | {"seed": options.seed} | values)


def save_dtype_of(options: FittingOptions, config: Any) -> str:
    """The precision to save in: as asked for, or that in which the model is stored; auto where that is not known."""
    if options.save_dtype != "auto":
        return options.save_dtype
    stored = getattr(config, "dtype", None)
    return "auto" if stored is None else str(stored).removeprefix("torch.")


def module_names(given: Sequence[str]) -> tuple[str, ...]:
    """Names of layers, given one at a time, with commas between them, or as a JSON list; all-linear is none."""
    found: list[str] = []
    for word in given:
        try:
            names = json.loads(word)
        except ValueError:
            names = word.split(",")
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise UserError(f"--lora_modules takes names of layers, as q_proj,v_proj, but got {word!r}")
        found += [name.strip() for name in names if name.strip()]
    return () if found == ["all-linear"] else tuple(dict.fromkeys(found))
