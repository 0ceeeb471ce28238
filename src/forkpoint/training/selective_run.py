"""A run of selective (or plain) language modeling: from a model and a score store to a directory with the result.

Resumable: checkpoints on the way, the result there whole or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, TrainerCallback

from forkpoint import __version__
from forkpoint.engines.identity import vocabulary_digest, weights_digest
from forkpoint.engines.local.lending import lent
from forkpoint.files import fingerprint, read_json, refuse_foreign
from forkpoint.scores.store import Store
from forkpoint.training.arguments import check_one_device, training_arguments
from forkpoint.training.card import model_card
from forkpoint.training.fit import failure_explained, figures, fit
from forkpoint.training.models import Lora, adapted, check_trainable, in_float32, save_trained
from forkpoint.training.processes import is_sharded
from forkpoint.training.rates import with_rate
from forkpoint.training.run_directory import CHECKPOINTS, claimed_by_all, finish
from forkpoint.trajectories.rows import SUMMARY
from forkpoint.types import Results, UserError
from forkpoint.weights.rules import NONE, Rule, check_rule

SNAPSHOTS = "snapshots"
CLM = "causal language modeling on every token"
SLM = "selective language modeling (Rho-1, arXiv 2404.07965)"
Progress = Callable[[str, int, int, int], None]


@dataclass(frozen=True, slots=True)
class Pretraining:
    """What decides the result beside model and data.

    `rule` selects the tokens, NONE of them for plain language modeling. `arguments` are TrainingArguments by name;
    `lora` trains adapters in place of all weights. `snapshots` models are kept on the way, evenly spaced, the first
    before the first step and the last at the end. Whole models are saved in the precision `save_dtype`, by default in
    the one that the model came in.
    """

    rule: Rule = field(default_factory=lambda: Rule(NONE))
    arguments: Mapping[str, Any] = field(default_factory=dict)
    lora: Lora | None = None
    snapshots: int = 0
    seed: int = 0
    save_dtype: str | None = None

    @property
    def method(self) -> str:
        """The method's name."""
        return "clm" if self.rule.score == NONE else "slm"


def pretrain(
    model: PreTrainedModel,
    tokenizer: Any,
    store: Store,
    training: Pretraining,
    out: Path,
    *,
    evaluated: Store | None = None,
    reference: PreTrainedModel | None = None,
    name: str = "custom",
    reference_name: str = "custom",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train the model on a store's rows; returns summary.json's content.

    `model` is trained in place, all of its weights in float32; `name` is what the files call it, `reference_name` the
    reference. `reference` is asked for its scores at each step where the rule needs them; without it they are the
    store's. The mean loss on the rows of `evaluated` is logged too, after each epoch unless eval_strategy says
    otherwise. `out` gets checkpoints while training goes on, then `model` (weights or adapters, tokenizer, card),
    summary.json, and `snapshots/step-N`, models on the way. A repeated call goes on from the last checkpoint. Raises
    UserError for a store or a reference with other tokens, rows longer than the model reads, settings that do not go
    together, memory that runs out and a loss that is no number.
    """
    rated = with_rate(training.arguments, training.method, adapters=training.lora is not None, name=name)
    training = replace(training, arguments=rated)
    arguments = check_pretraining(model, training, out, evaluated=evaluated is not None)
    _check(model, tokenizer, store)
    _check_reference(reference, store, training.rule)
    if evaluated is not None:
        _check(model, tokenizer, evaluated)
    run = {"verb": "train", "method": training.method, "model": name, **_settings(training), "version": __version__}
    identity = {
        "weights": weights_digest(model), "attention": model.config._attn_implementation,
        "store": _identity(store), "eval_store": evaluated and _identity(evaluated),
        "reference": reference and weights_digest(reference),
    }  # fmt: skip
    with claimed_by_all(out, run | identity):
        if not (out / SUMMARY).exists():
            came_in = in_float32(model, training.lora)
            dtype = training.save_dtype or came_in
            with lent(model, tokenizer), failure_explained(arguments):
                trainer = _trainer(model, tokenizer, store, training, arguments, evaluated, reference)
                if training.snapshots:
                    trainer.add_callback(_Snapshots(training.snapshots, tokenizer, out / SNAPSHOTS, dtype))
                step = None if progress is None else partial(progress, f"{training.method}, steps")
                tokens = store.facts["tokens"]
                facts = {"rows": len(store), "tokens_in_an_epoch": tokens} | fit(trainer, tokens, step)
            data = _data(store, evaluated, reference and reference_name)
            card = _card(name, training, data, facts)
            finish(trainer, tokenizer, training.lora, dtype, card, run | data | facts, out)
    return Results(read_json(out / SUMMARY))


def check_pretraining(model: PreTrainedModel, training: Pretraining, out: Path, *, evaluated: bool) -> Any:
    """The TrainingArguments of a run. UserError for whatever can be known to be wrong before there is a store."""
    check_one_device(model)
    check_trainable(model, training.lora)
    check_rule(training.rule)
    refuse_foreign(out)
    if training.snapshots < 0 or training.snapshots == 1:
        raise UserError(f"snapshots must be 0 or at least 2 (the first and the last), but is {training.snapshots}")
    if training.snapshots and is_sharded():
        raise UserError("snapshots are kept of whole models, not under FSDP")
    ours = {
        "include_num_input_tokens_seen": "non_padding",
        "use_cache": getattr(model.config, "use_cache", False),  # what snapshots say; no cache is used in training
    }
    values = {**training.arguments, "seed": training.seed}
    return training_arguments(values, out / CHECKPOINTS, model, evaluated=evaluated, ours=ours)


def _trainer(
    model: PreTrainedModel, tokenizer: Any, store: Store, training: Pretraining, arguments: Any,
    evaluated: Store | None, reference: PreTrainedModel | None,
) -> Any:  # fmt: skip
    from forkpoint.training.selective_trainer import SelectiveTrainer

    return SelectiveTrainer(
        adapted(model, training.lora, training.seed), arguments, store, training.rule, evaluated=evaluated,
        reference=reference, seed=training.seed, processing_class=tokenizer,
    )  # fmt: skip


def _check(model: PreTrainedModel, tokenizer: Any, store: Store) -> None:
    """UserError where the store is not one for this model."""
    if store.facts["vocabulary"] != vocabulary_digest(tokenizer):
        raise UserError(f"{store.path} was made with another tokenizer, {store.facts['tokenizer']}'s")
    _check_length(model, store, "the model")


def _check_reference(reference: PreTrainedModel | None, store: Store, rule: Rule) -> None:
    from forkpoint.training.selective_trainer import check_scores

    check_scores(rule, store, reference)
    if reference is not None:
        _check_length(reference, store, "the reference model")


def _check_length(model: PreTrainedModel, store: Store, what: str) -> None:
    size = model.get_input_embeddings().num_embeddings
    if (largest := store.largest_id()) >= size:
        raise UserError(f"{store.path} holds token id {largest}, but {what} knows 0 to {size - 1} only")
    longest = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if longest and store.context.length > longest:
        raise UserError(f"{store.path} has rows of {store.context.length} tokens, but {what} reads at most {longest}")


def _identity(store: Store) -> str:
    """A hash of a store's content."""
    return fingerprint([shard.digest for shard in store.shards])


def _settings(training: Pretraining) -> dict[str, Any]:
    return {
        "rule": asdict(training.rule),
        "arguments": dict(training.arguments),
        "lora": training.lora and asdict(training.lora),
        "snapshots": training.snapshots,
        "seed": training.seed,
        "save_dtype": training.save_dtype,
    }


def _data(store: Store, evaluated: Store | None, reference: str | None) -> dict[str, Any]:
    """What was trained and judged on, and who scored it, by name."""
    scored_by = store.facts["reference"] and store.facts["reference"]["model"]
    return {
        "store": str(store.path), "corpus": store.facts["source"].get("data"),
        "reference": reference or scored_by,
        "eval_data": evaluated and (evaluated.facts["source"].get("data") or str(evaluated.path)),
    }  # fmt: skip


def _card(name: str, training: Pretraining, data: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    source = CLM if training.rule.score == NONE else SLM
    return model_card(f"{name} after {training.method}", name, source, {**data, **_settings(training)}, figures(facts))


class _Snapshots(TrainerCallback):  # type: ignore[misc]
    """Keeps the model at evenly spaced steps."""

    def __init__(self, count: int, tokenizer: Any, out: Path, dtype: str) -> None:
        self.count, self.tokenizer, self.out, self.dtype = count, tokenizer, out, dtype

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        self.on_step_end(args, state, control, model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        steps = {round(i * state.max_steps / (self.count - 1)) for i in range(self.count)}
        path = self.out / f"step-{state.global_step:0{math.ceil(math.log10(state.max_steps + 1))}}"
        if state.is_world_process_zero and state.global_step in steps and not path.exists():
            self.out.mkdir(parents=True, exist_ok=True)
            card = f"Step {state.global_step} of a training.\n"
            save_trained(model, self.tokenizer, None, card, path, dtype=self.dtype)
