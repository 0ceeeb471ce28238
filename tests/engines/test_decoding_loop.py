"""Decoding over shared trunks: the same tokens whatever else is going on."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import build_model, tiny_config

from forkpoint.engines import load_engine
from forkpoint.engines.local import decoding_loop
from forkpoint.engines.local.branches import MAX_OWN, by_size, group_requests
from forkpoint.types import Request, Sampling, UserError


def some_requests(n: int) -> list[Request]:
    trunk = np.random.default_rng(0).integers(2, 400, 60).tolist()
    return [Request(f"r{i}", (*trunk[: 1 + i % 50], 5 + i % 7, *range(9, 9 + i % 3))) for i in range(n)]


def tokens(engine, requests: list[Request], sampling: Sampling) -> dict[str, tuple[int, ...]]:
    return {c.key: c.token_ids for c in engine.generate(requests, sampling)}


prefixes = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=20).map(tuple), min_size=1, max_size=30)


@given(prefixes)
def test_every_request_is_a_branch_of_exactly_one_trunk(prefixes):
    requests = [Request(str(i), prefix) for i, prefix in enumerate(prefixes)]
    branches = [(group, branch) for group in group_requests(requests) for branch in group.branches]
    assert sorted(b.request.key for _, b in branches) == sorted(r.key for r in requests)
    for group, branch in branches:
        assert group.trunk[: branch.depth] + branch.own == branch.request.prefix
        assert branch.depth <= len(group.trunk)
        assert 1 <= len(branch.own) <= MAX_OWN


def test_which_requests_share_a_trunk(tiny):
    trajectory = tuple(range(100, 160))
    rollouts = [Request(f"{d}/{i}", (*trajectory[:d], 7)) for d in range(60) for i in range(5)]
    assert len(group_requests(rollouts)) == 1
    prompts = [tuple(range(i, i + 30)) for i in (0, 1000, 2000)]
    groups = group_requests([Request(f"{p[0]}/{v}", (*p, v)) for p in prompts for v in range(10)])
    assert sorted((g.trunk, len(g.branches)) for g in groups) == [(p, 10) for p in prompts]
    uneven = [Request(f"a{i}", (5, 6, 7, 10 + i)) for i in range(100)]
    uneven += [Request(f"b{i}", tuple(range(50 + i, 70 + i))) for i in range(100)]
    for groups in by_size(group_requests(uneven)):  # no large grid for one large and many small ones
        sizes = [len(g.branches) for g in groups]
        assert len(sizes) * max(sizes) <= 2 * sum(sizes)
    assert len(tokens(tiny, uneven, Sampling(max_tokens=3))) == 200


def test_two_tokens_are_drawn_independently(tiny):
    prefix = tuple(range(20, 40))
    pairs = list(tokens(tiny, [Request(str(i), prefix) for i in range(3000)], Sampling(2.0, max_tokens=2)).values())
    first = Counter(p[0] for p in pairs).most_common(1)[0][0]
    second = Counter(p[1] for p in pairs if p[0] == first and len(p) == 2)
    n = sum(second.values())
    (scored,) = tiny.score([(*prefix, first)], top=1, sampling=Sampling(2.0), starts=[21])
    top, p = int(scored.top_ids[-1, 0]), float(scored.top_policy[-1, 0])
    assert abs(second[top] / n - p) < 4 * (p * (1 - p) / n) ** 0.5 + 1e-9


@pytest.mark.parametrize("n_slots", [1, 13, 64])
def test_few_slots_refill_and_give_the_same_tokens(lab, n_slots, monkeypatch):
    """With own tokens of unequal number."""
    sampling, asked = Sampling(max_tokens=30, seed=7), some_requests(120)
    assert len({len(b.own) for group in group_requests(asked) for b in group.branches}) > 1
    wide = tokens(lab, asked, sampling)
    assert tokens(lab, asked[::-1], sampling) == wide
    monkeypatch.setattr(decoding_loop, "live_branches", lambda *_: n_slots)
    assert tokens(lab, asked, sampling) == wide


def test_ids_beyond_the_tokenizer_spell_nothing(tokenizer):
    engine = load_engine(build_model(tiny_config(tokenizer, vocab_size=len(tokenizer) + 200)), tokenizer)
    requests = [Request(str(i), (5, 6)) for i in range(50)]
    done = tokens(engine, requests, Sampling(temperature=3.0, max_tokens=20, stop=("\nQ:",)))
    assert max(map(max, done.values())) >= len(tokenizer)


def test_threads_that_share_an_engine_do_not_disturb_each_other(tiny):
    def work(i: int) -> object:
        asked = [Request(f"{i}/{j}", tuple(range(5 + i, 30 + i + j))) for j in range(6)]
        scores = [s.entropy[1:].tolist() for s in tiny.score([r.prefix for r in asked])]
        return tokens(tiny, asked, Sampling(max_tokens=5)), scores

    alone = [work(i) for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(40))) == alone


def test_out_of_memory_is_retried_smaller(lab, monkeypatch):
    sampling = Sampling(max_tokens=20)
    expected = tokens(lab, some_requests(100), sampling)
    step, sizes = decoding_loop.trunk_step, []

    def scarce(model, cache, fed):
        sizes.append(len(fed))
        if len(fed) > 30:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(model, cache, fed)

    monkeypatch.setattr(decoding_loop, "trunk_step", scarce)
    assert tokens(lab, some_requests(100), sampling) == expected
    assert sizes[:3] == [100, 50, 25]


def test_plain_batches_and_scores_are_retried_smaller(lab, monkeypatch):
    sampling, requests = Sampling(max_tokens=5), [Request(str(i), (5, 6, 7 + i)) for i in range(8)]
    expected, scores = tokens(lab, requests, sampling), [s.logprobs for s in lab.score([r.prefix for r in requests])]
    forward, most = type(lab.model).forward, 3

    def scarce(self, input_ids=None, **options):
        if len(input_ids) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, input_ids=input_ids, **options)

    monkeypatch.setattr(type(lab.model), "forward", scarce)
    monkeypatch.setattr(lab, "trunk_refusal", "this test wants plain batches")
    assert tokens(lab, requests, sampling) == expected
    for ours, whole in zip(lab.score([r.prefix for r in requests]), scores, strict=True):
        np.testing.assert_allclose(ours.logprobs, whole, atol=1e-5)
    most = 0
    with pytest.raises(UserError, match="memory ran out on a single response"):
        tokens(lab, requests, sampling)


def test_a_budget_too_small_for_one_response_is_refused(lab, monkeypatch):
    monkeypatch.setattr(lab, "memory_bytes", 1000)
    with pytest.raises(UserError, match="more than the memory budget"):
        tokens(lab, some_requests(3), Sampling(max_tokens=100))


def test_broken_weights_name_the_request(tokenizer):
    model = build_model(tiny_config(tokenizer))
    engine = load_engine(model, tokenizer)
    torch.nn.init.constant_(model.model.norm.weight, float("nan"))
    with pytest.raises(UserError, match="request 'r0'"):
        tokens(engine, some_requests(1), Sampling())
    with pytest.raises(UserError, match="NaN"):
        list(engine.score([(3, 4)]))
