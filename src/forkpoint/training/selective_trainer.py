"""The selective trainer: transformers' own, on a score store, with the loss on the tokens that a rule selects.

L_θ, which rules rank by, is the loss of the weights before the step, by a float32 pass without dropout (under autocast
the logits alone are float32). Where no dropout is set and the weights are float32, the training pass computes the same
and is read instead of a pass of its own, as far as one micro-batch is ranked by itself. Where the selection stands
before the training pass, only its rows meet the output matrix there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import PreTrainedModel

from forkpoint.engines.local.head import Head, hidden_at, in_eval_mode
from forkpoint.engines.local.logprobs import current, token_logprobs, token_losses_and_entropy
from forkpoint.engines.local.products import HALF, float32_activations
from forkpoint.losses.language_modeling import weighted_nll
from forkpoint.training.configs import SelectiveConfig
from forkpoint.training.dropout import draws
from forkpoint.training.models import adapted
from forkpoint.training.step_trainer import Inputs, StepTrainer
from forkpoint.training.store_batches import Rows, check_scores, collate, store_of
from forkpoint.types import UserError
from forkpoint.weights.rules import UNIFORM, Rule, Selection, check_rule, quota, rule_at, select

SHARES = (0.1, 0.5, 0.9)  # quantiles over documents of the share of their tokens that is selected


class SelectiveTrainer(StepTrainer):
    """`transformers.Trainer` on the rows of a score store, or of a `datasets.Dataset` of texts or token ids.

    `args.selection` says which tokens count; what it reads of a reference model is in the store, or `ref_model`, a
    frozen model with the same tokens, is asked at each step. `args.seed` draws the numbers of the rule `random`, which
    also decide between equal scores. Every token of `eval_dataset` counts in eval_loss.

    Logged beside `loss`, the mean over selected tokens in nats: loss/unselected and loss/all, of L_θ, by rules that
    read it; selection/share, the share of tokens that is selected; selection/limit/SCORE, the last value that was (mean
    over what is ranked together); selection/documents_none, the share of documents none of whose tokens since the last
    log is, and selection/documents_p10, _p50, _p90, quantiles over documents of the share that is.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: SelectiveConfig,
        train_dataset: Any,
        eval_dataset: Any = None,
        ref_model: PreTrainedModel | None = None,
        peft_config: Any = None,
        processing_class: Any = None,
        **options: Any,
    ) -> None:
        self.rule = args.selection
        check_rule(self.rule)
        self.scratch = TemporaryDirectory()  # of data sets, tokenised
        store, eval_store = (
            store_of(data, processing_class, model, f"{self.scratch.name}/{name}")
            for name, data in (("train", train_dataset), ("eval", eval_dataset))
        )
        assert store is not None
        check_scores(self.rule, store, ref_model)
        policy = adapted(model, args, peft_config)
        self.apart = draws(policy) or policy.dtype in HALF  # whether the loss of the training pass is another than L_θ
        self.sums: dict[str, Tensor] = {}  # of training steps since the last log: a total and a count [2]
        self.seen, self.kept = Counter[int](), Counter[int]()  # the same: tokens of documents, those that are selected
        self.evaluated: dict[int, tuple[float, int]] = {}  # of an evaluation, by row: the sum of losses, and tokens
        super().__init__(
            policy, args, Rows(store, args.seed),
            None if eval_store is None else Rows(eval_store, args.seed), collate, store.lengths(),
            ref_model if self.rule.needs_reference else None, processing_class=processing_class, **options,
        )  # fmt: skip

    def get_batch_samples(
        self, epoch_iterator: Iterator[Inputs], num_batches: int, device: torch.device
    ) -> tuple[list[Inputs], Tensor | None]:
        """The micro-batches of an optimizer step, and how many tokens of them are selected over all processes.

        Whatever can be selected before the forward pass is, and its `weights` stand in the batch.
        """
        batches: list[Inputs] = [self._prepare_inputs(batch) for batch in islice(epoch_iterator, num_batches)]
        if not batches:
            return batches, None
        if self.ref_model is not None:
            for batch in batches:
                loss, entropy = self._scores(self.ref_model, self.ref_head, batch)
                self._check(loss, batch["owner"], batch, "reference model's ")
                batch |= {"reference_loss": loss, "reference_entropy": entropy}
        rule = self._rule_now()
        if not rule.is_static:
            if not (self.apart or "entropy" in rule.columns or (rule.scope == "batch" and len(batches) > 1)):
                return batches, self._coming(batches, rule)  # the training pass says what is selected
            policy = self.accelerator.unwrap_model(self.model)
            for batch in batches:
                batch["loss"], batch["entropy"] = self._scores(policy, current(self.head, policy), batch)
        for part in [batches] if rule.scope == "batch" else [[batch] for batch in batches]:
            self._weigh(part, rule)
        return batches, self._total(sum((batch["weights"] != 0).sum() for batch in batches))

    def step_loss(self, model: Any, inputs: Inputs, items: Tensor | None) -> Tensor:
        """The weighted sum of losses over the number of tokens in the whole step."""
        policy = self.accelerator.unwrap_model(model)
        kept = inputs["weights"] != 0 if "weights" in inputs else slice(None)
        with self.accelerator.autocast():
            hidden = hidden_at(policy, inputs["input_ids"], inputs["rows"][kept], call=model)
            logprobs = token_logprobs(hidden, current(self.head, policy), inputs["targets"][kept])
        losses = -logprobs.detach()
        self._check(losses, inputs["owner"][kept], inputs)
        if items is None:  # an evaluation
            self._keep(losses, inputs)
            return losses.mean()
        if "weights" not in inputs:
            inputs["loss"] = losses
            self._weigh([inputs], self._rule_now())
            kept = inputs["weights"] != 0
            logprobs = logprobs[kept]
        self._note(inputs | {"loss": losses} if self.rule.score == UNIFORM else inputs)
        return weighted_nll(logprobs, inputs["weights"][kept], items)

    def _rule_now(self) -> Rule:
        return rule_at(self.rule, self.state.global_step, self.state.max_steps)

    @torch.no_grad()
    def _scores(self, model: Any, head: Head, batch: Inputs) -> tuple[Tensor, Tensor]:
        """Loss and entropy of a model at each token."""
        with in_eval_mode(model), self.accelerator.autocast(), float32_activations(model):
            hidden = hidden_at(model, batch["input_ids"], batch["rows"])
            return token_losses_and_entropy(hidden, head, batch["targets"])

    def _coming(self, batches: list[Inputs], rule: Rule) -> Tensor:
        """How many tokens will be selected in the forward passes of a step, over all processes."""
        if rule.scope == "batch":  # of one micro-batch
            return quota(self._total(torch.tensor(len(batches[0]["owner"]))), rule.ratio)
        rows = [torch.bincount(batch["owner"]) for batch in batches]
        groups = rows if rule.scope == "sequence" else [sizes.sum()[None] for sizes in rows]
        return self._total(quota(torch.cat(groups), rule.ratio).sum())

    def _total(self, number: Any) -> Tensor:
        """A number's sum over all processes."""
        total: Tensor = self.accelerator.reduce(number.to(self.args.device), reduction="sum")
        return total

    def _weigh(self, batches: list[Inputs], rule: Rule) -> None:
        """Rank the tokens of these batches together, as far as the rule's scope goes, and give them `weights`."""
        columns = {name: torch.cat([batch[name] for batch in batches]) for name in (*rule.columns, "chance")}
        together = torch.zeros_like(columns["chance"], dtype=torch.long)
        groups = batches[0]["owner"] if rule.scope == "sequence" else together
        selection = self._select_over_processes(columns, rule, groups)
        parts = torch.split(selection.weights, [len(batch["targets"]) for batch in batches])
        for batch, weights in zip(batches, parts, strict=True):
            batch["weights"] = weights
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
        whole = select(together, rule, groups.new_zeros(sum(sizes)))
        return Selection(torch.split(whole.weights, sizes)[accelerator.process_index], whole.limits)

    def _check(self, losses: Tensor, owner: Tensor, inputs: Inputs, whose: str = "") -> None:
        """UserError naming the row of the first loss that is not finite."""
        if len(bad := (~torch.isfinite(losses)).nonzero()):
            row = int(inputs["index"][owner[bad[0]]])
            advice = "its weights or its precision are broken" if whose else "lower the learning rate"
            data = "store" if self.model.training or whose else "evaluation's store"
            raise UserError(
                f"the {whose}loss of a token in row {row} of the {data} is {float(losses[bad[0]])} at step "
                f"{self.state.global_step + 1}: {advice}, or look at that row"
            )

    def _note(self, inputs: Inputs) -> None:
        """Keep what is logged of a batch."""
        selected, losses = inputs["weights"] != 0, inputs.get("loss")
        if losses is not None:
            self._add("loss/all", losses.sum(), len(losses))
            self._add("loss/unselected", losses[~selected].sum(), len(losses) - int(selected.sum()))
        self._add("selection/share", selected.sum(), len(selected))
        if self.rule.score != UNIFORM:
            self.seen.update(inputs["document"].tolist())
            self.kept.update(inputs["document"][selected].tolist())

    def _add(self, name: str, total: Tensor, count: int) -> None:
        """Add to what is logged as a mean."""
        pair = torch.stack([total.double(), total.new_tensor(count, dtype=torch.float64)])
        self.sums[name] = self.sums.get(name, 0) + pair.to(self.args.device)

    def _keep(self, losses: Tensor, inputs: Inputs) -> None:
        """Keep an evaluation's sums by row: of several processes, some get a row that another one had."""
        rows = len(inputs["index"])
        sums = torch.bincount(inputs["owner"], losses.double(), rows).tolist()
        counts = torch.bincount(inputs["owner"], minlength=rows).tolist()
        self.evaluated |= zip(inputs["index"].tolist(), zip(sums, counts, strict=True), strict=True)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """With the means over all tokens, of all processes, of the training since the last log."""
        if "loss" in logs:
            for name, sums in self.sums.items():
                total, count = self.accelerator.reduce(sums).tolist()
                if count:
                    logs[name] = total / count
            logs |= self._document_shares()
            self.sums, self.seen, self.kept = {}, Counter(), Counter()
        super().log(logs, start_time)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **options: Any) -> Any:
        """transformers' own, with the mean loss over all tokens of the rows, each counted once."""
        self.evaluated = {}
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **options)
        rows = dict(gather_object(list(self.evaluated.items())))
        mean = sum(total for total, _ in rows.values()) / sum(count for _, count in rows.values())
        output.metrics[f"{metric_key_prefix}_loss"] = mean
        return output

    def _document_shares(self) -> dict[str, float]:
        """How the share of selected tokens differs between documents."""
        seen, kept = (sum(gather_object([counts]), Counter[int]()) for counts in (self.seen, self.kept))
        if not seen:
            return {}
        shares = np.array([kept[document] / size for document, size in seen.items()])
        quantiles = {f"selection/documents_p{round(100 * q)}": float(np.quantile(shares, q)) for q in SHARES}
        return {"selection/documents_none": float((shares == 0).mean()), **quantiles}
