"""A run of selective (or plain) language modeling: from a model and a score store to a directory with the result.

Resumable: checkpoints on the way, the result there whole or not at all.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, TrainerCallback

from forkpoint.engines.identity import vocabulary_digest, weights_digest
from forkpoint.files import fingerprint, refuse_foreign
from forkpoint.scores.store import Store
from forkpoint.training.configs import SelectiveConfig, prepared, stated
from forkpoint.training.fit import CHECKPOINTS, run_training
from forkpoint.training.models import check_trainable, context_of, save_trained
from forkpoint.training.processes import is_sharded
from forkpoint.training.selective_trainer import SelectiveTrainer
from forkpoint.training.store_batches import check_scores
from forkpoint.types import Progress, Results, UserError
from forkpoint.weights.rules import check_rule

SNAPSHOTS = "snapshots"


def pretrain(
    model: PreTrainedModel,
    tokenizer: Any,
    store: Store,
    args: SelectiveConfig,
    out: Path,
    *,
    eval_store: Store | None = None,
    ref_model: PreTrainedModel | None = None,
    name: str = "custom",
    ref_name: str = "custom",
    progress: Progress | None = None,
) -> Results:
    """Train the model on a store's rows; returns summary.json's content.

    `model` is trained in place, all of its weights in float32; `name` is what the files call it, `ref_name` the
    reference. `ref_model` is asked for its scores at each step where the rule needs them, instead of the store's. The
    mean loss on the rows of `eval_store` is logged too, after each epoch unless eval_strategy says otherwise. `out`
    gets what `preference_run.train` leaves, and `snapshots/step-N`, models on the way. UserError for a store or a
    reference with other tokens, rows longer than the model reads, settings that do not go together, memory that runs
    out and a loss that is no number.
    """
    ready = check_pretraining(model, args, out, has_eval=eval_store is not None, name=name)
    check_scores(args.selection, store, ref_model)
    for some in (store, eval_store):
        if some is not None:
            if some.facts["vocabulary"] != vocabulary_digest(tokenizer):
                raise UserError(f"{some.path} was made with another tokenizer, {some.facts['tokenizer']}'s")
            _check_length(model, some, "the model")
    if ref_model is not None:
        _check_length(ref_model, store, "the reference model")

    def trainer(dtype: str) -> SelectiveTrainer:
        trainer = SelectiveTrainer(model, ready, store, eval_store, ref_model, processing_class=tokenizer)
        if args.snapshots:
            trainer.add_callback(_Snapshots(args.snapshots, tokenizer, out / SNAPSHOTS, dtype))
        return trainer

    settings = stated(args, ready, model)
    scored_by = store.facts["reference"] and store.facts["reference"]["model"]
    digests = [some and fingerprint([shard.digest for shard in some.shards]) for some in (store, eval_store)]
    return run_training(
        model, tokenizer, ready, out, trainer, method=args.method, name=name,
        settings={"rule": asdict(args.selection), **settings, "snapshots": args.snapshots},
        identity={
            "store": digests[0], "eval_store": digests[1], "reference": ref_model and weights_digest(ref_model),
        },
        data={
            "store": str(store.path), "corpus": store.facts["source"].get("data"),
            "reference": scored_by if ref_model is None else ref_name,
            "eval_data": eval_store and (eval_store.facts["source"].get("data") or str(eval_store.path)),
            "rows": len(store),
        },
        tokens=store.facts["tokens"], progress=progress,
    )  # fmt: skip


def check_pretraining(
    model: PreTrainedModel, args: SelectiveConfig, out: Path, *, has_eval: bool, name: str = "custom"
) -> SelectiveConfig:
    """The prepared config of a run. UserError for whatever can be known to be wrong before there is a store."""
    check_trainable(model, args)
    check_rule(args.selection)
    refuse_foreign(out)
    if args.snapshots < 0 or args.snapshots == 1:
        raise UserError(f"snapshots must be 0 or at least 2 (the first and the last), but is {args.snapshots}")
    if args.snapshots and is_sharded():
        raise UserError("snapshots are kept of whole models, not under FSDP")
    ready = prepared(args, out / CHECKPOINTS, model, has_eval=has_eval, name=name)
    ready.use_cache = getattr(model.config, "use_cache", False)  # what snapshots say; no cache is used in training
    return ready


def _check_length(model: PreTrainedModel, store: Store, what: str) -> None:
    size = model.get_input_embeddings().num_embeddings
    if (largest := store.largest_id()) >= size:
        raise UserError(f"{store.path} holds token id {largest}, but {what} knows 0 to {size - 1} only")
    longest = context_of(model)
    if longest and store.context.length > longest:
        raise UserError(f"{store.path} has rows of {store.context.length} tokens, but {what} reads at most {longest}")


class _Snapshots(TrainerCallback):  # type: ignore[misc]
    """Keeps the model at evenly spaced steps."""

    def __init__(self, count: int, tokenizer: Any, out: Path, dtype: str) -> None:
        self.count, self.tokenizer, self.out, self.dtype = count, tokenizer, out, dtype

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        self.on_step_end(args, state, control, model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        steps = {round(i * state.max_steps / (self.count - 1)) for i in range(self.count)}
        path = self.out / f"step-{state.global_step:0{len(str(state.max_steps))}}"
        if state.is_world_process_zero and state.global_step in steps and not path.exists():
            self.out.mkdir(parents=True, exist_ok=True)
            card = f"Step {state.global_step} of a training.\n"
            save_trained(model, self.tokenizer, card, path, dtype=self.dtype)
