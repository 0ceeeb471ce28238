"""The transformers engine: the contract of engines, and parity with transformers' own generate and forward."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from engine_contract import EngineContract
from tiny_models import FAMILIES, SHARING, build_model, family_config, tiny_config

from forkpoint.engines import Engine, load_engine
from forkpoint.types import Request, Sampling


class TestTrunks(EngineContract):
    EXACT = True

    @pytest.fixture
    def engine(self, lab: Engine) -> Engine:
        return lab


class TestPlainBatches(EngineContract):
    EXACT = True

    @pytest.fixture
    def engine(self, lab: Engine) -> Engine:
        plain = copy.copy(lab)
        plain.trunk_refusal = "this test wants plain batches"  # type: ignore[attr-defined]
        return plain


def requests_at_many_depths(vocab: int) -> list[Request]:
    trunk = np.random.default_rng(3).integers(2, vocab, 40).tolist()
    forks = [Request(f"{d}/{v}", (*trunk[:d], v)) for d in range(1, 40, 3) for v in (5, 17, 300)]
    other = np.random.default_rng(4).integers(2, vocab, 23).tolist()
    return [*forks, Request("whole", tuple(trunk)), Request("one token", (7,)), Request("alone", tuple(other))]


def generated(model, prefix, tokenizer, max_tokens: int, **options) -> tuple[int, ...]:
    ids = torch.tensor([prefix])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **options,
    )  # fmt: skip
    return tuple(out[0, len(prefix) :].tolist())


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_equal_generate(family, tokenizer):
    model = build_model(family_config(family, tokenizer), seed=1)
    engine = load_engine(model, tokenizer)
    if family != "deepseek":  # shared or not, its tokens are those of generate
        assert (engine.trunk_refusal is None) == (family in SHARING), engine.trunk_refusal
    requests = requests_at_many_depths(len(tokenizer))
    done = {c.key: c.token_ids for c in engine.generate(requests, Sampling(temperature=0, max_tokens=20))}
    for request in requests:
        assert done[request.key] == generated(model, request.prefix, tokenizer, 20), request.key


@pytest.mark.parametrize("family", SHARING)
def test_scores_equal_a_bare_forward(family, tokenizer):
    model = build_model(family_config(family, tokenizer), seed=2)
    sequences = [r.prefix for r in requests_at_many_depths(len(tokenizer))][::5]
    sampling = Sampling(temperature=1.7, top_n_sigma=1.0)
    scored = load_engine(model, tokenizer).score(sequences, top=3, sampling=sampling)
    for sequence, s in zip(sequences, scored, strict=True):
        raw = model(torch.tensor([sequence])).logits[0].double().detach()
        logp, raw = raw.log_softmax(-1).numpy(), raw.numpy()
        n = len(sequence)
        assert np.isnan([*s.logprobs[[0, n]], s.entropy[0]]).all()
        kept = raw >= raw.max(-1, keepdims=True) - raw.std(-1, keepdims=True)
        weights = np.where(kept, np.exp((raw - raw.max(-1, keepdims=True)) / 1.7), 0)
        policy = weights / weights.sum(-1, keepdims=True)
        top = np.sort(np.exp(logp), -1)
        np.testing.assert_array_equal(s.top_ids[1:, 0], logp.argmax(-1))
        for ours, expected in (
            (s.logprobs[1:n], logp[range(n - 1), sequence[1:]]),
            (s.entropy[1:], -(np.exp(logp) * logp).sum(-1)),
            (s.gaps[1:], top[:, -1] - top[:, -2]),
            (s.top_logprobs[1:], np.sort(logp, -1)[:, :-4:-1]),
            (s.policy[1:n], policy[range(n - 1), sequence[1:]]),
            (s.top_policy[1:], np.take_along_axis(policy, s.top_ids[1:], 1)),
        ):
            np.testing.assert_allclose(ours, expected, atol=2e-4)


def test_scores_from_a_start_and_in_pieces_equal_the_whole(tiny, monkeypatch):
    sequences, starts = [tuple(range(5, 205)), tuple(range(40, 52)), (9,)], [120, 3, 1]
    whole = list(tiny.score(sequences, top=2))
    late = list(tiny.score(sequences, top=2, starts=starts))
    monkeypatch.setattr("forkpoint.engines.local.scoring.rows_that_fit", lambda *_: 37)
    for start, a, b, c in zip(starts, whole, late, tiny.score(sequences, top=2), strict=True):
        np.testing.assert_allclose(a.entropy[start:], b.entropy[start:], atol=1e-5)
        np.testing.assert_array_equal(a.top_ids[start:], b.top_ids[start:])
        assert np.isnan(b.entropy[:start]).all()
        assert (b.top_ids[:start] == -1).all()
        np.testing.assert_allclose(a.logprobs, c.logprobs, atol=1e-5)
        np.testing.assert_array_equal(a.top_ids, c.top_ids)


def test_beam_search_is_transformers_own_without_the_models_penalties(tokenizer):
    model = build_model(tiny_config(tokenizer))
    engine, prefix = load_engine(model, tokenizer), tuple(range(10, 20))
    expected = generated(model, prefix, tokenizer, 12, num_beams=3)
    (greedy,) = engine.generate([Request("a", prefix)], Sampling(temperature=0, max_tokens=12))
    model.generation_config.repetition_penalty = 1.8
    three, one = (next(engine.beam_search([Request("a", prefix)], n, Sampling(max_tokens=12))) for n in (3, 1))
    assert (three.token_ids, one.token_ids) == (expected, greedy.token_ids)
    assert model.generation_config.repetition_penalty == 1.8
    (cut,) = engine.beam_search([Request("a", prefix)], 1, Sampling(max_tokens=12, stop=(greedy.text[3],)))
    assert (cut.finish_reason, cut.text) == ("stop", greedy.text[: greedy.text.index(greedy.text[3])])
