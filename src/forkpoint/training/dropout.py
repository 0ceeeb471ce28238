"""Dropout, and what else a model draws in training mode, off for as long as a context lasts.

Many architectures hold a probability as a plain number, in a layer or its configuration, and call the function with it;
`torch.nn.Dropout` alone is not all there is.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
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
    before: list[tuple[Any, str, Any]] = []
    quiet: dict[int, Any] = {}  # by the configuration's identity: a copy without dropout

    def put(owner: Any, name: str, value: Any) -> None:
        before.append((owner, name, vars(owner)[name]))
        setattr(owner, name, value)

    try:
        for module in model.modules():
            for name in _probabilities(module):
                put(module, name, 0.0)
            config = vars(module).get("config")
            if module is not saved and (names := _probabilities(config)):
                if id(config) not in quiet:
                    quiet[id(config)] = copy.copy(config)
                    for name in names:
                        setattr(quiet[id(config)], name, 0.0)
                put(module, "config", quiet[id(config)])
        yield
    finally:
        for owner, name, value in reversed(before):
            setattr(owner, name, value)


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
    names = [] if owner is None else [n for n, v in vars(owner).items() if isinstance(v, float) and v and _is_one(n)]
    return [*names, "p"] if isinstance(owner, _DropoutNd) and owner.p else names


def _is_one(name: str) -> bool:
    return any(word in name for word in WORDS)
