"""What a round of tuning is tuned on: the model's own right responses, each once, without what is likely already.

Works on the rows of samples; knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from forkpoint.training.likelihood_filter import LikelihoodFilter, likelihood_bound, unlikely_tokens
from forkpoint.training.sft import IGNORED, response_rows
from forkpoint.trajectories.rows import Row


def choose(samples: Sequence[Row], rule: LikelihoodFilter) -> tuple[list[dict[str, list[int]]], dict[str, Any]]:
    """The rows of token ids and labels to tune on, and an account of the samples; each sample gets its `status`.

    A status is `wrong`, `duplicate` (of an earlier right response to the same problem), `filtered` (too likely; with
    the filter `token`, in every token), or `trained`. In the account, `tokens` are those of trained responses, of which
    `masked_tokens` have no loss; `mean_logprob` is the mean over the right responses, each once, of their means a
    token, and `bound` the highest that the filter `example` kept.
    """
    right = _each_once(samples)
    means = np.array([row["mean_logprob"] for row in right])
    bound = likelihood_bound(means, rule.keep_quantile) if rule.kind == "example" and right else None
    examples = []
    masked = 0
    for row in right:
        kept = np.full(len(row["token_ids"]), bound is None or row["mean_logprob"] <= bound)
        if rule.kind == "token":
            kept = unlikely_tokens(np.array(row["logprobs"]), rule.max_token_probability)
        if not kept.any():
            row["status"] = "filtered"
            continue
        (example,) = response_rows([(row["prompt_ids"], row["token_ids"])])
        start = len(row["prompt_ids"])
        example["labels"][start:] = [
            label if keep else IGNORED for label, keep in zip(row["token_ids"], kept, strict=True)
        ]
        examples.append(example)
        masked += int((~kept).sum())
    account = _account(samples) | {
        "masked_tokens": masked,
        "mean_logprob": round(float(means.mean()), 6) if right else None,
        "bound": bound,
    }
    return examples, account


def why_nothing(account: dict[str, Any], rule: LikelihoodFilter) -> str:
    """What an account without trained responses says, as a sentence."""
    if account["wrong"] == account["samples"]:
        return f"none of its {account['samples']:,} samples is correct"
    return (
        f"in all its {account['filtered']:,} right responses every token has a probability above "
        f"{rule.max_token_probability}, so that the filter leaves nothing"
    )


def _each_once(samples: Sequence[Row]) -> list[Row]:
    """The right responses, of equal ones to a problem the first; gives every sample a status, not yet filtered."""
    right: dict[tuple[str, tuple[int, ...]], Row] = {}
    for row in samples:
        key = row["problem_id"], tuple(row["token_ids"])
        row["status"] = "wrong" if not row["correct"] else "duplicate" if key in right else "trained"
        if row["status"] == "trained":
            right[key] = row
    return list(right.values())


def _account(samples: Sequence[Row]) -> dict[str, Any]:
    trained = [row for row in samples if row["status"] == "trained"]
    return {
        "samples": len(samples),
        **{name: sum(row["status"] == name for row in samples) for name in ("wrong", "duplicate", "filtered")},
        "cut_off": sum(row["finish_reason"] == "length" for row in samples),
        "trained": len(trained),
        "trained_problems": len({row["problem_id"] for row in trained}),
        "tokens": sum(len(row["token_ids"]) for row in trained),
    }
