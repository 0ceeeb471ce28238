"""The preference trainer: transformers' own, with pairs for data, and one of our losses.

The loss of an optimizer step is the mean over all its pairs, however they are spread over micro-batches and processes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor
from transformers import PreTrainedModel

from forkpoint.engines.local.logprobs import current, token_logprobs, token_logprobs_and_kl
from forkpoint.losses.preference import LOSSES, PairSums, pair_sums
from forkpoint.pairs.pair import Pair
from forkpoint.pairs.pair_files import pair_of
from forkpoint.pairs.trl_files import import_pairs
from forkpoint.training.configs import PreferenceConfig
from forkpoint.training.dropout import check_without_dropout, without_dropout
from forkpoint.training.models import adapted, context_of
from forkpoint.training.pair_batches import PairExample, collate, logprobs_of, predicting, row_length, shares_prompts
from forkpoint.training.preference_run import fitting
from forkpoint.training.reference_logprobs import with_reference
from forkpoint.training.step_trainer import Inputs, StepTrainer
from forkpoint.types import Progress, UserError


def pairs_of(data: Any, tokenizer: Any, vocab_size: int) -> list[Pair]:
    """The pairs of a sequence of Pair, or of rows as in pairs.jsonl or as TRL takes them:

    {"prompt_ids": [5, 6], "chosen_ids": [7, 2], "rejected_ids": [8, 2], "rejected_weights": [0.9, 0.0]}
    {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"}
    """
    if isinstance(data, str):
        raise UserError(f"pairs are a data set or a list of Pair, but got one text, {data[:40]!r}: read files first")
    rows = list(data)
    if all(isinstance(row, Pair) for row in rows):
        return rows
    if tokenizer is None:
        raise UserError("a data set of pairs needs its tokenizer as processing_class")
    if "chosen_ids" in rows[0]:
        return [pair_of(row, str(i), tokenizer, vocab_size, f"row {i}") for i, row in enumerate(rows)]
    return import_pairs([(f"row {i}", row) for i, row in enumerate(rows)], tokenizer).pairs


class PreferenceTrainer(StepTrainer):
    """`transformers.Trainer` on pairs (`pairs_of`) that are not too long (`fitting`).

    The reference is `ref_model`, by default the model as it is before new adapters and training. Its log-probabilities
    are computed before training, of which `progress` hears, or at each step where `args` say so or the loss needs more
    of it (TDPO); for that the base of new adapters serves, else a frozen copy is kept.

    Logged beside the loss, under TRL's names, as means over pairs: rewards/chosen, rewards/rejected (β Δ; in critical
    DPO γ Δ of weighted tokens), rewards/margins, rewards/accuracies, logps/chosen, logps/rejected, and kl/chosen,
    kl/rejected in TDPO. A loss that is not finite stops the training with the pair's name. While `train` runs the model
    has no dropout, so that its first log-ratios are 0 where it is the reference.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: PreferenceConfig,
        train_dataset: Any,
        eval_dataset: Any = None,
        ref_model: PreTrainedModel | None = None,
        peft_config: Any = None,
        processing_class: Any = None,
        *,
        progress: Progress | None = None,
        **options: Any,
    ) -> None:
        self.objective = args.objective
        if getattr(peft_config, "lora_dropout", 0):
            raise UserError("the reference has no dropout, and so the policy none: leave out lora_dropout")
        size = model.get_input_embeddings().num_embeddings
        pairs, eval_pairs = (
            [] if data is None else fitting(pairs_of(data, processing_class, size), args, context_of(model))
            for data in (train_dataset, eval_dataset)
        )
        self.shared = shares_prompts(model, max(row_length(p) for p in [*pairs, *eval_pairs]))
        self.online = self.objective.needs_kl or not args.precompute_ref_log_probs
        autocast = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
        read = partial(with_reference, ref_model or model, batch_size=args.per_device_eval_batch_size,
                       shared=self.shared, autocast=autocast, progress=progress)  # fmt: skip
        with PartialState().main_process_first():  # of several processes the first one asks the reference
            examples, eval_examples = (
                [PairExample(p, i) for i, p in enumerate(part)] if self.online or not part else read(part)
                for part in (pairs, eval_pairs)
            )
        policy = adapted(model, args, peft_config)
        check_without_dropout(policy)
        if self.online and ref_model is None and policy is model:
            ref_model = copy.deepcopy(model)
        self.sums: dict[str, list[Tensor]] = {}  # of training steps since the last log
        self.evaluated: dict[int, dict[str, float]] = {}  # of an evaluation, by pair
        super().__init__(
            policy, args, examples, eval_examples or None, partial(collate, shared=self.shared),
            [row_length(p) for p in pairs], ref_model if self.online else None, processing_class=processing_class,
            **options,
        )  # fmt: skip

    def train(self, *args: Any, **options: Any) -> Any:
        """transformers' own, without dropout."""
        with without_dropout(self.model):
            return super().train(*args, **options)

    def step_loss(self, model: Any, inputs: Inputs, items: Tensor | None) -> Tensor:
        """The sum of the batch's losses over the pairs of the whole step."""
        with self.accelerator.autocast():
            sums = self._sums(model, inputs)
        losses = inputs["pair_weights"] * LOSSES[self.objective.method](sums, self.objective)
        self._check(losses, inputs)
        noted = self._noted(sums)
        if items is None:  # an evaluation; of several processes, some get a pair that another one had
            columns = {name: values.tolist() for name, values in (noted | {"loss": losses.detach()}).items()}
            for b, index in enumerate(inputs["pair_index"].tolist()):
                self.evaluated[index] = {name: column[b] for name, column in columns.items()}
            return losses.mean()
        for name, values in noted.items():
            self.sums.setdefault(name, []).append(torch.stack([values.sum(), torch.ones_like(values).sum()]))
        return losses.sum() / items

    def _sums(self, model: Any, inputs: Inputs) -> PairSums:
        """The sums by pair, with gradients for the policy."""
        policy = self.accelerator.unwrap_model(model)
        hidden, targets = predicting(policy, inputs, call=model), inputs["targets"]
        head = current(self.head, policy)
        if self.objective.needs_kl:
            with self._reference(policy) as frozen:
                ref_hidden = predicting(frozen, inputs)
            logprobs, kl, reference = token_logprobs_and_kl(hidden, head, targets, ref_hidden, self.ref_head)
            return pair_sums(logprobs, reference, kl, inputs)
        if self.online:
            with self._reference(policy) as frozen:
                reference = logprobs_of(frozen, self.ref_head, inputs)
        else:
            reference = inputs["ref_logprobs"]
        logprobs = token_logprobs(hidden, head, targets)
        return pair_sums(logprobs, reference, torch.zeros_like(logprobs), inputs)

    @contextmanager
    def _reference(self, policy: Any) -> Iterator[Any]:
        """The frozen model, or the policy without its adapter, without gradients."""
        with torch.no_grad(), policy.disable_adapter() if self.ref_model is None else nullcontext():
            yield policy if self.ref_model is None else self.ref_model

    def _check(self, losses: Tensor, inputs: Inputs) -> None:
        """UserError naming the first pair whose loss is not finite."""
        if len(bad := (~torch.isfinite(losses)).nonzero()):
            data = self.train_dataset if self.model.training else self.eval_dataset
            name = data[int(inputs["pair_index"][bad[0]])].pair.id
            raise UserError(
                f"the loss of pair {name!r} is {float(losses[bad[0]].detach())} at step "
                f"{self.state.global_step + 1}: lower the learning rate, or look at that pair"
            )

    def _noted(self, sums: PairSums) -> dict[str, Tensor]:
        """What is logged of each pair, [B]."""
        ratio = sums.weighted if self.objective.method == "critical-dpo" else sums.ratio
        chosen, rejected = self.objective.beta * ratio.detach()
        noted = {
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/accuracies": (chosen > rejected).float(),
            "rewards/margins": chosen - rejected,
        }
        each = {"logps": sums.logprob} | ({"kl": sums.kl} if self.objective.needs_kl else {})
        for name, (of_chosen, of_rejected) in each.items():
            noted |= {f"{name}/chosen": of_chosen.detach(), f"{name}/rejected": of_rejected.detach()}
        return noted

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """With the means over all pairs, of all processes: of an evaluation, or of the training since the last log."""
        if any(name.startswith("eval_") for name in logs):
            rows = dict(gather_object(list(self.evaluated.items())))
            for name in next(iter(rows.values()), {}):
                logs[f"eval_{name}"] = sum(row[name] for row in rows.values()) / len(rows)
            self.evaluated = {}
        else:
            for name, sums in self.sums.items():
                total, count = self.accelerator.reduce(torch.stack(sums).sum(0)).tolist()
                logs[name] = total / count
            self.sums = {}
        super().log(logs, start_time)

    def _get_num_items_in_batch(self, batch_samples: list[Inputs], device: torch.device) -> Tensor | None:
        """The pairs of an optimizer step, over all processes."""
        pairs = torch.tensor(float(sum(len(batch["pair_weights"]) for batch in batch_samples)), device=device)
        return self.accelerator.gather(pairs).sum() if pairs else None
