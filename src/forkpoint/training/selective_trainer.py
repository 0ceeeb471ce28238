"""The selective trainer: transformers' own, on a score store, with the loss on the tokens that a rule selects.

    L_SLM = −1/(N·k%) Σ I_k%(x_i) log P_θ(x_i | x_<i): Lin et al. 2024 (Rho-1, arXiv 2404.07965), eq. 3 and 4.

The loss of an optimizer step is the mean over all its selected tokens, however they are spread over micro-batches and
processes. L_θ, which rules rank by, is the loss of the weights before the step, by a float32 pass without dropout
(under autocast the logits alone are float32). Where no dropout is set and the weights are float32, the training pass
computes the same and is read instead of a pass of its own, as far as one micro-batch is ranked by itself. Where the
selection stands before the training pass, only its rows meet the output matrix there, in blocks: logits [n, V] never
exist.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import PreTrainedModel, Trainer, TrainingArguments

from forkpoint.engines.local.head import head_of, hidden_at, in_eval_mode
from forkpoint.engines.local.logprobs import current, token_logprobs, token_losses_and_entropy
from forkpoint.engines.local.products import HALF, float32_activations
from forkpoint.scores.store import Store
from forkpoint.training.dropout import draws
from forkpoint.training.order import by_length
from forkpoint.training.store_batches import Rows, collate
from forkpoint.types import UserError
from forkpoint.weights.rules import Rule, Selection, check_rule, quota, rule_at, select

Inputs = dict[str, Tensor]
SHARES = (0.1, 0.5, 0.9)  # quantiles over documents of the share of their tokens that is selected


def check_scores(rule: Rule, store: Store, reference: PreTrainedModel | None) -> None:
    """UserError where a rule reads scores that neither the store nor a reference model has."""
    if rule.needs_reference and reference is None and not store.has_scores:
        raise UserError(f"the rule {rule.score} needs a reference model's scores, but {store.path} has none")


class SelectiveTrainer(Trainer):  # type: ignore[misc]
    """`transformers.Trainer` on the rows of a score store.

    `rule` says which tokens count; what it reads of a reference model is in the store, or `reference`, a frozen model
    with the same tokens, is asked at each step. `args` are TrainingArguments, of which
    train_sampling_strategy="group_by_length" puts rows of similar length together. `evaluated` is a store whose
    every token counts in an evaluation: eval_loss is their mean loss. `seed` draws the numbers of the rule `random`,
    which also decide between equal scores.

    Logged beside `loss`, the mean over selected tokens in nats: loss/unselected and loss/all, of L_θ, by rules that
    read it (a static rule leaves the losses of the others uncomputed); selection/share, the
    share of tokens that is selected; selection/limit/SCORE, the last value that was (mean over what is ranked
    together); selection/documents_none, the share of documents none of whose tokens since the last log is, and
    selection/documents_p10, _p50, _p90, quantiles over documents of the share that is.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        store: Store,
        rule: Rule,
        *,
        evaluated: Store | None = None,
        reference: PreTrainedModel | None = None,
        seed: int = 0,
        **others: Any,
    ) -> None:
        check_rule(rule)
        check_scores(rule, store, reference)
        self.rule, self.reference = rule, reference if rule.needs_reference else None
        self.apart = draws(model) or model.dtype in HALF  # whether the loss of the training pass is another than L_θ
        self.sums: dict[str, Tensor] = {}  # of training steps since the last log: a total and a count [2]
        self.documents: list[Tensor] = []  # the same: numbers of documents, their tokens that are selected, all [3, D]
        self.judged: dict[int, tuple[float, int]] = {}  # of an evaluation, by row: the sum of losses, and tokens
        super().__init__(
            model, args, data_collator=collate, train_dataset=Rows(store, seed),
            eval_dataset=None if evaluated is None else Rows(evaluated, seed), **others,
        )  # fmt: skip
        if self.is_deepspeed_enabled or args.n_gpu > 1:
            raise ValueError("one process trains on one device, without DeepSpeed: the output matrix is used by itself")
        if self.is_fsdp_enabled:  # bfloat16 by autocast alone, as where nothing is sharded
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = None
        self.loss_is_scaled_for_ga = True
        self.head = head_of(model)
        if self.reference is not None:
            self.reference.requires_grad_(False).eval().to(self.accelerator.device)
            self.reference_head = head_of(self.reference)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Inputs], num_batches: int, device: torch.device
    ) -> tuple[list[Inputs], Tensor | None]:
        """The micro-batches of an optimizer step, and how many tokens of them are selected over all processes.

        Whatever can be selected before the forward pass is, and stands in the batch as `selected`.
        """
        batches: list[Inputs] = [self._prepare_inputs(batch) for batch in islice(epoch_iterator, num_batches)]
        if not batches:
            return batches, None
        if self.reference is not None:
            for batch in batches:
                batch |= self._reference_scores(batch)
        rule = self._rule()
        if not rule.is_static:
            if not (self.apart or (rule.scope == "batch" and len(batches) > 1)):
                return batches, self._coming(batches, rule)
            for batch in batches:
                batch["loss"] = self._losses(batch)
        for part in [batches] if rule.scope == "batch" else [[batch] for batch in batches]:
            self._mark(part, rule)
        return batches, self._total(torch.stack([batch["selected"].sum() for batch in batches]).sum())

    def compute_loss(
        self, model: Any, inputs: Inputs, return_outputs: bool = False, num_items_in_batch: Tensor | None = None
    ) -> Any:
        """The sum of the selected tokens' losses over their number in the whole step, times the number of processes."""
        policy = self.accelerator.unwrap_model(model)
        wanted = inputs.get("selected", slice(None))
        with self.accelerator.autocast():
            hidden = hidden_at(policy, inputs["input_ids"], inputs["rows"][wanted], call=model)
            losses = -token_logprobs(hidden, current(self.head, policy), inputs["targets"][wanted])
        self._check(losses, inputs["owner"][wanted], inputs)
        if num_items_in_batch is None:  # an evaluation
            self._judge(losses.detach(), inputs)
            return (losses.mean(), {}) if return_outputs else losses.mean()
        if "selected" not in inputs:
            inputs["loss"] = losses.detach()
            self._mark([inputs], self._rule())
            losses = losses[inputs["selected"]]
        self._note(inputs | {"loss": losses.detach()} if self.rule.score == "none" else inputs)
        loss = losses.sum() * self.accelerator.num_processes / num_items_in_batch.clamp(min=1)
        return (loss, {}) if return_outputs else loss

    def _rule(self) -> Rule:
        """The rule at this step."""
        return rule_at(self.rule, self.state.global_step, self.state.max_steps)

    @torch.no_grad()
    def _losses(self, batch: Inputs) -> Tensor:
        """L_θ of each token."""
        policy = self.accelerator.unwrap_model(self.model)
        with in_eval_mode(policy), self.accelerator.autocast(), float32_activations(policy):
            hidden = hidden_at(policy, batch["input_ids"], batch["rows"])
            return token_losses_and_entropy(hidden, current(self.head, policy), batch["targets"])[0]

    @torch.no_grad()
    def _reference_scores(self, batch: Inputs) -> Inputs:
        """What the reference model says of each token."""
        with self.accelerator.autocast(), float32_activations(self.reference):
            hidden = hidden_at(self.reference, batch["input_ids"], batch["rows"])
            loss, entropy = token_losses_and_entropy(hidden, self.reference_head, batch["targets"])
        self._check(loss, batch["owner"], batch, "reference model's ")
        return {"reference_loss": loss, "reference_entropy": entropy}

    def _coming(self, batches: list[Inputs], rule: Rule) -> Tensor:
        """How many tokens will be selected in the forward passes of a step, over all processes."""
        sizes = [torch.bincount(b["owner"]) for b in batches]
        if rule.scope == "batch":
            return quota(self._total(sizes[0].sum()), rule.ratio)
        if rule.scope == "micro_batch":
            sizes = [s.sum() for s in sizes]
        return self._total(torch.stack([quota(s, rule.ratio).sum() for s in sizes]).sum())

    def _total(self, number: Tensor) -> Tensor:
        """A number's sum over all processes."""
        total: Tensor = self.accelerator.reduce(number.to(self.args.device), reduction="sum")
        return total

    def _mark(self, batches: list[Inputs], rule: Rule) -> None:
        """Rank the tokens of these batches together, as far as the rule's scope goes, and mark the `selected` ones."""
        names = (*rule.columns, "chance")
        columns = {name: torch.cat([batch[name] for batch in batches]) for name in names}
        if rule.scope == "sequence":
            groups = batches[0]["owner"]
        else:
            groups = torch.zeros_like(columns["chance"], dtype=torch.long)
        selection = self._select_over_processes(columns, rule, groups)
        parts = torch.split(selection.kept, [len(batch["targets"]) for batch in batches])
        for batch, kept in zip(batches, parts, strict=True):
            batch["selected"] = kept
        for name, limits in selection.limits.items():
            self._add(f"selection/limit/{name}", limits.sum(), len(limits))

    def _select_over_processes(self, columns: Inputs, rule: Rule, groups: Tensor) -> Selection:
        """This process's part of a selection, in which a rule of scope `batch` sees the tokens of all of them."""
        accelerator = self.accelerator
        if accelerator.num_processes == 1 or rule.scope != "batch":
            return select(columns, rule, groups)
        sizes = accelerator.gather(torch.tensor([len(groups)], device=groups.device)).tolist()
        together = {}
        for name, column in columns.items():
            padded = torch.split(accelerator.gather(accelerator.pad_across_processes(column)), max(sizes))
            together[name] = torch.cat([part[:size] for part, size in zip(padded, sizes, strict=True)])
        found = select(together, rule, groups.new_zeros(sum(sizes)))
        return Selection(torch.split(found.kept, sizes)[accelerator.process_index], found.limits)

    def _check(self, losses: Tensor, owner: Tensor, inputs: Inputs, whose: str = "") -> None:
        """UserError naming the row of the first loss that is not finite."""
        if not bool(torch.isfinite(losses).all()):
            at = int((~torch.isfinite(losses)).nonzero()[0])
            row = int(inputs["index"][owner[at]])
            advice = "its weights or its precision are broken" if whose else "lower the learning rate"
            data = "store" if self.model.training or whose else "evaluation's store"
            raise UserError(
                f"the {whose}loss of a token in row {row} of the {data} is {float(losses[at].detach())} at step "
                f"{self.state.global_step + 1}: {advice}, or look at that row"
            )

    def _note(self, inputs: Inputs) -> None:
        """Keep what is logged of a batch."""
        selected, losses = inputs["selected"], inputs.get("loss")
        if losses is not None:
            self._add("loss/all", losses.sum(), len(losses))
            self._add("loss/unselected", losses[~selected].sum(), len(losses) - int(selected.sum()))
        self._add("selection/share", selected.sum(), len(selected))
        if self.rule.score != "none":
            document, own = torch.unique(inputs["document"], return_inverse=True)
            kept = torch.bincount(own[selected], minlength=len(document))
            self.documents.append(torch.stack([document, kept, torch.bincount(own)]).cpu())

    def _add(self, name: str, total: Tensor, count: int) -> None:
        """Add to what is logged as a mean."""
        pair = torch.stack([total.sum().double(), total.new_tensor(count, dtype=torch.float64).squeeze()])
        self.sums[name] = self.sums.get(name, 0) + pair.to(self.args.device)

    def _judge(self, losses: Tensor, inputs: Inputs) -> None:
        """Keep an evaluation's sums by row: of several processes, some get a row that another one had."""
        rows = len(inputs["index"])
        sums = torch.bincount(inputs["owner"], losses.double(), rows).tolist()
        counts = torch.bincount(inputs["owner"], minlength=rows).tolist()
        for index, total, count in zip(inputs["index"].tolist(), sums, counts, strict=True):
            self.judged[index] = (total, count)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """With the means over all tokens, of all processes, of the training since the last log."""
        if "loss" in logs:
            for name, sums in self.sums.items():
                total, count = self.accelerator.reduce(sums).tolist()
                if count:
                    logs[name] = total / count
            logs |= self._document_shares()
            self.sums, self.documents = {}, []
        super().log(logs, start_time)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **others: Any) -> Any:
        """transformers' own, with the mean loss over all tokens of the rows, each counted once."""
        self.judged = {}
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **others)
        rows = dict(gather_object(list(self.judged.items())))
        mean = sum(total for total, _ in rows.values()) / sum(count for _, count in rows.values())
        output.metrics[f"{metric_key_prefix}_loss"] = mean
        return output

    def _document_shares(self) -> dict[str, float]:
        """How the share of selected tokens differs between documents."""
        own = torch.cat(self.documents, 1).cpu().numpy() if self.documents else np.empty((3, 0), np.int64)
        numbers, kept, sizes = np.concatenate(gather_object([own]), 1)
        if not len(numbers):
            return {}
        _, place = np.unique(numbers, return_inverse=True)  # one document may stand in several batches
        shares = np.bincount(place, kept) / np.bincount(place, sizes)
        found = {f"selection/documents_p{round(100 * q)}": float(np.quantile(shares, q)) for q in SHARES}
        return {"selection/documents_none": float((shares == 0).mean()), **found}

    def prediction_step(self, model: Any, inputs: Any, *_: Any, **__: Any) -> tuple[Tensor, None, None]:
        """The mean loss of a batch of rows."""
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, self._prepare_inputs(inputs)).detach(), None, None

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        return SequentialSampler(eval_dataset)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        return by_length(self, self.train_dataset.store.lengths())
