"""The verbs `forkpoint train clm` and `forkpoint train slm`, which train on a corpus."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from forkpoint.cli.corpus import CorpusOptions, context_of, documents_of, source_of
from forkpoint.cli.progress import progress_bar
from forkpoint.cli.setup import model_settings
from forkpoint.cli.train import FittingOptions, base_config, check_fitting, config_of, save_dtype_of
from forkpoint.cli.verb import Verb
from forkpoint.training.fields import CorpusFields, SelectiveFields
from forkpoint.training.processes import as_one
from forkpoint.types import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from forkpoint.scores.context import Context
    from forkpoint.scores.store import Store
    from forkpoint.training.configs import SelectiveConfig

TOKENS, HELD_OUT = ".tokens", ".held-out-tokens"  # of the run's directory: the tokenised text


@dataclass
class ClmOptions(CorpusFields, FittingOptions, CorpusOptions):
    """Train a model on every token of a corpus: a reference model on clean text, or the control of `train slm`."""

    store: Path | None = None
    """a store of `forkpoint score` to train on, in place of --data"""
    eval_data: str | None = None
    """held-out text, or a store: its mean loss is logged after each epoch, or as eval_strategy says"""
    from_scratch: bool = False
    """begin with new weights, drawn from the seed, for the model's configuration and tokenizer"""
    per_device_train_batch_size: int = 8
    """rows at a time"""


@dataclass
class SlmOptions(SelectiveFields, ClmOptions):
    """Train a model on the useful tokens of a corpus (Rho-1, arXiv 2404.07965).

    Takes a store of `forkpoint score`, or --data and a --reference that is asked at each step.
    """

    rule: Literal[
        "excess_loss", "reference_loss", "reference_entropy", "loss", "random", "union", "intersection"
    ] = "excess_loss"  # fmt: skip
    """what tokens are ranked by: excess_loss (high), reference_loss (low), reference_entropy (low), union or
    intersection of the last two, loss (high; no reference), random (the control)"""
    scope: Literal["sequence", "micro_batch", "batch"] = "batch"
    """what is ranked together: a row, a process's forward pass, or an optimizer step over all processes"""
    reference: str | None = None
    """model asked for the scores at each step, in place of a store's"""


def train_on_corpus(options: ClmOptions, out: Path) -> list[Path] | None:
    """Load model and corpus, train."""
    from forkpoint.training.models import require_training

    require_training()
    from accelerate import PartialState

    from forkpoint.engines.identity import vocabulary_digest
    from forkpoint.scores.store import open_store
    from forkpoint.training.models import MODEL, load_trainable, load_untrained
    from forkpoint.training.processes import TIMEOUT, is_first
    from forkpoint.training.selective_run import check_pretraining, pretrain

    settings, timeout = model_settings(options), options.further.get("ddp_timeout", TIMEOUT)
    if options.store is not None:
        open_store(options.store, check=False)  # before the model is loaded
    if options.from_scratch:
        model, tokenizer = load_untrained(settings, options.seed, timeout)
    else:
        model, tokenizer = load_trainable(settings, timeout)
    training = selective_settings(options)
    check_pretraining(model, training, out, has_eval=options.eval_data is not None)  # before text is tokenised
    vocabulary = vocabulary_digest(tokenizer)
    name = getattr(options, "reference", None)
    reference = None if name is None else _reference(name, settings, vocabulary)
    with PartialState().main_process_first():
        store, held_out = _stores(options, tokenizer, model, vocabulary, out)
    with progress_bar(options.quiet or not is_first()) as progress:
        pretrain(
            model, tokenizer, store, training, out, eval_store=held_out, ref_model=reference, name=options.model,
            ref_name=name or "custom", progress=progress,
        )  # fmt: skip
    return [out / MODEL] if is_first() else None


def selective_settings(options: ClmOptions) -> SelectiveConfig:
    """The settings of a training on a corpus."""
    from forkpoint.training.configs import SelectiveConfig

    is_new = options.from_scratch and options.save_dtype == "auto"
    dtype = "float32" if is_new else save_dtype_of(options, base_config(options))
    return config_of(SelectiveConfig, options, rule=rule_of(options).score, save_dtype=dtype)


def rule_of(options: ClmOptions) -> Any:
    """The selection rule, for `train clm` that of every token. UserError for one out of range."""
    from forkpoint.weights.rules import UNIFORM, Rule, check_rule

    if not isinstance(options, SlmOptions):
        return Rule(UNIFORM)
    rule = Rule(options.rule, options.ratio, options.entropy_ratio, options.scope, options.ratio_warmup)
    check_rule(rule)
    return rule


def _stores(
    options: ClmOptions, tokenizer: Any, model: PreTrainedModel, vocabulary: str, out: Path
) -> tuple[Store, Store | None]:
    """The rows to train on and the held-out ones, if any: stores that are there, or text that is tokenised now."""
    from forkpoint.scores.store import STORE, open_store
    from forkpoint.training.processes import is_first

    first = is_first()  # whose check of the files does for all
    if options.store is not None:
        named = {name: getattr(options, name) for name in ("documents", "length", "stride")}
        expected = {name: value for name, value in named.items() if value is not None}
        store = open_store(options.store, vocabulary, expected, check=first)
    else:
        store = _tokenised(options, tokenizer, model, context_of(options), out / TOKENS)
    if options.eval_data is None:
        return store, None
    if (Path(options.eval_data) / STORE).exists():
        return store, open_store(Path(options.eval_data), vocabulary, check=first)
    return store, _tokenised(replace(options, data=options.eval_data), tokenizer, model, store.context, out / HELD_OUT)


def _tokenised(options: ClmOptions, tokenizer: Any, model: PreTrainedModel, context: Context, out: Path) -> Store:
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


def check(options: ClmOptions) -> None:
    """UserError where the options do not name one corpus, or no reference model for a rule that needs one."""
    if (options.store is None) == (options.data is None):
        raise UserError("name what to train on: --store, made by `forkpoint score`, or --data, but not both")
    check_fitting(options)
    if options.store is None:
        context_of(options)
    if not isinstance(options, SlmOptions):
        return
    rule = rule_of(options)
    if rule.needs_reference and options.store is None and options.reference is None:
        raise UserError(
            f"the rule {rule.score} needs a reference model: its scores with --store, made by `forkpoint score`, or "
            "the model itself with --reference"
        )
    if options.reference is not None and not rule.needs_reference:
        raise UserError(f"the rule {rule.score} asks no reference model; leave out --reference")


VERBS = (
    Verb("train clm", ClmOptions, train_on_corpus, check, context=as_one),
    Verb("train slm", SlmOptions, train_on_corpus, check, context=as_one),
)
