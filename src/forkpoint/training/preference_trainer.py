"""The preference trainer: transformers' own, with pairs for data, and one of our losses.

The loss of an optimizer step is the mean over all its pairs, however they are spread over micro-batches and processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import Dataset, SequentialSampler
from transformers import PreTrainedModel, Trainer, TrainingArguments

from forkpoint.engines.local.head import head_of
from forkpoint.engines.local.logprobs import current, token_logprobs, token_logprobs_and_kl
from forkpoint.losses.methods import Objective
from forkpoint.losses.pair_facts import PairFacts, pair_facts, pair_losses
from forkpoint.training.dropout import check_without_dropout, without_dropout
from forkpoint.training.order import by_length
from forkpoint.training.pair_batches import PairExample, collate
from forkpoint.training.pair_logprobs import logprobs_of, predicting, shares_prompts
from forkpoint.training.reference_logprobs import row_length
from forkpoint.types import UserError

Inputs = dict[str, Tensor]


class PreferenceTrainer(Trainer):  # type: ignore[misc]
    """`transformers.Trainer` on pairs.

    `examples` hold the reference's log-probabilities, or `reference` is asked for them at each step: a frozen model, or
    None for a PEFT model, whose own base is the reference. TDPO always asks. `args` are TrainingArguments, whose
    remove_unused_columns must be False; train_sampling_strategy="group_by_length" puts rows of similar length together.

    Logged beside the loss, under TRL's names, as means over pairs: rewards/chosen, rewards/rejected (β Δ; the rejected
    tokens weighted in critical DPO), rewards/margins, rewards/accuracies, logps/chosen, logps/rejected, and kl/chosen,
    kl/rejected in TDPO. A loss that is not finite stops the training with the pair's name.

    While `train` runs the model has no dropout, so that its first log-ratios are 0 where it is the reference.
    `shared` says what `shares_prompts` found of it, where that is known.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        examples: Sequence[PairExample],
        objective: Objective,
        *,
        evaluated: Sequence[PairExample] | None = None,
        reference: PreTrainedModel | None = None,
        shared: bool | None = None,
        **others: Any,
    ) -> None:
        both = [*examples, *(evaluated or ())]
        check_without_dropout(model)
        self.objective, self.reference = objective, reference
        self.online = objective.needs_kl or any(e.reference_chosen is None for e in both)
        if self.online and reference is None and not hasattr(model, "disable_adapter"):
            raise ValueError("a reference model is needed: the examples have no log-probabilities of it")
        self.shared = shares_prompts(model, max(row_length(e.pair) for e in both)) if shared is None else shared
        self.sums: dict[str, list[Tensor]] = {}  # of training steps since the last log
        self.judged: dict[int, dict[str, float]] = {}  # of an evaluation, by pair
        super().__init__(
            model, args, data_collator=partial(collate, shared=self.shared), train_dataset=_Listed(examples),
            eval_dataset=None if evaluated is None else _Listed(evaluated), **others,
        )  # fmt: skip
        if self.is_deepspeed_enabled:
            raise ValueError("DeepSpeed is not supported: the output matrix is used outside the model's forward")
        if self.is_fsdp_enabled:  # bfloat16 by autocast alone, as where nothing is sharded
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = None
        self.loss_is_scaled_for_ga = True
        self.head = head_of(model)
        if reference is not None:
            reference.requires_grad_(False).eval().to(self.accelerator.device)
        self.reference_head = self.head if reference is None else head_of(reference)

    def train(self, *args: Any, **others: Any) -> Any:
        """transformers' own, without dropout."""
        with without_dropout(self.model):
            return super().train(*args, **others)

    def compute_loss(
        self, model: Any, inputs: Inputs, return_outputs: bool = False, num_items_in_batch: Tensor | None = None
    ) -> Any:
        """The sum of the batch's losses over the pairs of the whole step, times the number of processes."""
        with self.accelerator.autocast():
            facts = self._facts(model, inputs)
        losses = pair_losses(self.objective, facts, inputs["pair_weights"])
        self._check(losses, inputs)
        noted = self._noted(facts)
        if num_items_in_batch is None:  # an evaluation
            self._judge(noted | {"loss": losses.detach()}, inputs["pair_index"])
            return (losses.mean(), {}) if return_outputs else losses.mean()
        for name, values in noted.items():
            self.sums.setdefault(name, []).append(torch.stack([values.sum(), torch.ones_like(values).sum()]))
        loss = losses.sum() * self.accelerator.num_processes / num_items_in_batch
        return (loss, {}) if return_outputs else loss

    def _facts(self, model: Any, inputs: Inputs) -> PairFacts:
        """The sums by pair, with gradients for the policy."""
        policy = self.accelerator.unwrap_model(model)
        hidden, targets = predicting(policy, inputs, call=model), inputs["targets"]
        head = current(self.head, policy)
        if self.objective.needs_kl:
            with self._as_reference(policy) as frozen:
                others = predicting(frozen, inputs)
            logprobs, kl, reference = token_logprobs_and_kl(hidden, head, targets, others, self.reference_head)
            return pair_facts(logprobs, reference, kl, inputs)
        if self.online:
            with self._as_reference(policy) as frozen:
                reference = logprobs_of(frozen, self.reference_head, inputs)
        else:
            reference = inputs["reference_logprobs"]
        logprobs = token_logprobs(hidden, head, targets)
        return pair_facts(logprobs, reference, torch.zeros_like(logprobs), inputs)

    @contextmanager
    def _as_reference(self, policy: Any) -> Iterator[Any]:
        """The frozen model, or the policy without its adapter, without gradients."""
        with torch.no_grad():
            if self.reference is not None:
                yield self.reference
            else:
                with policy.disable_adapter():
                    yield policy

    def _check(self, losses: Tensor, inputs: Inputs) -> None:
        """UserError naming the first pair whose loss is not finite."""
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            data = self.train_dataset if self.model.training else self.eval_dataset
            pair = data[int(inputs["pair_index"][bad[0]])].pair
            raise UserError(
                f"the loss of pair {pair.id!r} is {float(losses[bad[0]].detach())} at step "
                f"{self.state.global_step + 1}: lower the learning rate, or look at that pair"
            )

    def _noted(self, facts: PairFacts) -> dict[str, Tensor]:
        """What is logged of each pair, [B]."""
        beta = self.objective.beta
        rejected = facts.rejected_weighted if self.objective.method == "critical-dpo" else facts.rejected
        rewards = (beta * facts.chosen.detach(), beta * rejected.detach())
        noted = {
            "rewards/chosen": rewards[0],
            "rewards/rejected": rewards[1],
            "rewards/accuracies": (rewards[0] > rewards[1]).float(),
            "rewards/margins": rewards[0] - rewards[1],
            "logps/chosen": facts.chosen_logprob.detach(),
            "logps/rejected": facts.rejected_logprob.detach(),
        }
        if self.objective.needs_kl:
            noted |= {"kl/chosen": facts.chosen_kl.detach(), "kl/rejected": facts.rejected_kl.detach()}
        return noted

    def _judge(self, noted: dict[str, Tensor], pair_index: Tensor) -> None:
        """Keep an evaluation's values by pair: of several processes, some get a pair that another one had."""
        columns = [values.tolist() for values in noted.values()]
        for b, index in enumerate(pair_index.tolist()):
            self.judged[index] = {name: column[b] for name, column in zip(noted, columns, strict=True)}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """With the means over all pairs, of all processes: of an evaluation, or of the training since the last log."""
        if any(name.startswith("eval_") for name in logs):
            rows = dict(gather_object(list(self.judged.items())))
            for name in next(iter(rows.values()), {}):
                logs[f"eval_{name}"] = sum(row[name] for row in rows.values()) / len(rows)
            self.judged = {}
        else:
            for name, sums in self.sums.items():
                total, count = self.accelerator.reduce(torch.stack(sums).sum(0)).tolist()
                logs[name] = total / count
            self.sums = {}
        super().log(logs, start_time)

    def prediction_step(self, model: Any, inputs: Any, *_: Any, **__: Any) -> tuple[Tensor, None, None]:
        """The mean loss of a batch of pairs."""
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, self._prepare_inputs(inputs)).detach(), None, None

    def _get_num_items_in_batch(self, batch_samples: list[Inputs], device: torch.device) -> Tensor | None:
        """The pairs of an optimizer step, over all processes."""
        pairs = torch.tensor(float(sum(len(batch["pair_weights"]) for batch in batch_samples)), device=device)
        return self.accelerator.gather(pairs).sum() if pairs else None

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        return SequentialSampler(eval_dataset)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        return by_length(self, [row_length(e.pair) for e in self.train_dataset.examples])


class _Listed(Dataset):  # type: ignore[type-arg]
    def __init__(self, examples: Sequence[PairExample]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, i: int) -> PairExample:
        return self.examples[i]
