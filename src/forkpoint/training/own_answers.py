"""What a round of tuning is tuned on: the model's own right responses, each once, without what is likely already."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float

from forkpoint.training.store_batches import IGNORED
from forkpoint.trajectories.rows import Row
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


def unlikely_tokens(logprobs: Float[np.ndarray, " T"], max_token_probability: float) -> Bool[np.ndarray, " T"]:
    """Which tokens have a probability of at most `max_token_probability`."""
    kept: np.ndarray = logprobs <= math.log(max_token_probability)
    return kept


def choose(samples: Sequence[Row], rule: LikelihoodFilter) -> tuple[list[dict[str, list[int]]], dict[str, Any]]:
    """The rows of token ids and labels to tune on, and an account of the samples; each sample gets its `status`.

    A status is `wrong`, `duplicate` (of an earlier right response to the same problem), `filtered` (too likely; with
    the filter `token`, in every token), or `trained`. In the account, `tokens` are those of trained responses, of which
    `masked_tokens` have no loss; `mean_logprob` is the mean over the right responses, each once, of their means a
    token, and `bound` the highest that the filter `example` kept.
    """
    right: dict[tuple[str, tuple[int, ...]], Row] = {}
    for row in samples:
        first = right.setdefault((row["problem_id"], tuple(row["token_ids"])), row) if row["correct"] else None
        row["status"] = "wrong" if first is None else "trained" if first is row else "duplicate"
    means = np.array([row["mean_logprob"] for row in right.values()])
    bound = likelihood_bound(means, rule.keep_quantile) if rule.kind == "example" and right else None
    examples, trained, masked = [], [], 0
    for row in right.values():
        prompt, ids = row["prompt_ids"], row["token_ids"]
        kept = np.full(len(ids), bound is None or row["mean_logprob"] <= bound)
        if rule.kind == "token":
            kept = unlikely_tokens(np.array(row["logprobs"]), rule.max_token_probability)
        if not kept.any():
            row["status"] = "filtered"
            continue
        labels = [*[IGNORED] * len(prompt), *np.where(kept, ids, IGNORED).tolist()]
        examples.append({"input_ids": [*prompt, *ids], "labels": labels})
        trained.append(row)
        masked += int((~kept).sum())
    statuses = Counter(row["status"] for row in samples)
    return examples, {
        "samples": len(samples),
        **{name: statuses[name] for name in ("wrong", "duplicate", "filtered")},
        "cut_off": sum(row["finish_reason"] == "length" for row in samples),
        "trained": len(trained),
        "trained_problems": len({row["problem_id"] for row in trained}),
        "tokens": sum(len(row["token_ids"]) for row in trained),
        "masked_tokens": masked,
        "mean_logprob": round(float(means.mean()), 6) if right else None,
        "bound": bound,
    }


def why_nothing(account: dict[str, Any], rule: LikelihoodFilter) -> str:
    """What an account without trained responses says, as a sentence."""
    if account["wrong"] == account["samples"]:
        return f"none of its {account['samples']:,} samples is correct"
    return (
        f"in all its {account['filtered']:,} right responses every token has a probability above "
        f"{rule.max_token_probability}, so that the filter leaves nothing"
    )
