"""The run behind the verbs `forkpoint train clm` and `forkpoint train slm`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forkpoint.cli.corpus import context_of, documents_of, expected_context, source_of
from forkpoint.cli.finish import finish
from forkpoint.cli.pretraining_options import PretrainingOptions
from forkpoint.cli.setup import default_directory, model_settings
from forkpoint.cli.training import config_of, save_dtype_of
from forkpoint.types import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from forkpoint.scores.context import Context
    from forkpoint.scores.store import Store

TOKENS, HELD_OUT = ".tokens", ".held-out-tokens"  # of the run's directory: the tokenised text


def run_pretraining(
    verb: str,
    argv: list[str],
    options: PretrainingOptions,
    more: dict[str, Any],
    rule: Any = None,
    reference: str | None = None,
) -> None:
    """Load model and corpus, train, print what came of it; without a rule every token counts.

    `options` and `more` are what the arguments `argv` of the verb say.
    """
    from accelerate import PartialState

    from forkpoint.cli.progress import progress_bar
    from forkpoint.engines.identity import vocabulary_digest
    from forkpoint.engines.loading import load_config
    from forkpoint.scores.store import open_store
    from forkpoint.training.configs import SelectiveConfig
    from forkpoint.training.models import MODEL, base_settings, load_trainable, load_untrained
    from forkpoint.training.processes import TIMEOUT, is_first
    from forkpoint.training.selective_run import check_pretraining, pretrain

    settings, timeout = model_settings(options), more.get("ddp_timeout", TIMEOUT)
    out = options.out or default_directory(verb, options, more)
    if options.store is not None:
        open_store(options.store, check=False)  # before the model is loaded
    if options.from_scratch:
        model, tokenizer = load_untrained(settings, options.seed, timeout)
    else:
        model, tokenizer = load_trainable(settings, timeout)
    config = load_config(base_settings(settings)["name"], revision=settings["revision"],
                         trust_remote_code=settings["trust_remote_code"])  # fmt: skip
    dtype = "float32" if options.from_scratch and options.save_dtype == "auto" else save_dtype_of(options, config)
    chosen = {"rule": "uniform"} if rule is None else {
        "rule": rule.score, "ratio": rule.ratio, "entropy_ratio": rule.entropy_ratio, "scope": rule.scope,
        "ratio_warmup": rule.warmup,
    }  # fmt: skip
    training = config_of(SelectiveConfig, options, more, **chosen, snapshots=options.snapshots, save_dtype=dtype)
    check_pretraining(model, training, out, has_eval=options.eval_data is not None)  # before text is tokenised
    vocabulary = vocabulary_digest(tokenizer)
    frozen = None if reference is None else _reference(reference, settings, vocabulary)
    with PartialState().main_process_first():
        store, held_out = _stores(options, tokenizer, model, vocabulary, out)
    with progress_bar(options.quiet or not is_first(), out) as progress:
        pretrain(
            model, tokenizer, store, training, out, eval_store=held_out, ref_model=frozen, name=options.model,
            ref_name=reference or "custom", progress=progress,
        )  # fmt: skip
    if is_first():
        finish(verb, argv, out, out / MODEL)


def _stores(
    options: PretrainingOptions, tokenizer: Any, model: PreTrainedModel, vocabulary: str, out: Path
) -> tuple[Store, Store | None]:
    """The rows to train on and the held-out ones, if any: stores that are there, or text that is tokenised now."""
    from forkpoint.scores.store import STORE, open_store
    from forkpoint.training.processes import is_first

    first = is_first()  # whose check of the files does for all
    if options.store is not None:
        store = open_store(options.store, vocabulary, expected_context(options), check=first)
    else:
        store = _tokenised(options, tokenizer, model, context_of(options), out / TOKENS)
    if options.eval_data is None:
        return store, None
    if (Path(options.eval_data) / STORE).exists():
        return store, open_store(Path(options.eval_data), vocabulary, check=first)
    text = replace(options, data=options.eval_data)
    return store, _tokenised(text, tokenizer, model, store.context, out / HELD_OUT)


def _tokenised(
    options: PretrainingOptions, tokenizer: Any, model: PreTrainedModel, context: Context, out: Path
) -> Store:
    """The corpus of the options as a store without scores."""
    from forkpoint.scores.reference_losses import score_corpus
    from forkpoint.scores.store import open_store

    score_corpus(
        documents_of(options), tokenizer, out, context, name=options.model, source=source_of(options, out),
        vocabulary_size=model.get_input_embeddings().num_embeddings,
    )  # fmt: skip
    return open_store(out, check=False)


def _reference(name: str, settings: dict[str, Any], vocabulary: str) -> PreTrainedModel:
    """The reference model. UserError where its tokens are others."""
    from forkpoint.engines.identity import vocabulary_digest
    from forkpoint.engines.loading import load_pretrained

    model, tokenizer = load_pretrained(**{**settings, "name": name, "revision": None})
    if vocabulary_digest(tokenizer) != vocabulary:
        raise UserError(f"{name} has other tokens than {settings['name']}: a reference model needs the same")
    return model
