"""Which of a model's own right responses are worth tuning on: those that it does not find likely already.

Pure arithmetic on log-probabilities, natural, of the model's own distribution; knows nothing of models or files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float

from forkpoint.types import UserError

FilterKind = Literal["none", "example", "token"]


@dataclass(frozen=True, slots=True)
class LikelihoodFilter:
    """What is left out: nothing, whole responses, or the loss on single tokens.

    `example` keeps the `keep_quantile` of the responses with the lowest mean log-probability. `token` leaves out every
    token with a probability above `max_token_probability`. A quantile of the tokens would say little: most have a
    probability of nearly 1, so that it cuts among equals.
    """

    kind: FilterKind = "none"
    keep_quantile: float = 0.5
    max_token_probability: float = 0.9


def check_filter(rule: LikelihoodFilter) -> None:
    """Raise UserError, naming the setting, for a value out of range or NaN."""
    if rule.kind not in get_args(FilterKind):
        raise UserError(f"filter must be one of {', '.join(get_args(FilterKind))}, but is {rule.kind!r}")
    for name in ("keep_quantile", "max_token_probability"):
        if not 0 < (value := getattr(rule, name)) <= 1:
            raise UserError(f"{name} must be above 0 and at most 1, but is {value}")


def likelihood_bound(means: Float[np.ndarray, " responses"], keep_quantile: float) -> float:
    """The highest mean log-probability that a response may have to be kept.

    It is the quantile that is itself one of the means: the smallest one that at least a share of `keep_quantile` of
    them does not exceed. So one response at least is kept, and equal means are kept or dropped together.
    """
    return float(np.quantile(means, keep_quantile, method="inverted_cdf"))


def unlikely_tokens(
    logprobs: Float[np.ndarray, " tokens"], max_token_probability: float
) -> Bool[np.ndarray, " tokens"]:
    """Which tokens have a probability of at most `max_token_probability`."""
    kept: np.ndarray = logprobs <= math.log(max_token_probability)
    return kept
