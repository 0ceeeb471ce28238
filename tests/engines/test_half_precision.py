"""In half precision what decides is float32: losses that are ranked, and log-probabilities that rollouts stand for."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tiny_models import build_model, family_config, tiny_config

from forkpoint.engines import load_engine
from forkpoint.engines.local import transformers_engine
from forkpoint.engines.local.head import Head, head_of, hidden_at
from forkpoint.engines.local.logprobs import token_losses_and_entropy
from forkpoint.engines.local.products import float32_activations
from forkpoint.engines.local.trunk_attention import TrunkCache
from forkpoint.files import claim_directory
from forkpoint.types import Request, Sampling, UserError

DEEP = {"num_hidden_layers": 16, "initializer_range": 0.15, "num_key_value_heads": 4}
FAMILIES = {"llama": DEEP, "qwen3": {}, "gpt2": {}, "gemma2": {}}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"gemma2"}))  # whose own attention rounds its scores
def test_rollouts_have_the_log_probabilities_that_scoring_gives(family, dtype, tokenizer):
    """Of every token, as near as half precision is to float32."""
    model = build_model(family_config(family, tokenizer, **FAMILIES[family]), seed=1).to(dtype)
    engine, exact = (load_engine(m, tokenizer) for m in (model, copy.deepcopy(model).float()))
    assert engine.trunk_refusal is None
    trunk = tuple(np.random.default_rng(3).integers(2, len(tokenizer), 60).tolist())
    requests = [Request(f"{i}", trunk[: 10 + i]) for i in range(0, 50, 2)]
    done = {c.key: c for c in engine.generate(requests, Sampling(max_tokens=12))}
    sequences, starts = [(*r.prefix, *done[r.key].token_ids) for r in requests], [len(r.prefix) for r in requests]
    ours = np.concatenate([done[r.key].logprobs for r in requests])
    half, full = (
        np.concatenate([s.logprobs[n:-1] for s, n in zip(e.score(sequences, starts=starts), starts, strict=True)])
        for e in (engine, exact)
    )
    assert np.abs(ours - half).mean() <= np.abs(half - full).mean()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_float32_pass_of_half_weights_is_the_float32_model(family, dtype, tokenizer):
    model = build_model(family_config(family, tokenizer, **FAMILIES[family]), seed=1).to(dtype)
    exact, before = copy.deepcopy(model).float(), copy.deepcopy(model.state_dict())
    ids, rows = torch.randint(2, len(tokenizer), (3, 20)), torch.arange(60)
    with float32_activations(model):
        hidden = hidden_at(model, ids, rows)
    expected = hidden_at(exact, ids, rows)
    ours = (hidden, *token_losses_and_entropy(hidden, head_of(model), ids.flatten()))
    of_exact = (expected, *token_losses_and_entropy(expected, head_of(exact), ids.flatten()))
    for a, b in zip(ours, of_exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert hidden_at(model, ids, rows).dtype == dtype
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("autocast", [False, True])
def test_logits_are_not_rounded_to_the_precision_of_the_weights(autocast):
    """Nor under autocast, whose factors are rounded."""
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(5, 64).bfloat16(), torch.randn(5000, 64).bfloat16(), torch.randn(5000).bfloat16()
    expected = hidden.double() @ weight.double().T + bias.double()
    exact = torch.nn.functional.cross_entropy(expected, torch.arange(5), reduction="none")
    for head in (Head(weight, bias, 1.0, None), Head(weight.float(), bias.float(), 1.0, None)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            torch.testing.assert_close(head.all_logits(hidden).double(), expected, rtol=0, atol=1e-4)
            losses, _ = token_losses_and_entropy(hidden, head, torch.arange(5))
        torch.testing.assert_close(losses.double(), exact, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("error", "refused"), [
    (RuntimeError("The size of tensor a (4) must match the size of tensor b (2)"), True),
    (TypeError("forward() got an unexpected keyword argument"), True),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), False),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), False),
    (RuntimeError("CUDA error: device-side assert triggered"), False),
    (MemoryError("no memory"), False),
    (OSError("disk"), False),
])  # fmt: skip
def test_only_what_may_mean_so_means_no_trunk(error, refused, tokenizer, monkeypatch):
    def failing(*_):
        raise error

    monkeypatch.setattr(transformers_engine, "trunk_step", failing)
    model = build_model(tiny_config(tokenizer))
    if refused:
        assert str(error)[:50] in load_engine(model, tokenizer).trunk_refusal
    else:
        with pytest.raises(UserError, match=r"LlamaForCausalLM failed on 6 tokens: .+"):
            load_engine(model, tokenizer)


def test_a_resumed_run_does_not_mix_trunks_and_plain_batches(tokenizer, tmp_path, monkeypatch):
    model = build_model(tiny_config(tokenizer))
    claim_directory(tmp_path, {"engine": dict(load_engine(model, tokenizer).settings)})
    monkeypatch.setattr(transformers_engine, "why_no_trunk", lambda _: "this machine cannot")
    with pytest.raises(UserError, match=r"engine.decoding was 'trunks', now 'plain batches'"):
        claim_directory(tmp_path, {"engine": dict(load_engine(model, tokenizer).settings)})


def test_another_attention_is_noticed_in_half_precision(tokenizer, monkeypatch):
    """Scores that are a twentieth too small change logits by 0.02 of their spread, rounding by 0.005 at most."""
    model = build_model(tiny_config(tokenizer, num_hidden_layers=4, initializer_range=0.2), seed=1).half()
    assert load_engine(model, tokenizer).trunk_refusal is None
    attend = TrunkCache.attend
    monkeypatch.setattr(TrunkCache, "attend", lambda self, *a: attend(self, *a[:4], 0.95 * a[4], *a[5:]))
    assert "other logits" in load_engine(model, tokenizer).trunk_refusal


@pytest.mark.parametrize("init", [0.02, 0.1])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_many_layers_still_share_a_trunk(init, attention, tokenizer):
    """Though eager attention rounds its scores in each of them."""
    sizes = {"num_hidden_layers": 24, "hidden_size": 128, "intermediate_size": 256}
    config = tiny_config(tokenizer, **sizes, initializer_range=init, attn_implementation=attention)
    assert load_engine(build_model(config).bfloat16(), tokenizer).trunk_refusal is None
