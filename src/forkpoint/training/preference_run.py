"""A run of preference training, or of SFT on chosen responses: from a model and pairs to a directory with the result.

Resumable: checkpoints on the way, the result there whole or not at all.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from forkpoint import __version__
from forkpoint.engines.identity import weights_digest
from forkpoint.engines.local.lending import lent
from forkpoint.files import fingerprint, read_json
from forkpoint.losses.methods import PAPERS, Objective
from forkpoint.pairs.pair import Pair
from forkpoint.training.arguments import check_one_device, training_arguments
from forkpoint.training.card import model_card
from forkpoint.training.fit import failure_explained, figures, fit
from forkpoint.training.models import Lora, adapted, check_trainable, in_float32
from forkpoint.training.pair_batches import PairExample
from forkpoint.training.pair_logprobs import shares_prompts
from forkpoint.training.processes import is_first
from forkpoint.training.rates import with_rate
from forkpoint.training.reference_logprobs import row_length, with_reference
from forkpoint.training.run_directory import CHECKPOINTS, claimed_by_all, finish
from forkpoint.training.sft import response_rows, sft_trainer
from forkpoint.trajectories.rows import SUMMARY
from forkpoint.types import Results, UserError

SFT = "supervised fine-tuning on the chosen responses, by TRL"
log = logging.getLogger("forkpoint")
Progress = Callable[[str, int, int, int], None]


@dataclass(frozen=True, slots=True)
class Training:
    """What decides the result beside model and data.

    `objective` is the preference loss, None for SFT on the chosen responses. `arguments` are TrainingArguments by name;
    `lora` trains adapters in place of all weights. With `precompute` the reference's log-probabilities are computed
    before training and kept, where the loss needs no more than those; else at each step. Pairs of which a response with
    its prompt has more than `max_length` tokens, or than the model reads, are left out. A whole model is saved in the
    precision `save_dtype`, by default in the one that it came in.
    """

    objective: Objective | None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    lora: Lora | None = None
    precompute: bool = True
    seed: int = 0
    max_length: int | None = None
    save_dtype: str | None = None

    @property
    def method(self) -> str:
        """The method's name."""
        return "sft" if self.objective is None else self.objective.method


def train(
    model: PreTrainedModel,
    tokenizer: Any,
    pairs: Sequence[Pair],
    training: Training,
    out: Path,
    *,
    evaluated: Sequence[Pair] = (),
    name: str = "custom",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train the model on the pairs; returns summary.json's content.

    `model` is trained in place, all of its weights in float32; a PEFT model's adapters are trained on. `name` is what
    the files call it. The metrics on the pairs `evaluated` are logged too, after each epoch unless eval_strategy says
    otherwise. `out` gets checkpoints while training goes on, then `model` (weights or adapters, tokenizer, card) and
    summary.json. A repeated call goes on from the last checkpoint. Raises UserError for pairs that do not fit the
    method, settings that do not go together, memory that runs out and a loss that is no number.
    """
    check_one_device(model)
    check_trainable(model, training.lora)
    context = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    kept = fitting(pairs, training, context)
    judged = fitting(evaluated, training, context) if evaluated else []
    rated = with_rate(training.arguments, training.method, adapters=training.lora is not None, name=name)
    training = replace(training, arguments=rated)
    arguments = training_arguments(
        {**rated, "seed": training.seed}, out / CHECKPOINTS, model, _arguments_class(training), evaluated=bool(judged)
    )
    run = {"verb": "train", "method": training.method, "model": name, **_settings(training), "version": __version__}
    identity = {
        "weights": weights_digest(model),
        "attention": model.config._attn_implementation,
        "pairs": fingerprint([asdict(p) for p in pairs]),
        "eval_pairs": fingerprint([asdict(p) for p in evaluated]),
    }
    counts = {"pairs": len(kept), "too_long": len(pairs) - len(kept), "eval_too_long": len(evaluated) - len(judged)}
    with claimed_by_all(out, run | identity):
        if not (out / SUMMARY).exists():
            if (left_out := counts["too_long"] + counts["eval_too_long"]) and is_first():
                log.warning("%s of %s pairs are too long and left out", left_out, len(pairs) + len(evaluated))
            came_in = in_float32(model, training.lora)
            with lent(model, tokenizer), failure_explained(arguments):
                trainer = _trainer(model, tokenizer, (kept, judged), training, arguments, progress)
                tokens = sum(_tokens(p, training) for p in kept)
                step = None if progress is None else partial(progress, f"{training.method}, steps")
                facts = counts | {"tokens_in_an_epoch": tokens} | fit(trainer, tokens, step)
            # only now is the configuration again what it was
            dtype = training.save_dtype or came_in
            finish(trainer, tokenizer, training.lora, dtype, _card(name, training, facts), run | facts, out)
    return Results(read_json(out / SUMMARY))


def _card(name: str, training: Training, facts: Mapping[str, Any]) -> str:
    return model_card(f"{name} after {training.method}", name, _source(training), _settings(training), figures(facts))


def _trainer(
    model: PreTrainedModel,
    tokenizer: Any,
    data: tuple[Sequence[Pair], Sequence[Pair]],
    training: Training,
    arguments: Any,
    progress: Progress | None,
) -> Any:
    from forkpoint.training.preference_trainer import PreferenceTrainer

    if training.objective is None:
        rows, others = (response_rows((p.prompt_ids, p.chosen_ids) for p in pairs) for pairs in data)
        return sft_trainer(adapted(model, training.lora, training.seed), tokenizer, arguments, rows, others)
    stored = training.precompute and not training.objective.needs_kl
    step = None if progress is None else partial(progress, "pairs read by the reference")
    shared = shares_prompts(model, max(row_length(p) for pairs in data for p in pairs))
    examples, evaluated = (
        _with_reference(model, pairs, arguments, shared, step)
        if stored
        else [PairExample(p, i) for i, p in enumerate(pairs)]
        for pairs in data
    )
    new_adapters = training.lora is not None and training.lora.start is None  # the reference is the model without them
    reference = None if stored or new_adapters else copy.deepcopy(model)
    policy = adapted(model, training.lora, training.seed)
    return PreferenceTrainer(
        policy, arguments, examples, training.objective, evaluated=evaluated or None, reference=reference,
        shared=shared, processing_class=tokenizer,
    )  # fmt: skip


def _with_reference(
    model: PreTrainedModel, pairs: Sequence[Pair], arguments: Any, shared: bool, step: Any
) -> list[PairExample]:
    """What the reference says of the pairs; of several processes the first one finds it out."""
    from accelerate import PartialState

    if not pairs:
        return []
    autocast = torch.bfloat16 if arguments.bf16 else torch.float16 if arguments.fp16 else None
    with PartialState().main_process_first():
        return with_reference(
            model, pairs, batch_size=arguments.per_device_eval_batch_size, shared=shared, autocast=autocast,
            progress=step,
        )  # fmt: skip


def _arguments_class(training: Training) -> Any:
    from transformers import TrainingArguments
    from trl import SFTConfig

    return SFTConfig if training.objective is None else TrainingArguments


def fitting(pairs: Sequence[Pair], training: Training, context: int | None) -> list[Pair]:
    """The pairs that are not too long, in their order. UserError for pairs that do not fit the method, and for none.

    Knows of the model only how many tokens it reads, its `context`.
    """
    if not pairs:
        raise UserError("there are no pairs to train on")
    if training.max_length is not None and training.max_length < 2:
        raise UserError(f"max_length must be at least 2, a prompt and a response, but is {training.max_length}")
    if training.objective is not None and training.lora and training.lora.dropout and training.lora.start is None:
        raise UserError(
            f"{training.method} takes no lora_dropout: the reference has no dropout, and so the policy none"
        )
    longest = min((n for n in (training.max_length, context) if n is not None), default=None)
    for pair in pairs:
        if not (pair.prompt_ids and pair.chosen_ids and pair.rejected_ids):
            raise UserError(f"pair {pair.id!r} has an empty prompt or response")
        if training.method == "critical-dpo" and pair.rejected_weights is None:
            raise UserError(
                f"pair {pair.id!r} has no rejected_weights, which critical-dpo needs; "
                "make pairs with `forkpoint pairs --scores`, of the scores of `forkpoint contrast`"
            )
        if training.method == "fork-dpo" and (len(pair.chosen_ids), len(pair.rejected_ids)) != (1, 1):
            raise UserError(
                f"pair {pair.id!r} has responses of {len(pair.chosen_ids)} and {len(pair.rejected_ids)} tokens, but "
                "fork-dpo takes single tokens; make pairs with `forkpoint pairs --forks`"
            )
    kept = [p for p in pairs if longest is None or _length(p, training) <= longest]
    if not kept:
        raise UserError(f"every pair is too long: the shortest has {min(_length(p, training) for p in pairs)} tokens, "
                        f"but at most {longest} are read")  # fmt: skip
    return kept


def _length(pair: Pair, training: Training) -> int:
    """Tokens of the longest row that is read of a pair."""
    rejected = () if training.objective is None else pair.rejected_ids
    return len(pair.prompt_ids) + max(len(pair.chosen_ids), len(rejected))


def _tokens(pair: Pair, training: Training) -> int:
    """What an epoch reads of a pair."""
    if training.objective is None:
        return len(pair.prompt_ids) + len(pair.chosen_ids)
    return 2 * len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids)


def _settings(training: Training) -> dict[str, Any]:
    constants = {} if training.objective is None else asdict(training.objective)
    constants.pop("method", None)
    return {
        **constants,
        "arguments": dict(training.arguments),
        "lora": training.lora and asdict(training.lora),
        "seed": training.seed,
        "max_length": training.max_length,
        "save_dtype": training.save_dtype,
    }


def _source(training: Training) -> str:
    return SFT if training.objective is None else PAPERS[training.objective.method]
