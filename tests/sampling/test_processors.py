"""The order of samplers, their limits, and their use in `model.generate`."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
import transformers
from scipy import stats

from forkpoint.sampling import (
    LogitsError,
    MinK,
    MinP,
    PLess,
    TopNSigma,
    build_processors,
    policy_logits,
    top_n_sigma,
    validate,
)
from forkpoint.types import Sampling, UserError

EVERYTHING = Sampling(
    temperature=1.3,
    top_n_sigma=1.2,
    min_p_first=0.01,
    p_less=True,
    min_k=3.0,
    top_k=20,
    top_p=0.95,
    min_p=0.02,
    top_h=0.9,
    typical_p=0.95,
    epsilon_cutoff=1e-4,
    eta_cutoff=1e-4,
)


def some_logits(rows: int = 8, vocab: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 2


def test_the_order_is_the_documented_one() -> None:
    expected = [
        TopNSigma,
        MinK,
        MinP,
        transformers.TemperatureLogitsWarper,
        PLess,
        transformers.TopHLogitsWarper,
        transformers.TopKLogitsWarper,
        transformers.TopPLogitsWarper,
        MinP,
        transformers.TypicalLogitsWarper,
        transformers.EpsilonLogitsWarper,
        transformers.EtaLogitsWarper,
    ]
    processors = build_processors(EVERYTHING)
    assert [type(p) for p in processors] == expected
    assert (processors[2].min_p, processors[8].min_p) == (0.01, 0.02)


def test_defaults_apply_nothing_and_greedy_needs_no_processor() -> None:
    assert list(build_processors(Sampling())) == []
    assert list(build_processors(Sampling(temperature=0, top_k=5, top_n_sigma=1.0))) == []
    logits = some_logits()
    assert torch.equal(policy_logits(logits, Sampling()), logits)


def test_policy_is_its_processors_one_after_the_other() -> None:
    logits = some_logits()
    before = logits.clone()
    by_hand = logits
    for processor in build_processors(EVERYTHING):
        by_hand = processor(None, by_hand)
    assert torch.equal(policy_logits(logits, EVERYTHING), by_hand)
    assert torch.equal(logits, before)
    assert bool(by_hand.isfinite().any(-1).all())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 1.7),
        ("top_n_sigma", 1.0),
        ("min_p_first", 0.1),
        ("p_less", True),
        ("min_k", 3.0),
        ("top_k", 5),
        ("top_p", 0.8),
        ("min_p", 0.1),
        ("top_h", 0.5),
        ("typical_p", 0.8),
        ("epsilon_cutoff", 0.01),
        ("eta_cutoff", 0.05),
    ],
)
def test_each_field_has_its_own_effect_and_none_breaks_on_banned_rows(field: str, value: float) -> None:
    logits = some_logits(16)
    logits[::2, 10:] = -math.inf
    logits[1::4, :60] = -1e9
    sampling = Sampling(**{field: value})
    after = policy_logits(logits, sampling)
    assert not torch.equal(after, logits)
    assert not bool(after.isnan().any())
    assert bool(after.isfinite().any(-1).all())
    assert len(build_processors(sampling)) == 1


def test_min_p_first_ignores_temperature_and_min_p_does_not() -> None:
    logits = some_logits()
    kept = {t: policy_logits(logits, Sampling(temperature=t, min_p_first=0.1)).isfinite() for t in (1.0, 3.0)}
    assert torch.equal(kept[1.0], kept[3.0])
    hot = policy_logits(logits, Sampling(temperature=3.0, min_p=0.1)).isfinite()
    assert int(hot.sum()) > int(kept[3.0].sum())
    theirs = transformers.MinPLogitsWarper(0.1)(None, logits / 3.0)
    assert torch.equal(hot, theirs.isfinite())


def test_top_k_larger_than_the_vocabulary_keeps_all() -> None:
    logits = some_logits()
    assert torch.equal(policy_logits(logits, Sampling(top_k=1000)), logits)


def test_greedy_is_one_hot_at_the_first_maximum() -> None:
    logits = torch.tensor([[1.0, 4.0, 4.0], [0.0, -math.inf, -1.0]])
    onehot = policy_logits(logits, Sampling(temperature=0, top_p=0.5))
    assert onehot.tolist() == [[-math.inf, 0.0, -math.inf], [0.0, -math.inf, -math.inf]]


def test_policy_is_float32_also_for_bfloat16() -> None:
    logits = some_logits().bfloat16()
    policy = policy_logits(logits, Sampling(top_n_sigma=1.0, temperature=2.0))
    assert policy.dtype == torch.float32
    assert torch.equal(policy, policy_logits(logits.float(), Sampling(top_n_sigma=1.0, temperature=2.0)))


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0), Sampling(top_p=0.9), EVERYTHING])
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_hopeless_rows_are_named(sampling: Sampling, value: float) -> None:
    logits = some_logits()
    logits[5] = value
    with pytest.raises(LogitsError, match="row 5 "):
        policy_logits(logits, sampling)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1.0),
        ("temperature", 1e-9),
        ("temperature", math.inf),
        ("top_n_sigma", math.inf),
        ("min_p_first", 1.5),
        ("min_p", -0.1),
        ("min_k", -1.0),
        ("top_k", -1),
        ("top_k", 2.5),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_h", 2.0),
        ("typical_p", 0.0),
        ("epsilon_cutoff", 1.0),
        ("eta_cutoff", 1.0),
        ("max_tokens", 0),
        *[
            (name, math.nan)
            for name in ("temperature", "top_n_sigma", "min_p", "min_p_first", "min_k", "top_k", "top_p")
        ],
        *[(name, math.nan) for name in ("top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")],
    ],
)
def test_values_out_of_range_are_one_clear_sentence(field: str, value: float) -> None:
    pattern = rf"^{field} must be .*{re.escape(str(value))}$"
    with pytest.raises(UserError, match=pattern):
        validate(Sampling(**{field: value}))
    with pytest.raises(UserError, match=pattern):
        build_processors(Sampling(**{field: value}))


def test_limits_themselves_are_allowed() -> None:
    validate(Sampling(temperature=0, min_p=1.0, min_p_first=1.0, top_p=1.0, top_h=1.0, typical_p=1.0))
    validate(EVERYTHING)
    with pytest.raises(UserError, match="stop string"):
        validate(Sampling(stop=("\n", "")))


@pytest.mark.parametrize("make", [lambda: TopNSigma(math.nan), lambda: MinP(1.5), lambda: MinK(-1.0)])
def test_processors_check_their_parameters(make) -> None:
    with pytest.raises(UserError):
        make()


@pytest.fixture(scope="module")
def model() -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return transformers.LlamaForCausalLM(config).eval()


def generate(model, prompt: torch.Tensor, new_tokens: int, processors, **options) -> torch.Tensor:
    torch.manual_seed(1)
    return model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=True,
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        logits_processor=processors,
        **options,
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 5.0])
def test_generate_draws_from_the_policy(model, temperature: float) -> None:
    """`logits_processor=[TopNSigma()]` with generate's own temperature: tokens follow our policy."""
    prompt = torch.tensor([[3, 14, 15, 9]])
    drawn = generate(model, prompt.expand(4000, -1), 1, [TopNSigma(1.0)], temperature=temperature)[:, -1]
    logits = model(prompt).logits[:, -1].detach()
    expected = policy_logits(logits, Sampling(top_n_sigma=1.0, temperature=temperature)).double().softmax(-1)[0]
    counts = np.bincount(drawn.numpy(), minlength=40)
    kept = expected.numpy() > 0
    assert 1 < kept.sum() < 40
    assert counts[~kept].sum() == 0
    assert stats.chisquare(counts[kept], expected.numpy()[kept] / expected.numpy()[kept].sum() * 4000).pvalue > 1e-4


@pytest.mark.parametrize("processor", [TopNSigma(1.0), MinK(3.0), PLess(), MinP(0.2)])
def test_every_generated_token_lies_in_the_kept_set(model, processor) -> None:
    out = generate(model, torch.tensor([[3, 14, 15, 9]]).expand(16, -1), 24, [processor], temperature=3.0)
    scores = model(out).logits[:, 3:-1].float()
    kept = processor(None, scores.reshape(-1, 40)).isfinite().reshape(scores.shape)
    assert bool(kept.gather(-1, out[:, 4:, None]).all())
    assert not bool(kept.all())


def test_the_whole_policy_works_in_generate(model) -> None:
    out = generate(model, torch.tensor([[3, 14]]).expand(8, -1), 16, build_processors(EVERYTHING))
    logits = model(out).logits[:, 1:-1].float().reshape(-1, 40)
    kept = policy_logits(logits, EVERYTHING).isfinite()
    assert bool(kept.gather(-1, out[:, 2:].reshape(-1, 1)).all())
    assert int(kept.sum()) <= int(top_n_sigma(logits, 1.2).isfinite().sum())
