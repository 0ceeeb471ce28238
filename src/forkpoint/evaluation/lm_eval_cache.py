"""Whose answers a cache of lm-eval holds (--use_cache): one model's, by one strategy, with one set of settings."""

from __future__ import annotations

import hashlib
from typing import Any

from forkpoint.decoding.strategies import Strategy
from forkpoint.engines import Engine
from forkpoint.evaluation.lm_eval_kwargs import DRAWS
from forkpoint.files import to_json
from forkpoint.types import UserError


def claim_cache(answers: Any, strategy: Strategy, identity: dict[str, Any]) -> None:
    """Make lm-eval's cache of answers, a dictionary on disk, that of this model, strategy and settings alone.

    Its keys are of requests alone, so that another strategy would be given this one's answers. An entry of our own
    marks whose they are. Raises UserError for a cache with answers of anything else, and for a strategy that draws at
    a temperature of its own: repeated requests would all be given the same draw.
    """
    if strategy.name in DRAWS and "temperature" in strategy.fixed and strategy.sampling.temperature > 0:
        raise UserError(f"lm-eval's cache gives repeated requests the same answer, but {strategy.spec} draws; "
                        "run it without --use_cache")  # fmt: skip
    mark = f"forkpoint {hashlib.blake2b(to_json(identity).encode(), digest_size=16).hexdigest()}"
    if mark in answers:
        return
    if len(answers):
        raise UserError(f"the cache {answers.filename} holds answers of another model, strategy or setting than "
                        f"{identity['model']} with {strategy.spec}; give each its own --use_cache")  # fmt: skip
    answers[mark] = True
    answers.commit()


def weights_of(engine: Engine) -> str | None:
    """A hash of the weights, where the model is in this process."""
    from transformers import PreTrainedModel

    from forkpoint.engines.identity import weights_digest

    model = getattr(engine, "model", None)
    return weights_digest(model) if isinstance(model, PreTrainedModel) else None
