"""Top-nσ, min-p and p-less against float64 references and transformers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_reference import awkward_rows, p_less_threshold, top_n_sigma_threshold

from forkpoint.sampling import LogitsError, gaps, min_p, p_less, policy_logits, top_n_sigma
from forkpoint.types import Sampling, UserError


def assert_mask_matches(kept: torch.Tensor, logits: torch.Tensor, thresholds: list[float]) -> None:
    """Kept exactly the logits at or over the threshold, those within rounding of it aside; kept values
    unchanged."""
    exact = logits.double().numpy()
    edge = np.array(thresholds)[:, None]
    maxima = exact.max(-1, keepdims=True)
    rounding = 4e-7 * (np.abs(maxima) + (maxima - edge))
    got = np.isfinite(kept.float().numpy())
    sure = np.abs(exact - edge) > rounding
    assert ((got == (exact >= edge)) | ~sure).all()
    assert got[np.arange(len(got)), exact.argmax(-1)].all()
    assert torch.equal(kept[torch.from_numpy(got)], logits[torch.from_numpy(got)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("n", [0.3, 1.0, 1.5])
def test_top_n_sigma_matches_float64_on_awkward_rows(dtype: torch.dtype, n: float) -> None:
    logits = awkward_rows(10_000, 97, seed=int(n * 10), dtype=dtype)
    before = logits.clone()
    kept = top_n_sigma(logits, n)
    assert kept.dtype == dtype
    assert torch.equal(logits, before)
    assert_mask_matches(kept, logits, [top_n_sigma_threshold(row, n) for row in logits.double().numpy()])


def test_top_n_sigma_matches_float64_on_a_real_vocabulary() -> None:
    logits = torch.randn(4, 151_936, generator=torch.Generator().manual_seed(1)) * 2.5 + 900
    assert_mask_matches(
        top_n_sigma(logits, 1.0), logits, [top_n_sigma_threshold(r, 1.0) for r in logits.double().numpy()]
    )


@pytest.mark.parametrize("seed", range(3))
def test_p_less_matches_float64(seed: int) -> None:
    logits = awkward_rows(700, 97, seed)
    logits[3::7] = logits[0::7]  # the reference has no soft bans; p-less needs no special case for them
    assert_mask_matches(p_less(logits), logits, [p_less_threshold(row) for row in logits.double().numpy()])


@pytest.mark.parametrize("base", [0.01, 0.1, 0.5, 1.0])
def test_min_p_keeps_what_transformers_keeps(base: float) -> None:
    logits = torch.randn(500, 300, generator=torch.Generator().manual_seed(2)) * 3
    logits[::3, ::2] = -math.inf
    theirs = transformers.MinPLogitsWarper(base)(None, logits)
    assert torch.equal(min_p(logits, base), theirs)


def test_top_n_sigma_is_min_p_with_base_exp_minus_n_sigma() -> None:
    logits = torch.randn(1, 200, generator=torch.Generator().manual_seed(3))
    base = math.exp(-1.2 * float(logits.double().std(unbiased=False)))
    assert torch.equal(top_n_sigma(logits, 1.2), min_p(logits, base))


def test_one_finite_logit_keeps_exactly_that_one() -> None:
    logits = torch.tensor([[-math.inf, 3.0, -math.inf], [-1e9, 3.0, -2e4]])
    kept = top_n_sigma(logits, 1.5)
    assert kept.isfinite().tolist() == [[False, True, False], [False, True, False]]


def test_ties_stand_and_fall_together() -> None:
    logits = torch.tensor([[2.0, 2.0, 2.0, 2.0], [5.0, 5.0, 0.0, 0.0]])
    assert top_n_sigma(logits, 1.0).isfinite().tolist() == [[True] * 4, [True, True, False, False]]
    assert p_less(logits).isfinite().tolist() == [[True] * 4, [True, True, False, False]]


def test_shift_keeps_the_digits() -> None:
    small = torch.randn(1, 1000, generator=torch.Generator().manual_seed(4))
    far = (small * 64).round() / 64  # exact in float32 at an offset of 2^16
    assert torch.equal(top_n_sigma(far + 2.0**16, 1.0).isfinite(), top_n_sigma(far, 1.0).isfinite())


@pytest.mark.parametrize("off", [0.0, -1.0])
def test_off_changes_nothing(off: float) -> None:
    logits = torch.tensor([[1.0, 2.0, -5.0]])
    assert torch.equal(top_n_sigma(logits, off), logits)


@given(seed=st.integers(0, 2**32), temperature=st.floats(0.1, 100), n=st.floats(0.1, 3))
@settings(max_examples=150, deadline=None)
def test_mask_of_the_policy_does_not_depend_on_temperature(seed: int, temperature: float, n: float) -> None:
    logits = awkward_rows(14, 50, seed)
    plain = policy_logits(logits, Sampling(top_n_sigma=n)).isfinite()
    hot = policy_logits(logits, Sampling(top_n_sigma=n, temperature=temperature)).isfinite()
    assert torch.equal(plain, hot)


@pytest.mark.parametrize("temperature", [0.1, 0.7, 3.0, 100.0])
def test_mask_after_a_temperature_differs_by_rounding_at_most(temperature: float) -> None:
    logits = torch.randn(64, 5000, generator=torch.Generator().manual_seed(5)) * 2
    before, after = top_n_sigma(logits, 1.0).isfinite(), top_n_sigma(logits / temperature, 1.0).isfinite()
    assert int((before != after).sum()) <= 2


@given(seed=st.integers(0, 2**32), n=st.floats(0.01, 4), more=st.floats(0, 2))
@settings(max_examples=100, deadline=None)
def test_larger_n_keeps_more_and_kept_sets_are_upper_sets(seed: int, n: float, more: float) -> None:
    logits = awkward_rows(14, 40, seed)
    kept, wider = top_n_sigma(logits, n).isfinite(), top_n_sigma(logits, n + more).isfinite()
    assert bool((wider | ~kept).all())
    least = torch.where(kept, logits, math.inf).amin(-1, keepdim=True)
    assert torch.equal(kept, logits >= least)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_a_row_is_cut_alike_in_any_batch(seed: int) -> None:
    logits = awkward_rows(700, 60, seed)
    for rule in (lambda x: top_n_sigma(x, 1.0), p_less, lambda x: min_p(x, 0.1)):
        together = rule(logits)
        assert torch.equal(together[5:6], rule(logits[5:6]))
        assert torch.equal(together[-1:], rule(logits[-1:]))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gaps, "_CPU_BLOCK_ELEMENTS", 1000)
            assert torch.equal(together, rule(logits))


@pytest.mark.parametrize("rule", [lambda x: top_n_sigma(x, 1.0), p_less, lambda x: min_p(x, 0.1)])
@pytest.mark.parametrize(("value", "what"), [(math.nan, "NaN"), (math.inf, r"\+inf"), (None, "no finite value")])
def test_hopeless_rows_are_named(rule, value, what) -> None:
    logits = torch.zeros(14_000, 50)  # more than one block
    if value is None:
        logits[13_803] = -math.inf
    else:
        logits[13_803, 7] = value
    with pytest.raises(LogitsError, match=rf"row 13803 .*{what}") as caught:
        rule(logits)
    assert isinstance(caught.value, UserError)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


def test_gradients_pass_to_the_kept_logits() -> None:
    logits = torch.tensor([[3.0, 2.9, -4.0, -5.0]], requires_grad=True)
    policy_logits(logits, Sampling(top_n_sigma=1.0, temperature=2.0)).softmax(-1)[0, 0].backward()
    assert logits.grad is not None
    assert (logits.grad != 0).tolist() == [[True, True, False, False]]
