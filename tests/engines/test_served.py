"""Scores from the likeliest tokens alone, against those from whole distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from engine_contract import columns_of
from hypothesis import given, settings
from hypothesis import strategies as st

from forkpoint.engines.remote.served import Named, check_nameable, check_served, filled, scored_rows
from forkpoint.sampling import policy_logits
from forkpoint.types import Sampling, Scored, UserError

V = 40
TOKENS = (3, 8, 1, 30, 30, 2)


def distributions(seed: int, spread: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(torch.randn((len(TOKENS), V), generator=generator) * spread, -1)


def likeliest(logprobs: torch.Tensor, targets: list[int], k: int) -> list[Named]:
    top = logprobs.topk(k)
    return [
        Named(ids.tolist(), values.tolist(), target, float(row[target]))
        for ids, values, row, target in zip(top.indices, top.values, logprobs, targets, strict=True)
    ]


def scored(k: int, top: int, sampling: Sampling | None, seed: int = 0, spread: float = 3.0) -> Scored:
    rows = likeliest(distributions(seed, spread), [*TOKENS[1:], 0], k)
    return scored_rows(TOKENS, 1, rows, V, top, sampling)


def test_all_tokens_named_is_exact() -> None:
    sampling = Sampling(temperature=1.7, top_n_sigma=1.0)
    ours, raw = scored(V, 5, sampling), distributions(0)
    assert ours.top_ids.shape == (len(TOKENS) + 1, 5)
    assert (ours.top_ids[0] == -1).all()
    assert np.isnan(ours.logprobs[[0, -1]]).all()
    np.testing.assert_allclose(ours.logprobs[1:-1], [raw[i, t] for i, t in enumerate(TOKENS[1:])], atol=1e-6)
    np.testing.assert_allclose(ours.entropy[1:], -(raw.exp() * raw).sum(-1), atol=1e-5)
    policy = torch.softmax(policy_logits(raw, sampling), -1)
    np.testing.assert_allclose(ours.top_policy[1:], policy.gather(-1, torch.tensor(ours.top_ids[1:])), atol=1e-6)


@pytest.mark.parametrize("sampling", [
    None, Sampling(), Sampling(top_k=4), Sampling(temperature=0.6, top_k=8), Sampling(temperature=2.0, top_k=8),
    Sampling(temperature=0.0), Sampling(top_p=0.5), Sampling(min_p=0.3), Sampling(temperature=3.0, min_p=0.5),
])  # fmt: skip
def test_what_the_named_tokens_decide_is_exact(sampling: Sampling | None) -> None:
    whole, few = scored(V, 8, sampling), scored(12, 8, sampling)
    np.testing.assert_array_equal(few.top_ids, whole.top_ids)
    for name, column in columns_of(few).items():
        if name != "entropy":
            np.testing.assert_allclose(column, getattr(whole, name), atol=1e-5, err_msg=name)
    assert (few.entropy[1:] >= whole.entropy[1:] - 1e-5).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, V - 1), st.floats(0.2, 4.0), st.floats(0.3, 4.0))
def test_the_policy_of_unnamed_tokens_is_never_less_than_the_truth(
    seed: int, k: int, temperature: float, spread: float
) -> None:
    sampling = Sampling(temperature=temperature)
    few, whole = scored(k, k, sampling, seed, spread), scored(V, V, sampling, seed, spread)
    for row in range(1, len(TOKENS)):
        named = {TOKENS[row], *few.top_ids[row].tolist()}
        outside = ~np.isin(whole.top_ids[row], list(named))
        if np.exp(whole.top_logprobs[row])[outside].sum() < 1e-3:
            continue  # next to the rounding of float32 log-probabilities, which a high temperature enlarges
        ours = 1 - few.policy[row] - few.top_policy[row][few.top_ids[row] != TOKENS[row]].sum()
        assert ours >= whole.top_policy[row][outside].sum() * 0.998 - 1e-4


@pytest.mark.parametrize("dense", [True, False])
def test_unnamed_tokens_never_come_before_named_ones(dense: bool) -> None:
    row = likeliest(distributions(1, 0.01), [0] * len(TOKENS), 5)[0]  # nearly uniform
    full = filled(row, V, dense=dense)
    unnamed = np.delete(full.numpy(), [*row.ids, row.own])
    assert unnamed.max() < full[list(row.ids)].min()
    assert math.isclose(float(full.exp().sum()), 1.0, abs_tol=1e-4)


def test_what_needs_all_tokens_is_refused() -> None:
    for name, value in (("top_n_sigma", 1.0), ("min_k", 3.0), ("p_less", True), ("typical_p", 0.9), ("top_h", 0.4)):
        sampling = Sampling(**{name: value})
        check_nameable(sampling, 40, 40, "it")
        with pytest.raises(UserError, match=f"{name} depend on all 40 tokens, of which it names at most 20"):
            check_nameable(sampling, 20, 40, "it")
    check_nameable(Sampling(temperature=0.3, top_k=4, top_p=0.9, min_p=0.1, seed=3, stop=("a",)), 20, 40, "it")


@pytest.mark.parametrize(("sampling", "words"), [
    (Sampling(min_k=3.0), "min_k is not sampled by this engine"),
    (Sampling(typical_p=0.9), "typical_p is not sampled"),
    (Sampling(temperature=2.5), "from 0.01 to 2.0 on vLLM, but is 2.5"),
    (Sampling(temperature=0.005), "but is 0.005"),
    (Sampling(min_p=0.1, top_p=0.9), "min_p and top_p do not go together"),
    (Sampling(min_p=0.1, top_n_sigma=1.0), "min_p and top_n_sigma do not go together"),
])  # fmt: skip
def test_policies_that_vllm_samples_otherwise_are_refused(sampling: Sampling, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_served(sampling)
