"""The likelihood filter: its quantile, its tokens, and what is chosen of a round's samples."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from forkpoint.training.own_answers import LikelihoodFilter, choose, likelihood_bound, unlikely_tokens

logprobs = st.floats(-30, 0)
shares = st.floats(0.001, 1)


@given(st.lists(logprobs, min_size=1, max_size=40), shares)
def test_the_bound_is_the_least_mean_that_keeps_the_share(means, share):
    bound = likelihood_bound(np.array(means), share)
    enough = [m for m in means if sum(other <= m for other in means) >= share * len(means) - 1e-9]
    assert bound == min(enough)


@given(st.lists(logprobs, min_size=1), shares)
def test_tokens_above_the_probability_are_left_out(values, most):
    kept = unlikely_tokens(np.array(values), most)
    for value, keep in zip(values, kept, strict=True):
        assert keep == (math.exp(value) <= most) or math.isclose(math.exp(value), most, rel_tol=1e-12)
    assert unlikely_tokens(np.array(values), 1.0).all()


@st.composite
def rounds_of_samples(draw) -> list[dict[str, Any]]:
    """Few token sequences, so that many are equal; equal ones have equal verdicts."""
    rows = []
    for _ in range(draw(st.integers(1, 25))):
        problem, ids = draw(st.sampled_from("ab")), draw(st.lists(st.integers(5, 6), min_size=1, max_size=3))
        own = [draw(logprobs) for _ in ids]
        rows.append({
            "problem_id": problem, "prompt_ids": [1, 2], "token_ids": ids, "correct": sum(ids) % 2 == 0,
            "logprobs": own, "mean_logprob": float(np.mean(own)),
            "finish_reason": draw(st.sampled_from(["stop", "length"])),
        })  # fmt: skip
    return rows


@given(rounds_of_samples(), st.sampled_from(["none", "example", "token"]), shares)
def test_what_is_chosen_is_what_a_plain_reading_chooses(samples, kind, share):
    examples, account = choose(samples, LikelihoodFilter(kind, share, share))
    right, seen = [], set()
    for row in samples:
        name = row["problem_id"], tuple(row["token_ids"])
        if not row["correct"]:
            assert row["status"] == "wrong"
        elif name in seen:
            assert row["status"] == "duplicate"
        else:
            seen.add(name)
            right.append(row)
    wanted = []
    for row in right:
        mask = [True] * len(row["token_ids"])
        if kind == "example":
            likelier = sum(other["mean_logprob"] < row["mean_logprob"] for other in right)
            mask = [likelier < share * len(right) - 1e-9] * len(mask)
        elif kind == "token":
            mask = [x <= math.log(share) for x in row["logprobs"]]
        assert row["status"] == ("trained" if any(mask) else "filtered")
        if any(mask):
            labels = [token if keep else -100 for token, keep in zip(row["token_ids"], mask, strict=True)]
            wanted.append({"input_ids": [1, 2, *row["token_ids"]], "labels": [-100, -100, *labels]})
    assert examples == wanted
    assert account["cut_off"] == sum(row["finish_reason"] == "length" for row in samples)
    statuses = [row["status"] for row in samples]
    for name in ("wrong", "duplicate", "filtered", "trained"):
        assert account[name] == statuses.count(name)
    assert account["samples"] == len(samples)
    means = np.array([row["mean_logprob"] for row in right])
    assert account["bound"] == (likelihood_bound(means, share) if right and kind == "example" else None)
    with_loss = sum(label != -100 for example in wanted for label in example["labels"])
    assert account["tokens"] - account["masked_tokens"] == with_loss
    assert account["trained_problems"] == len({r["problem_id"] for r in samples if r["status"] == "trained"})
