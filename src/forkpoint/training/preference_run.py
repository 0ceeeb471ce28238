"""A run of preference training, or of SFT on chosen responses: from a model and pairs to a directory with the result.

Resumable: checkpoints on the way, the result there whole or not at all.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from forkpoint.files import fingerprint
from forkpoint.pairs.pair import Pair
from forkpoint.training.configs import PreferenceConfig, prepared, sft_config, stated
from forkpoint.training.fields import PreferenceFields
from forkpoint.training.fit import CHECKPOINTS, run_training
from forkpoint.training.models import adapted, check_trainable, context_of
from forkpoint.training.processes import is_first
from forkpoint.types import Progress, Results, UserError

log = logging.getLogger("forkpoint")


def train(
    model: PreTrainedModel,
    tokenizer: Any,
    pairs: Sequence[Pair],
    args: PreferenceConfig,
    out: Path,
    *,
    eval_pairs: Sequence[Pair] = (),
    name: str = "custom",
    progress: Progress | None = None,
) -> Results:
    """Train the model on the pairs; returns summary.json's content.

    `model` is trained in place, all of its weights in float32; a PEFT model's adapters are trained on. `name` is what
    the files call it. The metrics on `eval_pairs` are logged too, after each epoch unless eval_strategy says otherwise.
    `fitting` says which pairs are left out. `out` gets checkpoints while training goes on, then `model` (weights or
    adapters, tokenizer, card) and summary.json. A repeated call goes on from the last checkpoint. UserError for pairs
    that do not fit the method, settings that do not go together, memory that runs out and a loss that is no number.
    """
    check_trainable(model, args)
    context = context_of(model)
    kept = fitting(pairs, args, context)
    eval_kept = fitting(eval_pairs, args, context) if eval_pairs else []
    ready = prepared(args, out / CHECKPOINTS, model, has_eval=bool(eval_kept), name=name)
    left_out, eval_left_out = len(pairs) - len(kept), len(eval_pairs) - len(eval_kept)

    def trainer(_: str) -> Any:
        if (left_out or eval_left_out) and is_first():
            total = len(pairs) + len(eval_pairs)
            log.warning("%s of %s pairs are too long and left out", left_out + eval_left_out, total)
        if args.method == "sft":
            return _sft_trainer(model, tokenizer, kept, eval_kept, ready)
        from forkpoint.training.preference_trainer import PreferenceTrainer

        return PreferenceTrainer(model, ready, kept, eval_kept or None, processing_class=tokenizer, progress=progress)

    return run_training(
        model, tokenizer, ready, out, trainer, method=args.method, name=name, settings=stated(args, ready, model),
        identity={
            "pairs": fingerprint([asdict(p) for p in pairs]),
            "eval_pairs": fingerprint([asdict(p) for p in eval_pairs]),
        },
        data={"pairs": len(kept), "too_long": left_out, "eval_too_long": eval_left_out},
        tokens=sum(sum(lengths_of(p, args.method)) for p in kept), progress=progress,
    )  # fmt: skip


def _sft_trainer(model: Any, tokenizer: Any, pairs: list[Pair], eval_pairs: list[Pair], args: PreferenceConfig) -> Any:
    """TRL's, on the chosen responses; where one has weights, those without have weights of 1."""
    from forkpoint.training.sft import response_row, sft_trainer

    def row(p: Pair) -> dict[str, list[Any]]:
        weights = p.chosen_weights or (1.0,) * len(p.chosen_ids)
        return response_row(p.prompt_ids, p.chosen_ids, weights if weighted else None)

    weighted = any(p.chosen_weights is not None for p in (*pairs, *eval_pairs))
    rows, eval_rows = ([row(p) for p in part] for part in (pairs, eval_pairs))
    return sft_trainer(adapted(model, args), tokenizer, sft_config(args), rows, eval_rows)


def lengths_of(pair: Pair, method: str) -> list[int]:
    """The tokens of the prompt with each response that the method reads."""
    responses = (pair.chosen_ids,) if method == "sft" else (pair.chosen_ids, pair.rejected_ids)
    return [len(pair.prompt_ids) + len(ids) for ids in responses]


def fitting(pairs: Sequence[Pair], args: PreferenceFields, context: int | None) -> list[Pair]:
    """The pairs of which no response with its prompt has more than `max_length` tokens, or than the model reads.

    `context` is how many it reads. UserError for pairs that do not fit the method, and for none.
    """
    method = args.method
    if not pairs:
        raise UserError("there are no pairs to train on")
    if args.max_length is not None and args.max_length < 2:
        raise UserError(f"max_length must be at least 2, a prompt and a response, but is {args.max_length}")
    if method != "sft" and args.lora_r and args.lora_dropout:
        raise UserError(f"{method} takes no lora_dropout: the reference has no dropout, and so the policy none")
    for pair in pairs:
        if not (pair.prompt_ids and pair.chosen_ids and pair.rejected_ids):
            raise UserError(f"pair {pair.id!r} has an empty prompt or response")
        if method == "critical-dpo" and pair.rejected_weights is None:
            raise UserError(
                f"pair {pair.id!r} has no rejected_weights, which critical-dpo needs; "
                "make pairs with `forkpoint pairs --scores`, of the scores of `forkpoint contrast`"
            )
        if method == "fork-dpo" and (len(pair.chosen_ids), len(pair.rejected_ids)) != (1, 1):
            raise UserError(
                f"pair {pair.id!r} has responses of {len(pair.chosen_ids)} and {len(pair.rejected_ids)} tokens, but "
                "fork-dpo takes single tokens; make pairs with `forkpoint pairs --forks`"
            )
    longest = min((n for n in (args.max_length, context) if n is not None), default=None)
    lengths = [max(lengths_of(p, method)) for p in pairs]
    kept = [p for p, n in zip(pairs, lengths, strict=True) if longest is None or n <= longest]
    if not kept:
        raise UserError(
            f"every pair is too long: the shortest has {min(lengths)} tokens, but at most {longest} are read"
        )
    return kept
