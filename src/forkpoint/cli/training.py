"""The run behind the verbs `forkpoint train ...`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from forkpoint.cli.finish import finish
from forkpoint.cli.pretraining_options import PretrainingOptions
from forkpoint.cli.setup import default_directory, model_settings
from forkpoint.cli.training_options import NAMED, TrainingOptions
from forkpoint.types import UserError

if TYPE_CHECKING:
    from forkpoint.preference.methods import Objective
    from forkpoint.training.models import Lora


def run_training(
    verb: str, argv: list[str], options: TrainingOptions, more: dict[str, Any], objective: Objective | None
) -> None:
    """Load model and pairs, train, print what came of it; without an objective this is SFT.

    `options` and `more` are what the arguments `argv` of the verb say.
    """
    from forkpoint.cli.progress import progress_bar
    from forkpoint.preference.pair_files import read_pairs
    from forkpoint.preference.training import Training, train
    from forkpoint.training.models import MODEL, load_trainable
    from forkpoint.training.processes import TIMEOUT, is_first

    for path in (options.pairs, options.eval_pairs):
        if path is not None and not path.exists():  # before the model is loaded
            raise UserError(f"{path} does not exist")
    assert options.pairs is not None
    model, tokenizer = load_trainable(model_settings(options), more.get("ddp_timeout", TIMEOUT))
    size = model.get_input_embeddings().num_embeddings
    pairs = read_pairs(options.pairs, tokenizer, size)
    evaluated = read_pairs(options.eval_pairs, tokenizer, size) if options.eval_pairs else []
    arguments = {name: getattr(options, name) for name in NAMED} | more
    precompute = getattr(options, "precompute_ref_log_probs", True)
    training = Training(objective, arguments, lora_of(options), precompute, options.seed)
    out = options.out or default_directory(verb, options, more)
    with progress_bar(options.quiet or not is_first(), out) as progress:
        train(model, tokenizer, pairs, training, out, evaluated=evaluated, name=options.model, progress=progress)
    if is_first():
        finish(verb, argv, out, out / MODEL)


def lora_of(options: TrainingOptions | PretrainingOptions) -> Lora | None:
    """The adapters that the options ask for."""
    from forkpoint.training.models import Lora

    if options.lora_rank:
        return Lora(options.lora_rank, options.lora_alpha, tuple(options.lora_modules), options.merge)
    return None
