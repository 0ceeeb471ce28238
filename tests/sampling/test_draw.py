"""Keyed uniforms and the tokens they pick."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from forkpoint.sampling import inverse_cdf, key_hash, uniforms

LARGEST = 1 - 2.0**-53
GOLDEN_HASHES = [16563745722614342077, 10217929715475609585]
GOLDEN_UNIFORMS = [[0.8298526477787425, 0.09076755551073001], [0.7737051902958411, 0.30620961228398336]]


def hashes(count: int, seed: int = 0) -> np.ndarray:
    return np.array([key_hash(seed, f"problem-{i}") for i in range(count)], dtype=np.uint64)


def test_golden_values_never_change() -> None:
    """Results on disk depend on these numbers: a change makes every earlier run unrepeatable."""
    assert [key_hash(0, "a"), key_hash(-7, "lab/3#12 é")] == GOLDEN_HASHES
    keys = np.array(GOLDEN_HASHES, dtype=np.uint64)
    assert uniforms(keys, 0).tolist() == GOLDEN_UNIFORMS[0]
    assert uniforms(keys, np.array([1, 1000])).tolist() == GOLDEN_UNIFORMS[1]
    # the first outputs of splitmix64 from seed 1234567, as its authors' C program prints them
    outputs = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    drawn = [float(uniforms(np.array([1234567], dtype=np.uint64), step)[0]) for step in range(3)]
    assert drawn == [(value >> 11) * 2.0**-53 for value in outputs]
    assert len({key_hash(1, "2:x"), key_hash(12, ":x"), key_hash(1, "2x"), key_hash(2, "1:x")}) == 4


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20), st.integers(0, 2**40))
@settings(max_examples=100, deadline=None)
def test_a_row_draws_alike_alone_and_in_a_batch(keys: list[int], step: int) -> None:
    batch = uniforms(np.array(keys, dtype=np.uint64), step)
    alone = [float(uniforms(np.array([key], dtype=np.uint64), np.array([step]))[0]) for key in keys]
    assert batch.tolist() == alone
    assert ((batch >= 0) & (batch < 1)).all()


def test_uniform_over_keys_and_over_steps() -> None:
    over_keys = uniforms(hashes(20_000), 0)
    over_steps = uniforms(np.repeat(hashes(1), 20_000), np.arange(20_000))
    for sample in (over_keys, over_steps):
        assert stats.kstest(sample, "uniform").pvalue > 1e-3
        assert stats.chisquare(np.bincount(np.floor(sample * 256).astype(int), minlength=256)).pvalue > 1e-3


def test_neighbouring_keys_steps_and_seeds_are_independent() -> None:
    table = np.stack([uniforms(hashes(4000), step) for step in range(4)], 1)  # [keys, steps]
    pairs = {
        "steps": (table[:, 0], table[:, 1]),
        "keys": (table[:-1, 0], table[1:, 0]),
        "key and step": (table[:-1, 1], table[1:, 0]),
        "seeds": (table[:, 0], uniforms(hashes(4000, seed=1), 0)),
    }
    for name, (a, b) in pairs.items():
        counts = np.histogram2d(a, b, bins=8, range=[[0, 1], [0, 1]])[0]
        assert stats.chisquare(counts.ravel()).pvalue > 1e-3, name
        assert stats.pearsonr(a, b).pvalue > 1e-3, name


def test_draws_follow_the_distribution() -> None:
    logits = torch.randn(30, generator=torch.Generator().manual_seed(0)) * 2
    logits[[0, 7, 29]] = -math.inf
    drawn = inverse_cdf(logits.expand(50_000, -1), uniforms(hashes(50_000), 3))
    expected = logits.double().softmax(-1).numpy()
    counts, kept = np.bincount(drawn.numpy(), minlength=30), expected > 0
    assert counts[~kept].sum() == 0
    assert stats.chisquare(counts[kept], expected[kept] / expected[kept].sum() * 50_000).pvalue > 1e-3


@given(seed=st.integers(0, 2**32), u=st.one_of(st.sampled_from([0.0, LARGEST, 0.5]), st.floats(0, LARGEST)))
@settings(max_examples=200, deadline=None)
def test_never_a_token_of_probability_zero(seed: int, u: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(9, 70, generator=generator) * 30
    logits[torch.rand(9, 70, generator=generator) < 0.7] = -math.inf
    logits[:, seed % 70] = -3.0
    drawn = inverse_cdf(logits, torch.full((9,), u, dtype=torch.float64))
    assert bool((logits.softmax(-1).gather(-1, drawn[:, None]) > 0).all())


@pytest.mark.parametrize(("u", "token"), [(0.0, 1), (0.25, 3), (0.2499999, 1), (0.75, 4), (LARGEST, 4)])
def test_edges_of_the_cumulative_sum(u: float, token: int) -> None:
    p = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]])
    assert inverse_cdf(p.log(), np.array([u])).tolist() == [token]


def test_the_tail_of_a_large_vocabulary_gets_its_due() -> None:
    """One token of half the mass first: a float32 running sum would round the tiny ones after it away."""
    vocab = 150_000
    logits = torch.full((1, vocab), -math.log(vocab) - 10.0)
    logits[0, 0] = 0.0
    tail = (vocab - 1) * math.exp(-math.log(vocab) - 10.0)
    for share in (0.1, 0.5, 0.9):
        u = (1 + share * tail) / (1 + tail)
        assert int(inverse_cdf(logits, np.array([u]))[0]) == pytest.approx(share * vocab, abs=5)
