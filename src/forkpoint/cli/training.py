"""The run behind the verbs `forkpoint train ...`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from forkpoint.cli.finish import finish
from forkpoint.cli.setup import default_directory, model_settings
from forkpoint.cli.training_options import NAMED, FittingOptions, TrainingOptions
from forkpoint.types import UserError

if TYPE_CHECKING:
    from forkpoint.losses.methods import Objective
    from forkpoint.training.models import Lora


def run_training(
    verb: str, argv: list[str], options: TrainingOptions, more: dict[str, Any], objective: Objective | None
) -> None:
    """Read the pairs, load the model, train, print what came of it; without an objective this is SFT.

    `options` and `more` are what the arguments `argv` of the verb say.
    """
    from forkpoint.cli.progress import progress_bar
    from forkpoint.engines.loading import load_config
    from forkpoint.pairs.pair_files import read_pairs
    from forkpoint.training.adapters import require_training
    from forkpoint.training.models import MODEL, base_settings, load_trainable, tokenizer_of
    from forkpoint.training.preference_run import Training, fitting, train
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
    training = Training(
        objective, arguments_of(options, more), lora_of(options), getattr(options, "precompute_ref_log_probs", True),
        options.seed, options.max_length, save_dtype_of(options, config),
    )  # fmt: skip
    inner = config.get_text_config(decoder=True)
    pairs, evaluated = (  # before the model is loaded
        read_pairs(path, tokenizer, inner.vocab_size) if path else [] for path in (options.pairs, options.eval_pairs)
    )
    for part in (pairs, evaluated or pairs):
        fitting(part, training, getattr(inner, "max_position_embeddings", None))
    model, tokenizer = load_trainable(settings, more.get("ddp_timeout", TIMEOUT), four_bit=options.load_in_4bit)
    out = options.out or default_directory(verb, options, more)
    with progress_bar(options.quiet or not is_first(), out) as progress:
        train(model, tokenizer, pairs, training, out, evaluated=evaluated, name=options.model, progress=progress)
    if is_first():
        finish(verb, argv, out, out / MODEL)


def arguments_of(options: FittingOptions, more: dict[str, Any]) -> dict[str, Any]:
    """The TrainingArguments of the options; a learning rate only where one is given."""
    return {name: value for name in NAMED if (value := getattr(options, name)) is not None} | more


def save_dtype_of(options: FittingOptions, config: Any) -> str | None:
    """The precision to save in: as asked for, or that in which the model is stored; None where that is not known."""
    if options.save_dtype != "auto":
        return options.save_dtype
    stored = getattr(config, "dtype", None)
    return None if stored is None else str(stored).removeprefix("torch.")


def lora_of(options: FittingOptions) -> Lora | None:
    """The adapters that the options ask for, or those in the directory that is trained on."""
    from forkpoint.training.models import Lora, is_adapter, lora_in

    merge = getattr(options, "merge", False)
    if options.lora_rank:
        modules = module_names(options.lora_modules)
        return Lora(options.lora_rank, options.lora_alpha, modules, merge, options.lora_dropout)
    return lora_in(options.model, merge) if is_adapter(options.model) else None


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
