"""Min-k against a full sort."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_reference import awkward_rows, min_k_kept

from forkpoint.sampling import LogitsError, min_k, policy_logits
from forkpoint.types import Sampling


@pytest.mark.parametrize("tau", [1e-9, 3.0, 40.0])
@pytest.mark.parametrize("vocab", [1, 2, 97, 1500])
def test_matches_a_full_sort_on_awkward_rows(tau: float, vocab: int) -> None:
    logits = awkward_rows(350, vocab, seed=vocab)
    before = logits.clone()
    kept = min_k(logits, tau).isfinite().numpy()
    assert torch.equal(logits, before)
    expected = np.stack([min_k_kept(row, tau) for row in logits.double().numpy()])
    wrong = np.flatnonzero((kept != expected).any(-1))
    assert len(wrong) <= 1, wrong


def test_a_cliff_beyond_the_sorted_head_is_found() -> None:
    logits = torch.arange(0, -300, -1.0).mul(1e-4)
    logits[200:] -= 50  # w = 50 / 200 there, 1e-4 before
    assert int(min_k(logits[None], 1e-9).isfinite().sum()) == 200


def test_worked_example() -> None:
    logits = torch.tensor([[1.0, 10.0, 9.5, 2.0, 9.0]])  # drops .5, .5, 7, 1 weigh .5, .25, 2.33, .25
    assert min_k(logits, 3.0).isfinite().tolist() == [[False, True, True, False, True]]


def test_flat_rows_fall_back_to_tau_over_range() -> None:
    logits = torch.tensor([[0.0, -0.5, -0.6, -0.7, -0.8, -1.0]])  # the cliff is after the first; range 1
    assert int(min_k(logits, 0.5).isfinite().sum()) == 1
    assert int(min_k(logits, 3.0).isfinite().sum()) == 3


@given(seed=st.integers(0, 2**32), temperature=st.floats(0.1, 100))
@settings(max_examples=50, deadline=None)
def test_mask_of_the_policy_does_not_depend_on_temperature(seed: int, temperature: float) -> None:
    logits = awkward_rows(14, 50, seed)
    plain = policy_logits(logits, Sampling(min_k=3.0)).isfinite()
    assert torch.equal(plain, policy_logits(logits, Sampling(min_k=3.0, temperature=temperature)).isfinite())


def test_off_and_hopeless_rows() -> None:
    logits = torch.randn(3, 9)
    assert torch.equal(min_k(logits, 0.0), logits)
    logits[2, 1] = math.nan
    with pytest.raises(LogitsError, match=r"row 2 .*NaN"):
        min_k(logits, 3.0)
