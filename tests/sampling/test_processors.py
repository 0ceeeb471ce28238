"""The order of samplers, their limits, and their use in `model.generate`."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
import transformers
from scipy import stats

from forkpoint.sampling import LogitsError, MinK, MinP, PLess, TopNSigma, build_processors, policy_logits, validate
from forkpoint.types import Sampling, UserError

VALUES = {
    "top_n_sigma": 1.2, "min_k": 3.0, "min_p_first": 0.01, "temperature": 1.3, "p_less": True, "top_h": 0.9,
    "top_k": 20, "top_p": 0.95, "min_p": 0.02, "typical_p": 0.95, "epsilon_cutoff": 1e-3, "eta_cutoff": 1e-3,
}  # fmt: skip
EVERYTHING = Sampling(**VALUES)
ORDER = [
    TopNSigma, MinK, MinP, transformers.TemperatureLogitsWarper, PLess, transformers.TopHLogitsWarper,
    transformers.TopKLogitsWarper, transformers.TopPLogitsWarper, MinP, transformers.TypicalLogitsWarper,
    transformers.EpsilonLogitsWarper, transformers.EtaLogitsWarper,
]  # fmt: skip


def some_logits(rows: int = 8, vocab: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 2


def test_the_policy_is_its_processors_in_the_documented_order() -> None:
    processors = build_processors(EVERYTHING)
    assert [type(p) for p in processors] == ORDER
    assert (processors[2].min_p, processors[8].min_p) == (0.01, 0.02)
    logits = some_logits()
    before, by_hand = logits.clone(), logits
    for processor in processors:
        by_hand = processor(None, by_hand)
    assert torch.equal(policy_logits(logits, EVERYTHING), by_hand)
    assert torch.equal(logits, before)
    assert bool(by_hand.isfinite().any(-1).all())


def test_defaults_apply_nothing_and_greedy_is_one_hot_at_the_first_maximum() -> None:
    assert list(build_processors(Sampling())) == []
    assert torch.equal(policy_logits(some_logits(), Sampling()), some_logits())
    greedy = Sampling(temperature=0, top_k=5, top_n_sigma=1.0)
    assert list(build_processors(greedy)) == []
    logits = torch.tensor([[1.0, 4.0, 4.0], [0.0, -math.inf, -1.0]])
    assert policy_logits(logits, greedy).tolist() == [[-math.inf, 0.0, -math.inf], [0.0, -math.inf, -math.inf]]


@pytest.mark.parametrize("field", VALUES)
def test_each_field_has_its_own_effect_and_none_breaks_on_banned_rows(field: str) -> None:
    logits = some_logits(16)
    logits[::2, 10:] = -math.inf
    logits[1::4, :60] = -1e9
    sampling = Sampling(**{field: VALUES[field]})
    after = policy_logits(logits, sampling)
    assert not torch.equal(after, logits)
    assert not bool(after.isnan().any())
    assert bool(after.isfinite().any(-1).all())
    assert len(build_processors(sampling)) == 1


def test_policy_is_float32_also_for_bfloat16() -> None:
    logits, sampling = some_logits().bfloat16(), Sampling(top_n_sigma=1.0, temperature=2.0)
    policy = policy_logits(logits, sampling)
    assert policy.dtype == torch.float32
    assert torch.equal(policy, policy_logits(logits.float(), sampling))


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0), Sampling(top_p=0.9), EVERYTHING])
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_hopeless_rows_are_named(sampling: Sampling, value: float) -> None:
    logits = some_logits()
    logits[5] = value
    with pytest.raises(LogitsError, match="row 5 "):
        policy_logits(logits, sampling)


OUT_OF_RANGE = {
    "temperature": [-1.0, 1e-9, math.inf], "top_n_sigma": [math.inf], "min_p_first": [1.5], "min_p": [-0.1],
    "min_k": [-1.0], "top_k": [-1, 2.5], "top_p": [0.0, 1.01], "top_h": [2.0], "typical_p": [0.0],
    "epsilon_cutoff": [1.0], "eta_cutoff": [1.0], "max_tokens": [0],
}  # fmt: skip


@pytest.mark.parametrize("field", OUT_OF_RANGE)
def test_values_out_of_range_are_named(field: str) -> None:
    for value in (*OUT_OF_RANGE[field], math.nan):
        for refuse in (validate, build_processors):
            with pytest.raises(UserError, match=rf"^{field} must be .*{re.escape(str(value))}$"):
                refuse(Sampling(**{field: value}))
    for make, value in ((TopNSigma, math.nan), (MinP, 1.5), (MinK, -1.0)):
        with pytest.raises(UserError):
            make(value)


def test_limits_themselves_are_allowed() -> None:
    validate(Sampling(temperature=0, min_p=1.0, min_p_first=1.0, top_p=1.0, top_h=1.0, typical_p=1.0))
    with pytest.raises(UserError, match="stop string"):
        validate(Sampling(stop=("\n", "")))


@pytest.fixture(scope="module")
def model() -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        initializer_range=0.3, bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def generate(model, rows: int, new_tokens: int, processors, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """The new tokens, and the logits that predict them, [rows * new_tokens] and [rows * new_tokens, V]."""
    torch.manual_seed(1)
    prompt = torch.tensor([[3, 14, 15, 9]]).expand(rows, -1)
    out = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=True, max_new_tokens=new_tokens,
        min_new_tokens=new_tokens, logits_processor=processors, **options,
    )  # fmt: skip
    return out[:, 4:].flatten(), model(out).logits[:, 3:-1].float().reshape(-1, 40).detach()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 5.0])
def test_generate_draws_from_the_policy(model, temperature: float) -> None:
    """`logits_processor=[TopNSigma()]` with generate's own temperature: tokens follow our policy."""
    drawn, logits = generate(model, 4000, 1, [TopNSigma(1.0)], temperature=temperature)
    policy = policy_logits(logits[:1], Sampling(top_n_sigma=1.0, temperature=temperature)).double().softmax(-1)[0]
    counts, expected = np.bincount(drawn.numpy(), minlength=40), policy.numpy()
    kept = expected > 0
    assert 1 < kept.sum() < 40
    assert counts[~kept].sum() == 0
    assert stats.chisquare(counts[kept], expected[kept] / expected[kept].sum() * 4000).pvalue > 1e-4


@pytest.mark.parametrize("sampling", [
    *(Sampling(temperature=3.0, **rule) for rule in ({"top_n_sigma": 1.0}, {"min_k": 3.0}, {"min_p_first": 0.2})),
    Sampling(p_less=True), EVERYTHING,
])  # fmt: skip
def test_every_generated_token_lies_in_the_kept_set(model, sampling: Sampling) -> None:
    drawn, logits = generate(model, 16, 24, build_processors(sampling))
    kept = policy_logits(logits, sampling).isfinite()
    assert bool(kept.gather(-1, drawn[:, None]).all())
    assert not bool(kept.all())
