"""Sampled tokens: the right distribution, and the same tokens whatever else is going on."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from forkpoint.engines import memory
from forkpoint.engines.decoding_loop import TrunkDecoder
from forkpoint.types import Request, Sampling, UserError


@pytest.mark.parametrize("sampling", [
    Sampling(temperature=1.3, max_tokens=1),
    Sampling(temperature=2.0, top_p=0.8, max_tokens=1),
    Sampling(temperature=3.0, top_n_sigma=1.0, max_tokens=1),
])  # fmt: skip
def test_frequencies_match_the_exact_distribution(tiny, sampling):
    prefix = tuple(range(20, 40))
    n = 4000
    drawn = Counter(c.token_ids[0] for c in tiny.generate([Request(str(i), prefix) for i in range(n)], sampling))
    vocab = tiny.model.config.vocab_size
    (scored,) = tiny.score([prefix], top=vocab, starts=[len(prefix)])
    tokens = scored.top_ids[-1].tolist()
    policies = tiny.score([(*prefix, t) for t in tokens], sampling=sampling, starts=[len(prefix)] * vocab)
    expected = np.array([s.policy[-2] for s in policies]) * n
    observed = np.array([drawn[t] for t in tokens])
    assert observed[expected == 0].sum() == 0
    common = expected >= 5
    rest = (observed[~common].sum(), expected[~common].sum())
    f_obs, f_exp = np.append(observed[common], rest[0]), np.append(expected[common], rest[1])
    if f_exp[-1] < 5:
        f_obs, f_exp = f_obs[:-1], f_exp[:-1] * f_obs[:-1].sum() / f_exp[:-1].sum()
    assert chisquare(f_obs, f_exp * f_obs.sum() / f_exp.sum()).pvalue > 1e-3


def test_two_tokens_are_drawn_independently(tiny):
    prefix = tuple(range(20, 40))
    pairs = [c.token_ids for c in tiny.generate(
        [Request(str(i), prefix) for i in range(3000)], Sampling(temperature=2.0, max_tokens=2)
    )]  # fmt: skip
    first = Counter(p[0] for p in pairs).most_common(1)[0][0]
    second = Counter(p[1] for p in pairs if p[0] == first and len(p) == 2)
    n = sum(second.values())
    (scored,) = tiny.score([(*prefix, first)], top=1, sampling=Sampling(temperature=2.0), starts=[21])
    top = int(scored.top_ids[-1, 0])
    (policy,) = tiny.score([(*prefix, first, top)], sampling=Sampling(temperature=2.0), starts=[21])
    p = float(policy.policy[-2])
    assert abs(second[top] / n - p) < 4 * (p * (1 - p) / n) ** 0.5 + 1e-9


def some_requests(n: int) -> list[Request]:
    trunk = np.random.default_rng(0).integers(2, 400, 60).tolist()
    return [Request(f"r{i}", (*trunk[: 1 + i % 50], 5 + i % 7)) for i in range(n)]


def test_same_tokens_alone_in_a_batch_and_after_a_restart(lab):
    sampling = Sampling(temperature=1.0, max_tokens=40, seed=7)
    requests = some_requests(500)
    together = {c.key: c.token_ids for c in lab.generate(requests, sampling)}
    again = {c.key: c.token_ids for c in lab.generate(requests[::-1], sampling)}
    assert together == again
    for request in requests[::61]:
        (alone,) = lab.generate([request], sampling)
        assert alone.token_ids == together[request.key]
    other = {c.key: c.token_ids for c in lab.generate(requests, Sampling(temperature=1.0, max_tokens=40, seed=8))}
    assert other != together


def test_few_slots_refill_and_give_the_same_tokens(lab):
    sampling = Sampling(temperature=1.0, max_tokens=30)
    requests = some_requests(120)
    wide = {c.key: c.token_ids for c in lab.generate(requests, sampling)}
    groups = memory_for_slots(lab, requests, sampling, 13)
    narrow = TrunkDecoder(lab.model, stops(lab), lab.ends, sampling, groups)
    assert {c.key: c.token_ids for c in narrow.run(requests)} == wide


def stops(engine):
    from forkpoint.engines.stopping import StopCheck

    return StopCheck(engine.tokenizer, ())


def memory_for_slots(engine, requests, sampling, slots: int) -> int:
    """A budget under which exactly `slots` branches are live at once."""
    from forkpoint.engines.trunks import group_requests

    groups = group_requests(requests)
    low, high = 1, 2**34
    while low < high:
        middle = (low + high) // 2
        try:
            fits = memory.live_branches(engine.model, groups, sampling.max_tokens, middle) >= slots
        except UserError:
            fits = False
        low, high = (low, middle) if fits else (middle + 1, high)
    assert memory.live_branches(engine.model, groups, sampling.max_tokens, low) == slots
    return low


def test_out_of_memory_is_retried_smaller(lab, monkeypatch):
    from forkpoint.engines import decoding_loop

    sampling = Sampling(temperature=1.0, max_tokens=20)
    requests = some_requests(100)
    expected = {c.key: c.token_ids for c in lab.generate(requests, sampling)}
    sizes = []

    def scarce(model, cache, tokens):
        sizes.append(len(tokens))
        if len(tokens) > 30:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, cache, tokens)

    real = decoding_loop.trunk_step
    monkeypatch.setattr(decoding_loop, "trunk_step", scarce)
    assert {c.key: c.token_ids for c in lab.generate(requests, sampling)} == expected
    assert sizes[:3] == [100, 50, 25]


def test_a_budget_too_small_for_one_response_says_so(lab):
    with pytest.raises(UserError, match="more than the memory budget"):
        list(TrunkDecoder(lab.model, stops(lab), lab.ends, Sampling(max_tokens=100), 1000).run(some_requests(3)))


def test_broken_weights_are_one_sentence_naming_the_request(tokenizer):
    from tiny_models import build_model, tiny_config

    from forkpoint.engines import load_engine

    model = build_model(tiny_config(tokenizer))
    engine = load_engine(model, tokenizer)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="request 'r0'"):
        list(engine.generate(some_requests(1), Sampling()))
    with pytest.raises(UserError, match="NaN"):
        list(engine.score([(3, 4)]))


@pytest.mark.parametrize(("prefix", "message"), [
    ((), "empty prompt"), ((5, 10**6), "outside the vocabulary"), ((5,) * 600, "reads at most 512"),
])  # fmt: skip
def test_impossible_prompts_are_refused(tiny, prefix, message):
    with pytest.raises(UserError, match=message):
        list(tiny.generate([Request("p", prefix)], Sampling()))


def test_repeated_keys_are_refused(tiny):
    with pytest.raises(UserError, match="same key"):
        list(tiny.generate([Request("p", (5,)), Request("p", (6,))], Sampling()))


def test_stop_strings_end_a_response_and_are_not_in_its_text(lab):
    prompt = tuple(
        lab.tokenizer("Q: Tom has 5 apples. Tom buys 3 more. How many apples does Tom have now?\nA:")["input_ids"]
    )
    (free,) = lab.generate([Request("a", prompt)], Sampling(temperature=0, max_tokens=60))
    (cut,) = lab.generate([Request("a", prompt)], Sampling(temperature=0, max_tokens=60, stop=("answer",)))
    assert "answer" in free.text
    assert cut.finish_reason == "stop"
    assert cut.text == free.text[: free.text.index("answer")]
    assert cut.token_ids == free.token_ids[: len(cut.token_ids)]
