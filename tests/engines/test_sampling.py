"""Sampled tokens: the right distribution, and the same tokens whatever else is going on."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from tiny_models import build_model, tiny_config

from forkpoint.engines import load_engine
from forkpoint.engines.local import decoding_loop, scoring
from forkpoint.engines.local.decoding_loop import TrunkDecoder
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
    expected = np.array([s.policy[-2] for s in policies], dtype=np.float64) * n
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


@pytest.mark.parametrize("n_slots", [1, 7, 13, 64])
def test_few_slots_refill_and_give_the_same_tokens(lab, n_slots, monkeypatch):
    sampling = Sampling(temperature=1.0, max_tokens=30)
    requests = some_requests(120)
    wide = {c.key: c.token_ids for c in lab.generate(requests, sampling)}
    monkeypatch.setattr(decoding_loop, "live_branches", lambda *_: n_slots)
    assert {c.key: c.token_ids for c in lab.generate(requests, sampling)} == wide


@pytest.mark.parametrize("seed", range(5))
def test_branches_of_unequal_own_lengths_and_ends_run_through(tiny, seed, monkeypatch):
    monkeypatch.setattr(decoding_loop, "live_branches", lambda *_: 20)
    trunk = tuple(range(30, 60))
    requests = [Request(f"short{i}", (*trunk[:20], 5 + i)) for i in range(6)]
    requests += [Request(f"long{i}", (*trunk, 5, 6, 7 + i)) for i in range(30)]
    sampling = Sampling(temperature=1.5, max_tokens=12, seed=seed)
    done = {c.key: c for c in tiny.generate(requests, sampling)}
    assert done.keys() == {r.key for r in requests}
    for request in requests[::7]:
        (alone,) = tiny.generate([request], sampling)
        assert alone.token_ids == done[request.key].token_ids


def test_one_large_and_many_small_groups_make_no_large_grid(tiny):
    from forkpoint.engines.local.trunks import by_size, group_requests

    requests = [Request(f"a{i}", (5, 6, 7, 10 + i)) for i in range(100)]
    requests += [Request(f"b{i}", tuple(range(50 + i, 70 + i))) for i in range(100)]
    for groups in by_size(group_requests(requests)):
        n = sum(len(g.branches) for g in groups)
        assert len(groups) * max(len(g.branches) for g in groups) <= 2 * n
    assert len(list(tiny.generate(requests, Sampling(max_tokens=3)))) == 200


def test_written_tokens_count_as_the_response(lab):
    prompt = tuple(
        lab.tokenizer("Q: Tom has 5 apples. Tom buys 3 more. How many apples does Tom have now?\nA:")["input_ids"]
    )
    greedy = Sampling(temperature=0, max_tokens=12)
    (whole,) = lab.generate([Request("a", prompt)], greedy)
    head = whole.token_ids[:4]
    (rest,) = lab.generate([Request("b", (*prompt, *head), written=4)], greedy)
    assert head + rest.token_ids == whole.token_ids
    assert rest.text == whole.text
    with pytest.raises(UserError, match="has 12 of at most 12"):
        list(lab.generate([Request("c", prompt, written=12)], greedy))


def test_ids_beyond_the_tokenizer_spell_nothing(tokenizer):
    model = build_model(tiny_config(tokenizer, vocab_size=len(tokenizer) + 200))
    engine = load_engine(model, tokenizer)
    requests = [Request(str(i), (5, 6)) for i in range(50)]
    done = list(engine.generate(requests, Sampling(temperature=3.0, max_tokens=20, stop=("\nQ:",))))
    assert max(max(c.token_ids) for c in done) >= len(tokenizer)


def test_two_threads_share_an_engine(tiny):
    requests = some_requests(40)
    expected = {c.key: c.token_ids for c in tiny.generate(requests, Sampling(max_tokens=20))}
    sequences = [r.prefix for r in requests]
    scores = [s.entropy[1:].tolist() for s in tiny.score(sequences)]
    with ThreadPoolExecutor(2) as pool:
        generating = pool.submit(lambda: {c.key: c.token_ids for c in tiny.generate(requests, Sampling(max_tokens=20))})
        scoring = pool.submit(lambda: [s.entropy[1:].tolist() for s in tiny.score(sequences)])
        assert generating.result() == expected
        assert scoring.result() == scores


def test_threads_that_begin_new_trunks_do_not_disturb_each_other(tiny):
    def generate(i: int) -> list[tuple[int, ...]]:
        asked = [Request(f"{i}/{j}", tuple(range(5 + i, 30 + i + j))) for j in range(6)]
        return [c.token_ids for c in sorted(tiny.generate(asked, Sampling(temperature=0, max_tokens=5)),
                                            key=lambda c: c.key)]  # fmt: skip

    alone = [generate(i) for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(generate, range(40))) == alone


def test_a_long_sequence_is_scored_in_pieces(tiny, monkeypatch):
    sequences = [tuple(range(5, 205)), (9, 8, 7), tuple(range(50, 80))]
    whole = list(tiny.score(sequences, top=2))
    monkeypatch.setattr(scoring, "rows_that_fit", lambda *_: 37)
    for a, b in zip(whole, tiny.score(sequences, top=2), strict=True):
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)
        np.testing.assert_array_equal(a.top_ids, b.top_ids)


def stops(engine):
    from forkpoint.text import StopCheck

    return StopCheck(engine.tokenizer, (), engine.ends, engine.vocab_size)


def test_out_of_memory_is_retried_smaller(lab, monkeypatch):
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
        list(TrunkDecoder(lab.model, stops(lab), Sampling(max_tokens=100), 1000).run(some_requests(3)))


def test_broken_weights_are_one_sentence_naming_the_request(tokenizer):
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
