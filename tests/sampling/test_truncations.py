"""Top-nσ, min-p, p-less and min-k against float64 references and transformers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_reference import awkward_rows, min_k_kept, p_less_threshold, top_n_sigma_threshold

from forkpoint.sampling import LogitsError, min_k, min_p, p_less, policy_logits, top_n_sigma, truncations
from forkpoint.types import Sampling, UserError

RULES = {
    "top_n_sigma": lambda logits: top_n_sigma(logits, 1.0),
    "min_p": lambda logits: min_p(logits, 0.1),
    "p_less": p_less,
    "min_k": lambda logits: min_k(logits, 3.0),
}


def assert_mask_matches(kept: torch.Tensor, logits: torch.Tensor, thresholds: list[float]) -> None:
    """Kept exactly the logits at or over the threshold, but for rounding; kept values unchanged."""
    exact, edge = logits.double().numpy(), np.array(thresholds)[:, None]
    maxima = exact.max(-1, keepdims=True)
    rounding = 4e-7 * (np.abs(maxima) + (maxima - edge))
    mask = np.isfinite(kept.float().numpy())
    assert ((mask == (exact >= edge)) | (np.abs(exact - edge) <= rounding)).all()
    assert mask[np.arange(len(mask)), exact.argmax(-1)].all()
    assert torch.equal(kept[torch.from_numpy(mask)], logits[torch.from_numpy(mask)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("n", [0.3, 1.0, 1.5])
def test_top_n_sigma_matches_float64_on_awkward_rows_and_on_a_real_vocabulary(dtype: torch.dtype, n: float) -> None:
    large = torch.randn(4, 151_936, generator=torch.Generator().manual_seed(1)) * 2.5 + 900
    for logits in (awkward_rows(10_000, 97, seed=int(n * 10), dtype=dtype), large.to(dtype)):
        before = logits.clone()
        kept = top_n_sigma(logits, n)
        assert kept.dtype == dtype
        assert torch.equal(logits, before)
        assert_mask_matches(kept, logits, [top_n_sigma_threshold(row, n) for row in logits.double().numpy()])


@pytest.mark.parametrize("seed", range(3))
def test_p_less_matches_float64(seed: int) -> None:
    logits = awkward_rows(700, 97, seed)
    logits[3::7] = logits[0::7]  # the reference has no soft bans; p-less needs no special case for them
    assert_mask_matches(p_less(logits), logits, [p_less_threshold(row) for row in logits.double().numpy()])


@pytest.mark.parametrize("base", [0.01, 0.1, 0.5, 1.0])
def test_min_p_is_that_of_transformers_and_its_limit_is_top_n_sigma(base: float) -> None:
    logits = torch.randn(500, 300, generator=torch.Generator().manual_seed(2)) * 3
    logits[::3, ::2] = -math.inf
    assert torch.equal(min_p(logits, base), transformers.MinPLogitsWarper(base)(None, logits))
    row = logits[1:2]
    same_base = math.exp(-1.2 * float(row.double().std(unbiased=False)))
    assert torch.equal(top_n_sigma(row, 1.2), min_p(row, same_base))


@pytest.mark.parametrize("tau", [1e-9, 3.0, 40.0])
@pytest.mark.parametrize("vocab", [1, 2, 97, 1500])
def test_min_k_matches_a_full_sort_on_awkward_rows(tau: float, vocab: int) -> None:
    logits = awkward_rows(350, vocab, seed=vocab)
    expected = np.stack([min_k_kept(row, tau) for row in logits.double().numpy()])
    wrong = np.flatnonzero((min_k(logits, tau).isfinite().numpy() != expected).any(-1))
    assert len(wrong) <= 1, wrong


def test_min_k_by_hand() -> None:
    logits = torch.tensor([[1.0, 10.0, 9.5, 2.0, 9.0]])  # drops .5, .5, 7, 1 weigh .5, .25, 2.33, .25
    assert min_k(logits, 3.0).isfinite().tolist() == [[False, True, True, False, True]]
    flat = torch.tensor([[0.0, -0.5, -0.6, -0.7, -0.8, -1.0]])  # the cliff is after the first; range 1
    assert [int(min_k(flat, tau).isfinite().sum()) for tau in (0.5, 3.0)] == [1, 3]
    long = torch.arange(0, -300, -1.0).mul(1e-4)  # the cliff lies beyond the sorted head
    long[200:] -= 50  # w = 50 / 200 there, 1e-4 before
    assert int(min_k(long[None], 1e-9).isfinite().sum()) == 200


def test_off_changes_nothing() -> None:
    logits = torch.tensor([[1.0, 2.0, -5.0]])
    for same in (top_n_sigma(logits, 0.0), top_n_sigma(logits, -1.0), min_p(logits, 0.0), min_k(logits, 0.0)):
        assert torch.equal(same, logits)


@given(seed=st.integers(0, 2**32), temperature=st.floats(0.1, 100), n=st.floats(0.1, 3))
@settings(max_examples=100, deadline=None)
def test_mask_of_the_policy_does_not_depend_on_temperature(seed: int, temperature: float, n: float) -> None:
    logits = awkward_rows(14, 50, seed)
    for rule in ({"top_n_sigma": n}, {"min_k": 3.0}):
        plain = policy_logits(logits, Sampling(**rule)).isfinite()
        assert torch.equal(plain, policy_logits(logits, Sampling(**rule, temperature=temperature)).isfinite())


@given(seed=st.integers(0, 2**32), n=st.floats(0.01, 4), more=st.floats(0, 2))
@settings(max_examples=100, deadline=None)
def test_larger_n_keeps_more_and_kept_sets_are_upper_sets(seed: int, n: float, more: float) -> None:
    logits = awkward_rows(14, 40, seed)
    kept, wider = top_n_sigma(logits, n).isfinite(), top_n_sigma(logits, n + more).isfinite()
    assert bool((wider | ~kept).all())
    least = torch.where(kept, logits, math.inf).amin(-1, keepdim=True)
    assert torch.equal(kept, logits >= least)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_a_row_is_cut_alike_in_any_batch(seed: int) -> None:
    logits = awkward_rows(700, 60, seed)
    for rule in RULES.values():
        together = rule(logits)
        assert torch.equal(together[5:6], rule(logits[5:6]))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(truncations, "BLOCK_LOGITS", 1000)
            assert torch.equal(together, rule(logits))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("value", "words"), [(math.nan, "NaN"), (math.inf, r"\+inf"), (-math.inf, "no finite value")])
def test_hopeless_rows_are_named(rule: str, value: float, words: str) -> None:
    logits = torch.zeros(14_000, 50)  # more than one block
    logits[13_803] = value
    with pytest.raises(LogitsError, match=rf"row 13803 .*{words}") as error:
        RULES[rule](logits)
    assert isinstance(error.value, UserError)
    assert isinstance(error.value, ValueError)


def test_gradients_pass_to_the_kept_logits() -> None:
    logits = torch.tensor([[3.0, 2.9, -4.0, -5.0]], requires_grad=True)
    policy_logits(logits, Sampling(top_n_sigma=1.0, temperature=2.0)).softmax(-1)[0, 0].backward()
    assert (logits.grad != 0).tolist() == [[True, True, False, False]]
