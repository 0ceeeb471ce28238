"""Statistics of logits and kept-set sizes: against numpy, torch, transformers' own warpers, and naive definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_reference import awkward_rows, live, min_k_kept, p_less_threshold, softmax, top_n_sigma_threshold

from forkpoint.engines.local.scoring import logits_at
from forkpoint.sampling.analysis import (
    TRUNCATIONS,
    histogram,
    kept,
    kept_sizes,
    most_probable,
    parse_sampler,
    parse_temperatures,
    row_statistics,
)
from forkpoint.sampling.gaps import LogitsError
from forkpoint.types import Sampling, UserError

TEMPERATURES = (0.5, 1.0, 1.5, 2.0, 3.0)
WARPERS = {
    "top_k=5": transformers.TopKLogitsWarper(5),
    "top_p=0.9": transformers.TopPLogitsWarper(0.9),
    "min_p=0.1": transformers.MinPLogitsWarper(0.1),
    "typical_p=0.8": transformers.TypicalLogitsWarper(0.8),
    "epsilon_cutoff=0.01": transformers.EpsilonLogitsWarper(0.01),
    "eta_cutoff=0.01": transformers.EtaLogitsWarper(0.01),
    "top_h=0.4": transformers.TopHLogitsWarper(0.4),
}
NAIVE = {  # of a row and a temperature, in float64
    "top_n_sigma=1": lambda row, t: live(row) & (row / t >= top_n_sigma_threshold(row / t, 1.0)),
    "min_p=0.1": lambda row, t: softmax(row / t) >= 0.1 * softmax(row / t).max(),
    "min_p_first=0.1": lambda row, t: softmax(row) >= 0.1 * softmax(row).max(),
    "p_less=true": lambda row, t: row / t >= p_less_threshold(row / t),
    "min_k=3": lambda row, t: min_k_kept(row, 3.0),
}


def random_rows(seed: int = 0, rows: int = 40, vocab: int = 500) -> torch.Tensor:
    """Distinct finite float32 logits of several widths: no edge of a kept set is a matter of rounding."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(0, 1, (rows, vocab)) * rng.uniform(0.3, 8, (rows, 1))).float()


@pytest.fixture(scope="module")
def lab_rows(lab) -> torch.Tensor:
    """The embedded model's logits at every token of a text."""
    ids = lab.tokenizer("Q: Ada has 5 pens. Ada buys 3 more. How many pens does Ada have now?\nA:", return_tensors="pt")
    ids = ids["input_ids"]
    with torch.inference_mode():
        return logits_at(lab.model, ids, torch.arange(ids.shape[1])).float().clone()


@pytest.mark.parametrize("shift", [0.0, 3000.0])
def test_statistics_are_torchs(shift):
    rows = random_rows().double() + shift
    found = row_statistics(rows)
    maximum, mean, sigma = rows.amax(-1), rows.mean(-1), rows.std(-1, unbiased=False)
    for name, wanted in (
        ("maximum", maximum),
        ("mean", mean),
        ("sigma", sigma),
        ("distance", (maximum - mean) / sigma),
    ):
        np.testing.assert_allclose(getattr(found, name), wanted.numpy(), rtol=1e-9)
    entropy = torch.distributions.Categorical(logits=rows).entropy()
    np.testing.assert_allclose(found.entropy, entropy.numpy(), rtol=1e-9)


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_statistics_leave_bans_out(seed):
    rows = awkward_rows(14, 50, seed)
    found = row_statistics(rows)
    for i, row in enumerate(rows.double().numpy()):
        scores = row[live(row)]
        assert found.sigma[i] == pytest.approx(np.std(scores), rel=1e-6, abs=1e-9)
        assert found.mean[i] == pytest.approx(scores.mean(), rel=1e-9, abs=1e-9)
        p = softmax(row[np.isfinite(row)])
        assert found.entropy[i] == pytest.approx(-(p[p > 0] * np.log(p[p > 0])).sum(), abs=1e-9)
        distance = (scores.max() - scores.mean()) / np.std(scores) if np.ptp(scores) > 0 else 0
        assert found.distance[i] == pytest.approx(distance, rel=1e-5)


def test_log_probabilities_give_the_same_distances_and_sets():
    """They are the logits less a constant a row, so an engine that knows no logits gives the same figures."""
    rows = random_rows()
    logprobs = torch.log_softmax(rows.double(), -1)
    ours, theirs = row_statistics(rows), row_statistics(logprobs)
    for name in ("sigma", "distance", "entropy"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-6)
    samplers = [parse_sampler(spec) for spec in NAIVE]
    assert (kept_sizes(rows, samplers, TEMPERATURES) == kept_sizes(logprobs, samplers, TEMPERATURES)).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_row_is_named(bad):
    rows = random_rows(rows=3)
    rows[1, 7] = bad
    with pytest.raises(LogitsError, match="row 1"):
        row_statistics(rows)


@pytest.mark.parametrize("spec", WARPERS)
@pytest.mark.parametrize("of", ["random", "lab"])
def test_kept_sizes_are_those_of_transformers(spec, of, lab_rows):
    rows = {"random": random_rows(), "lab": lab_rows}[of]
    found = kept_sizes(rows, [parse_sampler(spec)], TEMPERATURES)[0]
    for t, sizes in zip(TEMPERATURES, found, strict=True):
        theirs = WARPERS[spec](None, rows / t)
        assert sizes.tolist() == theirs.isfinite().sum(-1).tolist()


@pytest.mark.parametrize("spec", NAIVE)
@pytest.mark.parametrize("of", ["random", "lab"])
def test_kept_sizes_are_those_of_the_definitions(spec, of, lab_rows):
    rows = {"random": random_rows(), "lab": lab_rows}[of]
    found = kept_sizes(rows, [parse_sampler(spec)], TEMPERATURES)[0]
    for t, sizes in zip(TEMPERATURES, found, strict=True):
        assert sizes.tolist() == [int(NAIVE[spec](row, t).sum()) for row in rows.double().numpy()]


@pytest.mark.parametrize(("spec", "depends"), [
    ("top_n_sigma=1", False), ("top_n_sigma=0.3", False), ("min_p_first=0.1", False), ("min_k=3", False),
    ("top_k=50", False), ("min_p=0.1", True), ("top_p=0.9", True), ("p_less=true", True),
])  # fmt: skip
def test_which_sets_depend_on_the_temperature(spec, depends):
    rows = random_rows()
    at_one, *others = (kept(rows, parse_sampler(spec), t) for t in (1.0, 0.3, 1.7, 3.0, 10.0))
    assert any(bool((mask != at_one).any()) for mask in others) == depends


def test_kept_sizes_have_an_axis_each():
    samplers = [parse_sampler(spec) for spec in ("top_k=7", "top_k=3", "top_k=7,top_p=0.01")]
    sizes = kept_sizes(random_rows(rows=5), samplers, (1.0, 2.0))
    assert sizes.shape == (3, 2, 5)
    assert (sizes[0] == 7).all()
    assert (sizes[1] == 3).all()
    assert (sizes[2] == 1).all()


def test_a_histogram_counts_every_score_once():
    row = random_rows(vocab=5000)[3]
    row[:100] = -torch.inf
    row[100:150] = -1e9
    counts, edges = histogram(row)
    assert counts.sum() == 4850
    assert len(edges) == len(counts) + 1
    assert (edges[0], edges[-1]) == (float(row[150:].min()), float(row.max()))
    widths = np.diff(edges)
    np.testing.assert_allclose(widths, widths[0])
    for i in (0, 11, len(counts) - 2):
        assert counts[i] == ((row >= edges[i]) & (row < edges[i + 1])).sum()


def test_the_most_probable_tokens_in_order():
    row = torch.full((50,), -torch.inf)
    row[[4, 9, 2]] = torch.tensor([1.0, 3.0, 1.0])
    ids, probabilities = most_probable(row, 20)
    assert ids.tolist() == [9, 2, 4]
    np.testing.assert_allclose(probabilities, softmax(np.array([3.0, 1.0, 1.0])))
    ids, _ = most_probable(random_rows()[0], 20)
    assert ids.tolist() == random_rows()[0].topk(20).indices.tolist()


def test_samplers_are_parsed():
    assert parse_sampler("top_n_sigma=1.0") == Sampling(top_n_sigma=1.0)
    assert parse_sampler(" top_k = 50 , top_p=0.9") == Sampling(top_k=50, top_p=0.9)
    assert parse_sampler("p_less=true") == Sampling(p_less=True)
    assert set(TRUNCATIONS).isdisjoint({"temperature", "max_tokens", "stop", "seed"})
    assert parse_temperatures("2,0.5, 1,2") == (0.5, 1.0, 2.0)


@pytest.mark.parametrize(("spec", "message"), [
    ("top_sigma=1", "did you mean 'top_n_sigma'"), ("minp=0.1", "did you mean 'min_p'"), ("temperature=2", "unknown"),
    ("xyz=1", "there are top_n_sigma"), ("top_p", "top_p=VALUE"), ("top_p=", "top_p=VALUE"), ("", "unknown sampler ''"),
    ("top_p=high", "must be a number"), ("top_k=2.5", "must be a whole number"), ("p_less=1", "must be true or false"),
    ("top_p=1.5", "top_p must be above 0"), ("min_p=nan", "min_p must be"), ("top_k=1,top_k=2", "gives top_k twice"),
])  # fmt: skip
def test_a_wrong_sampler_is_one_sentence(spec, message):
    with pytest.raises(UserError, match=message) as error:
        parse_sampler(spec)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "1,,2", "warm", "0,1", "-1", "nan", "inf", "1e-5"])
def test_wrong_temperatures_are_refused(text):
    with pytest.raises(UserError, match="temperature"):
        parse_temperatures(text)
