"""What a model says of the tokens of a batch of pairs: hidden states where tokens are predicted, log-probabilities.

Shapes: see `batches`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from forkpoint.engines.local.head import Head, head_of, hidden_at, in_eval_mode
from forkpoint.engines.local.logprobs import token_logprobs
from forkpoint.engines.local.probe import distance, is_refusal, tolerance
from forkpoint.pairs.pair import Pair
from forkpoint.training.pair_batches import PairExample, collate

Batch = Mapping[str, Tensor]
TAKE_MASKS = ("eager", "sdpa")


def predicting(model: PreTrainedModel, batch: Batch, call: Callable[..., Any] | None = None) -> Float[Tensor, "n H"]:
    """The hidden states that predict the batch's wanted tokens; `call` as in `hidden_at`."""
    inputs = {}
    if "sees" in batch:
        mask = torch.zeros(batch["sees"].shape, dtype=model.dtype, device=batch["sees"].device)
        mask.masked_fill_(~batch["sees"], torch.finfo(model.dtype).min)
        inputs = {"position_ids": batch["position_ids"], "attention_mask": mask[:, None]}
    return hidden_at(model, batch["input_ids"], batch["rows"], call=call, **inputs)


@torch.no_grad()
def logprobs_of(model: PreTrainedModel, head: Head, batch: Batch) -> Float[Tensor, " n"]:
    """Log-probabilities of the wanted tokens, without gradients."""
    return token_logprobs(predicting(model, batch), head, batch["targets"])


def on_device(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """The batch on the device."""
    return {name: tensor.to(device) for name, tensor in batch.items()}


@torch.no_grad()
def shares_prompts(model: PreTrainedModel, longest: int) -> bool:
    """Whether the model gives the same log-probabilities when both responses of a pair share the prompt's row.

    Tried on made-up pairs. Not so for models that ignore such masks, and not known for layers with a window shorter
    than the `longest` row. Kernels that take no mask but the causal one are not tried: on a GPU they may break it.
    """
    config = model.config.get_text_config(decoder=True)
    if model.config._attn_implementation not in TAKE_MASKS:
        return False
    if (getattr(config, "sliding_window", None) or longest) < longest:
        return False
    pairs = [_made_up((2, 3, 4), (5, 6, 7), (6, 5)), _made_up((4, 2), (3,), (7, 2, 5, 3))]
    examples = [PairExample(pair, i) for i, pair in enumerate(pairs)]
    head = head_of(model)
    try:
        with in_eval_mode(model):
            allowed = tolerance(model)
            shared, separate = (
                logprobs_of(model, head, on_device(collate(examples, way), model.device)) for way in (True, False)
            )
    except Exception as error:
        if not is_refusal(error):
            raise
        return False
    return distance(shared, separate) <= allowed


def _made_up(prompt: Sequence[int], chosen: Sequence[int], rejected: Sequence[int]) -> Pair:
    return Pair("", tuple(prompt), tuple(chosen), tuple(rejected), "", "", "")
