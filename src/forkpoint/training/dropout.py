"""Dropout, and what else a model draws in training mode, off for as long as a context lasts.

Many architectures hold a probability as a plain number, in a layer or its configuration.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn.modules.dropout import _DropoutNd
from transformers import PreTrainedModel

from forkpoint.engines.local.probe import distance, probe_logits, tolerance
from forkpoint.types import UserError

WORDS = ("drop", "jitter")  # in names as attention_dropout, resid_pdrop, layerdrop, drop_prob, router_jitter_noise


def draws(model: torch.nn.Module) -> bool:
    """Whether anything of the model's settings makes its training mode random."""
    return any(_probabilities(module) or _probabilities(vars(module).get("config")) for module in model.modules())


@contextmanager
def without_dropout(model: Any) -> Iterator[None]:
    """The model without dropout, in training mode too, and as it was afterwards.

    A configuration that layers read is changed in a copy for them; the model's own is what a checkpoint is saved with.
    """
    saved = model.get_base_model() if hasattr(model, "get_base_model") else model
    with ExitStack() as stack:

        def put(module: Any, name: str, value: Any) -> None:
            stack.callback(setattr, module, name, vars(module)[name])
            setattr(module, name, value)

        for module in model.modules():
            for name in _probabilities(module):
                put(module, name, 0.0)
            config = vars(module).get("config")
            if module is not saved and (names := _probabilities(config)):
                put(module, "config", copy.copy(config))
                vars(module.config).update(dict.fromkeys(names, 0.0))
        yield


def check_without_dropout(model: PreTrainedModel) -> None:
    """UserError where two passes in training mode differ, though dropout is off."""
    was_training = model.training
    with torch.no_grad(), torch.random.fork_rng(), without_dropout(model):
        allowed = tolerance(model.eval())
        try:
            first, second = (probe_logits(model.train(), tuple(range(6))) for _ in range(2))
        finally:
            model.train(was_training)
    if distance(first, second) > allowed:
        raise UserError(
            f"{type(model).__name__} draws random numbers in training that no setting of dropout switches off, "
            "so its log-probabilities cannot be compared with a reference's"
        )


def _probabilities(owner: Any) -> list[str]:
    """Names of the numbers of a module or configuration that say how often it draws."""
    numbers = {} if owner is None else {name: v for name, v in vars(owner).items() if isinstance(v, float) and v}
    dropout = isinstance(owner, _DropoutNd)
    return [name for name in numbers if any(word in name for word in WORDS) or (dropout and name == "p")]
