"""Scores from the likeliest tokens alone, against those from whole distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forkpoint.engines import Engine
from forkpoint.engines.remote.named_rows import Named, check_nameable, filled, scored_rows
from forkpoint.types import Sampling, Scored, UserError

V = 40
TOKENS = (3, 8, 1, 30, 30, 2)


def distributions(seed: int, spread: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(torch.randn((len(TOKENS), V), generator=generator) * spread, -1)


def likeliest(logprobs: torch.Tensor, targets: list[int], k: int) -> list[Named]:
    top = logprobs.topk(k)
    return [
        Named(ids.tolist(), its.tolist(), target, float(row[target]))
        for ids, its, row, target in zip(top.indices, top.values, logprobs, targets, strict=True)
    ]


def scored(k: int, top: int, sampling: Sampling | None, seed: int = 0, spread: float = 3.0) -> Scored:
    rows = likeliest(distributions(seed, spread), [*TOKENS[1:], 0], k)
    return scored_rows(TOKENS, 1, rows, V, top, sampling)


def columns(scores: Scored) -> dict[str, np.ndarray]:
    names = ("logprobs", "entropy", "gaps", "policy", "top_ids", "top_logprobs", "top_policy")
    return {name: getattr(scores, name) for name in names}


def test_all_tokens_named_is_exact() -> None:
    sampling = Sampling(temperature=1.7, top_n_sigma=1.0)
    mine = scored(V, 5, sampling)
    raw = distributions(0)
    assert mine.top_ids.shape == (len(TOKENS) + 1, 5)
    assert (mine.top_ids[0] == -1).all()
    assert np.isnan(mine.logprobs[[0, -1]]).all()
    np.testing.assert_allclose(mine.logprobs[1:-1], [raw[i, t] for i, t in enumerate(TOKENS[1:])], atol=1e-6)
    np.testing.assert_allclose(mine.entropy[1:], -(raw.exp() * raw).sum(-1), atol=1e-5)
    from forkpoint.sampling.processors import policy_logits

    policy = torch.softmax(policy_logits(raw, sampling), -1)
    np.testing.assert_allclose(mine.top_policy[1:], policy.gather(-1, torch.tensor(mine.top_ids[1:])), atol=1e-6)


@pytest.mark.parametrize("sampling", [
    None, Sampling(), Sampling(top_k=4), Sampling(temperature=0.6, top_k=8), Sampling(temperature=2.0, top_k=8),
    Sampling(temperature=0.0), Sampling(top_p=0.5), Sampling(min_p=0.3), Sampling(temperature=3.0, min_p=0.5),
])  # fmt: skip
def test_what_the_named_tokens_decide_is_exact(sampling: Sampling | None) -> None:
    whole, few = columns(scored(V, 8, sampling)), columns(scored(12, 8, sampling))
    for name in set(whole) - {"entropy"}:
        np.testing.assert_allclose(few[name], whole[name], atol=1e-5, err_msg=name)
    assert (few["entropy"][1:] >= whole["entropy"][1:] - 1e-5).all()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(2, V - 1), st.floats(0.2, 4.0), st.floats(0.3, 4.0),
)  # fmt: skip
def test_the_policy_of_unnamed_tokens_is_never_less_than_the_truth(
    seed: int, k: int, temperature: float, spread: float
) -> None:
    sampling = Sampling(temperature=temperature)
    few, whole = scored(k, k, sampling, seed, spread), scored(V, V, sampling, seed, spread)
    for row in range(1, len(TOKENS) + 1):
        own = TOKENS[row] if row < len(TOKENS) else 0
        named = {own, *few.top_ids[row].tolist()}
        unnamed = 1 - sum(p for t, p in zip(whole.top_ids[row], whole.top_policy[row], strict=True) if t in named)
        rest = 1 - sum(
            math.exp(p) for t, p in zip(whole.top_ids[row], whole.top_logprobs[row], strict=True) if t in named
        )
        if rest < 1e-3:  # next to the rounding of float32 log-probabilities, which a high temperature enlarges
            continue
        inside = [p for t, p in zip(few.top_ids[row], few.top_policy[row], strict=True) if t != own]
        mine = 1 - sum(inside) - (few.policy[row] if row < len(TOKENS) else few_policy(few, row, own))
        assert mine >= unnamed * 0.998 - 1e-4


def few_policy(few: Scored, row: int, token: int) -> float:
    """The policy's probability of a token of the row after the last, where no own token is scored; 0 if not on top."""
    at = np.flatnonzero(few.top_ids[row] == token)
    return float(few.top_policy[row, at[0]]) if len(at) else 0.0


def test_unnamed_tokens_never_come_before_named_ones() -> None:
    for dense in (True, False):
        row = likeliest(distributions(1, 0.01), [0] * len(TOKENS), 5)[0]  # nearly uniform
        full = filled(row, V, dense=dense)
        others = np.delete(full.numpy(), [*row.ids, row.own])
        assert others.max() < full[list(row.ids)].min()
        assert math.isclose(float(full.exp().sum()), 1.0, abs_tol=1e-4)


def test_what_needs_all_tokens_is_refused() -> None:
    for name, value in (("top_n_sigma", 1.0), ("min_k", 3.0), ("p_less", True), ("typical_p", 0.9), ("top_h", 0.4)):
        sampling = Sampling(**{name: value})
        check_nameable(sampling, 40, 40, "it")
        with pytest.raises(UserError, match=f"{name} depend on all 40 tokens, of which it names at most 20"):
            check_nameable(sampling, 20, 40, "it")
    check_nameable(Sampling(temperature=0.3, top_k=4, top_p=0.9, min_p=0.1, seed=3, stop=("a",)), 20, 40, "it")


def test_the_lab_from_its_named_tokens(lab: Engine) -> None:
    sequence = tuple(range(5, 25))
    sampling = Sampling(temperature=1.4)
    (whole,) = lab.score([sequence], top=lab.vocab_size, sampling=sampling)
    rows = [Named(whole.top_ids[i].tolist(), whole.top_logprobs[i].tolist(), own, float(whole.logprobs[i]))
            for i, own in enumerate(sequence) if i]  # fmt: skip
    ids, logprobs = whole.top_ids[20].tolist(), whole.top_logprobs[20].tolist()
    rows.append(Named(ids, logprobs, ids[0], logprobs[0]))
    mine = scored_rows(sequence, 1, rows, lab.vocab_size, 3, sampling)
    np.testing.assert_allclose(mine.policy, whole.policy, atol=1e-5)
    np.testing.assert_allclose(mine.logprobs, whole.logprobs, atol=1e-5)
