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
from forkpoint.sampling import LogitsError
from forkpoint.sampling import analysis as a
from forkpoint.types import Sampling, UserError

TEMPERATURES = (0.5, 1.0, 1.5, 2.0, 3.0)
WARPERS = {
    "top_k=5": transformers.TopKLogitsWarper(5),
    "top_p=0.9": transformers.TopPLogitsWarper(0.9),
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


def random_rows(rows: int = 40, vocab: int = 500) -> torch.Tensor:
    """Distinct finite float32 logits of several widths: no edge of a kept set is a matter of rounding."""
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.normal(0, 1, (rows, vocab)) * rng.uniform(0.3, 8, (rows, 1))).float()


@pytest.fixture(scope="module", params=["random", "lab"])
def rows(request, lab) -> torch.Tensor:
    """Random logits, and the embedded model's at every token of a text."""
    if request.param == "random":
        return random_rows()
    ids = lab.tokenizer("Q: Ada has 5 pens. Ada buys 3 more. How many pens does Ada have now?\nA:", return_tensors="pt")
    ids = ids["input_ids"]
    with torch.inference_mode():
        return logits_at(lab.model, ids, torch.arange(ids.shape[1])).float().clone()


@given(st.integers(0, 10_000), st.sampled_from([0.0, 3000.0]))
@settings(max_examples=30, deadline=None)
def test_statistics_are_numpys_and_leave_bans_out(seed, shift):
    rows = awkward_rows(14, 50, seed, torch.float64) + shift
    statistics = a.row_statistics(rows)
    for i, row in enumerate(rows.numpy()):
        scores = row[live(row)]
        assert statistics.maximum[i] == scores.max()
        assert statistics.sigma[i] == pytest.approx(np.std(scores), rel=1e-6, abs=1e-9)
        assert statistics.mean[i] == pytest.approx(scores.mean(), rel=1e-9, abs=1e-9)
        p = softmax(row[np.isfinite(row)])
        assert statistics.entropy[i] == pytest.approx(-(p[p > 0] * np.log(p[p > 0])).sum(), abs=1e-9)
        distance = (scores.max() - scores.mean()) / np.std(scores) if np.ptp(scores) > 0 else 0
        assert statistics.distance[i] == pytest.approx(distance, rel=1e-5)


def test_log_probabilities_give_the_same_distances_and_sets():
    """They are the logits less a constant a row, so an engine that knows no logits gives the same figures."""
    rows = random_rows()
    logprobs = torch.log_softmax(rows.double(), -1)
    of_logits, of_logprobs = a.row_statistics(rows), a.row_statistics(logprobs)
    for name in ("sigma", "distance", "entropy"):
        np.testing.assert_allclose(getattr(of_logits, name), getattr(of_logprobs, name), rtol=1e-6)
    samplers = [a.parse_sampler(spec) for spec in NAIVE]
    assert (a.kept_sizes(rows, samplers, TEMPERATURES) == a.kept_sizes(logprobs, samplers, TEMPERATURES)).all()
    rows[1, 7] = torch.nan
    with pytest.raises(LogitsError, match="row 1"):
        a.row_statistics(rows)


@pytest.mark.parametrize("spec", [*WARPERS, *NAIVE])
def test_kept_sizes_are_those_of_transformers_and_of_the_definitions(spec, rows):
    (sizes,) = a.kept_sizes(rows, [a.parse_sampler(spec)], TEMPERATURES)
    for t, ours in zip(TEMPERATURES, sizes, strict=True):
        if spec in WARPERS:
            assert ours.tolist() == WARPERS[spec](None, rows / t).isfinite().sum(-1).tolist()
        else:
            assert ours.tolist() == [int(NAIVE[spec](row, t).sum()) for row in rows.double().numpy()]


def test_kept_sizes_have_an_axis_each():
    samplers = [a.parse_sampler(spec) for spec in ("top_k=7", "top_k=3", "top_k=7,top_p=0.01")]
    sizes = a.kept_sizes(random_rows(rows=5), samplers, (1.0, 2.0))
    assert sizes.tolist() == [[[n] * 5] * 2 for n in (7, 3, 1)]


def test_a_histogram_counts_every_score_once():
    row = random_rows(vocab=5000)[3]
    row[:100] = -torch.inf
    row[100:150] = -1e9
    counts, edges = a.histogram(row)
    assert counts.sum() == 4850
    assert (edges[0], edges[-1]) == (float(row[150:].min()), float(row.max()))
    np.testing.assert_allclose(np.diff(edges), (edges[-1] - edges[0]) / len(counts))
    for i in (0, 11, len(counts) - 2):
        assert counts[i] == ((row >= edges[i]) & (row < edges[i + 1])).sum()


def test_the_most_probable_tokens_in_order():
    row = torch.full((50,), -torch.inf)
    row[[4, 9, 2]] = torch.tensor([1.0, 3.0, 1.0])
    ids, probabilities = a.most_probable(row, 20)
    assert ids.tolist() == [9, 2, 4]
    np.testing.assert_allclose(probabilities, softmax(np.array([3.0, 1.0, 1.0])))
    assert a.most_probable(random_rows()[0], 20)[0].tolist() == random_rows()[0].topk(20).indices.tolist()


def test_samplers_are_parsed():
    assert a.parse_sampler(" top_k = 50 , top_p=0.9,p_less=true") == Sampling(top_k=50, top_p=0.9, p_less=True)
    assert set(a.TRUNCATIONS).isdisjoint({"temperature", "max_tokens", "stop", "seed"})
    assert a.parse_temperatures("2,0.5, 1,2") == (0.5, 1.0, 2.0)


@pytest.mark.parametrize(("spec", "message"), [
    ("top_sigma=1", "did you mean 'top_n_sigma'"), ("temperature=2", "unknown"), ("xyz=1", "there are top_n_sigma"),
    ("top_p", "top_p=VALUE"), ("top_p=", "top_p=VALUE"), ("", "unknown sampler ''"), ("top_p=high", "a number"),
    ("top_k=2.5", "a whole number"), ("p_less=1", "true or false"), ("top_p=1.5", "top_p must be above 0"),
    ("min_p=nan", "min_p must be"), ("top_k=1,top_k=2", "gives top_k twice"),
])  # fmt: skip
def test_wrong_samplers_and_temperatures_are_refused(spec, message):
    with pytest.raises(UserError, match=message):
        a.parse_sampler(spec)
    for text in ("", "1,,2", "warm", "0,1", "-1", "nan", "inf", "1e-5"):
        with pytest.raises(UserError, match="temperature"):
            a.parse_temperatures(text)
