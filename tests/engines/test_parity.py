"""The engine against transformers' own generate and forward, over model families."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import build_model, tiny_config
from transformers import (
    BloomConfig,
    DeepseekV3Config,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    GptOssConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PhiConfig,
    PhimoeConfig,
    Qwen3Config,
)

from forkpoint.engines import load_engine
from forkpoint.types import Request, Sampling

FAMILIES = {
    "llama": lambda t: tiny_config(t, LlamaConfig, num_key_value_heads=2),
    "qwen3": lambda t: tiny_config(t, Qwen3Config, num_key_value_heads=2, head_dim=8),
    "mistral": lambda t: tiny_config(t, MistralConfig, num_key_value_heads=2, sliding_window=8),
    "gemma2": lambda t: tiny_config(
        t,
        Gemma2Config,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=8,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=10.0,
    ),
    "gpt-neox": lambda t: tiny_config(t, GPTNeoXConfig),
    "phi": lambda t: tiny_config(t, PhiConfig),
    "gpt2": lambda t: GPT2Config(
        vocab_size=len(t),
        n_embd=32,
        n_layer=2,
        n_head=4,
        eos_token_id=t.eos_token_id,
        bos_token_id=None,
        initializer_range=0.4,
    ),
    "gpt-oss": lambda t: tiny_config(
        t, GptOssConfig, num_key_value_heads=2, head_dim=8, sliding_window=8, num_local_experts=4, num_experts_per_tok=2
    ),
}
PLAIN = {
    "bloom": lambda t: BloomConfig(
        vocab_size=len(t),
        hidden_size=32,
        n_layer=2,
        n_head=4,
        eos_token_id=t.eos_token_id,
        bos_token_id=None,
        pad_token_id=t.pad_token_id,
        initializer_range=0.4,
    ),
    "mamba": lambda t: MambaConfig(
        vocab_size=len(t),
        hidden_size=32,
        num_hidden_layers=2,
        state_size=8,
        eos_token_id=t.eos_token_id,
        bos_token_id=None,
        pad_token_id=t.pad_token_id,
    ),
}


LATENT = {
    "kv_lora_rank": 16,
    "q_lora_rank": None,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "first_k_dense_replace": 2,
}


def requests_at_many_depths(vocab: int) -> list[Request]:
    trunk = np.random.default_rng(3).integers(2, vocab, 40).tolist()
    forks = [Request(f"{d}/{v}", (*trunk[:d], v)) for d in range(1, 40, 3) for v in (5, 17, 300)]
    other = np.random.default_rng(4).integers(2, vocab, 23).tolist()
    return [*forks, Request("whole", tuple(trunk)), Request("one token", (7,)), Request("alone", tuple(other))]


def generated(model, prefix, tokenizer, max_tokens: int) -> tuple[int, ...]:
    ids = torch.tensor([prefix])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return tuple(out[0, len(prefix) :].tolist())


@pytest.mark.parametrize("family", [*FAMILIES, *PLAIN])
def test_greedy_tokens_equal_generate(family, tokenizer):
    model = build_model((FAMILIES | PLAIN)[family](tokenizer), seed=1)
    engine = load_engine(model, tokenizer)
    assert (engine.trunk_refusal is None) == (family in FAMILIES), engine.trunk_refusal
    requests = requests_at_many_depths(len(tokenizer))
    done = {c.key: c.token_ids for c in engine.generate(requests, Sampling(temperature=0, max_tokens=20))}
    for request in requests:
        assert done[request.key] == generated(model, request.prefix, tokenizer, 20), request.key


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal_a_bare_forward(family, tokenizer):
    model = build_model(FAMILIES[family](tokenizer), seed=2)
    sequences = [r.prefix for r in requests_at_many_depths(len(tokenizer))][::5]
    sampling = Sampling(temperature=1.7, top_n_sigma=1.0)
    scored = load_engine(model, tokenizer).score(sequences, top=3, sampling=sampling)
    for sequence, s in zip(sequences, scored, strict=True):
        logits = model(torch.tensor([sequence])).logits[0].double()
        logp = logits.log_softmax(-1).detach().numpy()
        n = len(sequence)
        assert np.isnan(s.logprobs[[0, n]]).all()
        assert np.isnan(s.entropy[0])
        np.testing.assert_allclose(s.logprobs[1:n], logp[range(n - 1), sequence[1:]], atol=2e-4)
        np.testing.assert_allclose(s.entropy[1:], -(np.exp(logp) * logp).sum(-1), atol=2e-4)
        top = np.sort(np.exp(logp), -1)
        np.testing.assert_allclose(s.gaps[1:], top[:, -1] - top[:, -2], atol=2e-4)
        np.testing.assert_array_equal(s.top_ids[1:, 0], logp.argmax(-1))
        np.testing.assert_allclose(s.top_logprobs[1:], np.sort(logp, -1)[:, :-4:-1], atol=2e-4)
        raw = logits.detach().numpy()
        kept = raw >= raw.max(-1, keepdims=True) - raw.std(-1, keepdims=True)
        weights = np.where(kept, np.exp((raw - raw.max(-1, keepdims=True)) / 1.7), 0)
        policy = weights / weights.sum(-1, keepdims=True)
        np.testing.assert_allclose(s.policy[1:n], policy[range(n - 1), sequence[1:]], atol=2e-4)
        np.testing.assert_allclose(s.top_policy[1:], np.take_along_axis(policy, s.top_ids[1:], 1), atol=2e-4)


@pytest.mark.parametrize(("config", "reason"), [
    (lambda t: tiny_config(t, PhimoeConfig, num_key_value_heads=2, sliding_window=8, num_local_experts=4), "window"),
    (lambda t: tiny_config(t, DeepseekV3Config, num_key_value_heads=4, **LATENT), ""),
])  # fmt: skip
def test_attention_that_a_trunk_cannot_share_is_found_out(tokenizer, config, reason):
    model = build_model(config(tokenizer), seed=1)
    engine = load_engine(model, tokenizer)
    assert reason in (engine.trunk_refusal or "")
    prefix = tuple(range(20, 60))
    (done,) = engine.generate([Request("a", prefix)], Sampling(temperature=0, max_tokens=10))
    assert done.token_ids == generated(model, prefix, tokenizer, 10)


def test_scores_from_a_start_equal_the_whole(tiny):
    sequences = [tuple(range(5, 30)), tuple(range(40, 52)), (9,)]
    whole = list(tiny.score(sequences, top=2))
    late = list(tiny.score(sequences, top=2, starts=[20, 3, 1]))
    for start, a, b in zip([20, 3, 1], whole, late, strict=True):
        np.testing.assert_allclose(a.entropy[start:], b.entropy[start:], atol=1e-5)
        np.testing.assert_array_equal(a.top_ids[start:], b.top_ids[start:])
        assert np.isnan(b.entropy[:start]).all()
        assert (b.top_ids[:start] == -1).all()


def test_completion_notes_equal_the_scores_of_its_tokens(tiny):
    request = Request("a", tuple(range(10, 30)))
    (done,) = tiny.generate([request], Sampling(temperature=1.5, max_tokens=12))
    (scored,) = tiny.score([(*request.prefix, *done.token_ids)])
    np.testing.assert_allclose(done.logprobs, scored.logprobs[20:-1], atol=1e-4)
    np.testing.assert_allclose(done.gaps, scored.gaps[20:-1], atol=1e-4)


def test_beam_search_is_transformers_own(tiny, tokenizer):
    prefix = tuple(range(10, 20))
    (done,) = tiny.beam_search([Request("a", prefix)], 3, Sampling(max_tokens=8))
    ids = torch.tensor([prefix])
    out = tiny.model.generate(
        ids, attention_mask=torch.ones_like(ids), num_beams=3, max_new_tokens=8, do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    assert done.token_ids == tuple(out[0, 10:].tolist())


def test_beam_search_ignores_the_models_own_penalties_and_heeds_stop_strings(tokenizer):
    model = build_model(tiny_config(tokenizer))
    engine = load_engine(model, tokenizer)
    prefix = tuple(range(10, 20))
    (greedy,) = engine.generate([Request("a", prefix)], Sampling(temperature=0, max_tokens=12))
    model.generation_config.repetition_penalty = 1.8
    (beam,) = engine.beam_search([Request("a", prefix)], 1, Sampling(max_tokens=12))
    assert beam.token_ids == greedy.token_ids
    assert model.generation_config.repetition_penalty == 1.8
    stop = greedy.text[3]
    (cut,) = engine.beam_search([Request("a", prefix)], 1, Sampling(max_tokens=12, stop=(stop,)))
    assert cut.finish_reason == "stop"
    assert cut.text == greedy.text[: greedy.text.index(stop)]
