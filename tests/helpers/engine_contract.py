"""What every engine owes its callers, as tests. A module runs them by subclassing `EngineContract` with an `engine`.

The engine runs the lab model; `lab`, the transformers engine on the same weights, is what it is held to. `CLOSE` is how
far its numbers may be off, `EXACT` whether results are the same to the last bit in any company.
"""

from __future__ import annotations

import json
from collections import Counter
from operator import attrgetter
from typing import Any, ClassVar

import numpy as np
import pytest
from scipy.stats import chisquare

from forkpoint.curves.critical_tokens import CriticalConfig, find_critical
from forkpoint.engines import Engine
from forkpoint.tasks import load_problems, render_prompt
from forkpoint.text import decode
from forkpoint.trajectories.rows import load_trajectories
from forkpoint.types import Request, Sampling, UserError

GREEDY = Sampling(temperature=0.0, max_tokens=80)
DRAWS = 1500
POLICIES = [
    Sampling(temperature=1.0, max_tokens=1),
    Sampling(temperature=2.0, top_p=0.8, max_tokens=1),
    Sampling(temperature=2.0, top_k=4, max_tokens=1),
    Sampling(temperature=2.0, min_p=0.1, max_tokens=1),
    Sampling(temperature=2.0, top_n_sigma=1.0, max_tokens=1),
]


def prompts(engine: Engine, n: int, style: str = "plain") -> list[tuple[int, ...]]:
    return [render_prompt(p, style, engine.tokenizer) for p in load_problems("lab", limit=n)]


def requests(engine: Engine, n: int, style: str = "plain") -> list[Request]:
    return [Request(f"problem {i}", prompt) for i, prompt in enumerate(prompts(engine, n, style))]


def generated(engine: Engine, asked: list[Request], sampling: Sampling) -> dict[str, Any]:
    return {c.key: c for c in engine.generate(asked, sampling)}


def columns_of(scored: Any) -> dict[str, np.ndarray]:
    names = ("logprobs", "entropy", "gaps", "policy", "top_logprobs", "top_policy")
    return {name: getattr(scored, name) for name in names}


def assert_same(ours: Any, expected: Any) -> None:
    """Completions of the same tokens, text and end."""
    parts = attrgetter("token_ids", "text", "finish_reason")
    assert parts(ours) == parts(expected)


class EngineContract:
    """Subclass it with a fixture `engine`."""

    CLOSE: ClassVar[float] = 2e-4
    EXACT: ClassVar[bool] = False

    def test_its_attributes(self, engine: Engine, lab: Engine) -> None:
        assert (engine.name, engine.ends, engine.vocab_size) == (lab.name, lab.ends, lab.vocab_size)
        assert 1 <= engine.most_top <= engine.vocab_size
        assert 0 <= lab.context - engine.context <= 1
        json.dumps(dict(engine.settings))
        assert list(engine.generate([], GREEDY)) == list(engine.score([])) == []
        results = engine.map(lambda one, item: (one.name, 2 * item), [3, 1, 2])
        assert list(results) == [(engine.name, 2 * i) for i in (3, 1, 2)]

    def test_greedy_responses_are_those_of_transformers(self, engine: Engine, lab: Engine) -> None:
        asked = requests(engine, 12) + [Request(f"cot {r.key}", r.prefix) for r in requests(engine, 12, "cot")]
        ours, expected = generated(engine, asked, GREEDY), generated(lab, asked, GREEDY)
        assert ours.keys() == expected.keys()
        for key, one in ours.items():
            assert_same(one, expected[key])
            np.testing.assert_allclose(one.logprobs, expected[key].logprobs, atol=self.CLOSE)
            np.testing.assert_allclose(one.gaps, expected[key].gaps, atol=self.CLOSE)
        (short,) = engine.generate(asked[:1], Sampling(temperature=0.0, max_tokens=3))
        assert (short.token_ids, short.finish_reason) == (expected[asked[0].key].token_ids[:3], "length")

    @pytest.mark.parametrize("sampling", POLICIES)
    def test_samples_follow_the_policy(self, engine: Engine, lab: Engine, sampling: Sampling) -> None:
        (prefix,) = prompts(engine, 1)
        asked = [Request(f"draw {i}", prefix) for i in range(DRAWS)]
        drawn = Counter(c.token_ids[0] for c in engine.generate(asked, sampling))
        (scored,) = lab.score([prefix], top=lab.vocab_size, sampling=sampling, starts=[len(prefix)])
        expected = scored.top_policy[-1].astype(np.float64) * DRAWS
        observed = np.array([drawn[int(token)] for token in scored.top_ids[-1]], dtype=np.float64)
        assert observed[expected == 0].sum() == 0
        common = expected >= 5
        o, e = (np.append(x[common], x[~common].sum()) for x in (observed, expected))
        if e[-1] < 5:
            o, e = np.append(o[:-2], o[-2:].sum()), np.append(e[:-2], e[-2:].sum())
        assert len(o) > 1
        assert chisquare(o, e * o.sum() / e.sum()).pvalue > 1e-4

    def test_draws_belong_to_the_request(self, engine: Engine) -> None:
        sampling = Sampling(temperature=1.0, max_tokens=40, seed=3)
        asked = [Request(f"{r.key}#{i}", r.prefix) for r in requests(engine, 6, "cot") for i in range(4)]
        together = {key: c.token_ids for key, c in generated(engine, asked, sampling).items()}
        some = {key: c.token_ids for key, c in generated(engine, asked[::-5], sampling).items()}
        same = sum(together[key] == ids for key, ids in some.items())
        assert same == len(some) if self.EXACT else same >= len(some) - 1  # a draw at an edge may fall either way
        assert any(len({together[f"problem {n}#{i}"] for i in range(4)}) > 1 for n in range(6))
        other = generated(engine, asked, Sampling(temperature=1.0, max_tokens=40, seed=4))
        assert {key: c.token_ids for key, c in other.items()} != together

    def test_log_probabilities_of_samples_are_raw(self, engine: Engine, lab: Engine) -> None:
        sampling = Sampling(temperature=2.0, top_p=0.9, max_tokens=20)
        asked = requests(engine, 5, "cot")
        for key, one in generated(engine, asked, sampling).items():
            prefix = next(r.prefix for r in asked if r.key == key)
            (scored,) = lab.score([(*prefix, *one.token_ids)], starts=[len(prefix)])
            rows = slice(len(prefix), len(prefix) + len(one.token_ids))
            np.testing.assert_allclose(one.logprobs, scored.logprobs[rows], atol=self.CLOSE)
            np.testing.assert_allclose(one.gaps, scored.gaps[rows], atol=self.CLOSE)

    @pytest.mark.parametrize("sampling", [
        None, Sampling(), Sampling(temperature=0.7), Sampling(temperature=1.4), Sampling(temperature=1.3, top_p=0.7),
        Sampling(temperature=2.0, top_k=5), Sampling(temperature=3.0, top_n_sigma=1.0),
    ])  # fmt: skip
    def test_scores_are_those_of_transformers(self, engine: Engine, lab: Engine, sampling: Sampling | None) -> None:
        greedy = generated(lab, requests(lab, 6), GREEDY)
        sequences = [(*r.prefix, *greedy[r.key].token_ids) for r in requests(lab, 6)]
        starts = [len(r.prefix) for r in requests(lab, 6)]
        starts[0], starts[-1] = 1, len(sequences[-1])
        top = min(8, engine.most_top)
        both = (e.score(sequences, top=top, sampling=sampling, starts=starts) for e in (engine, lab))
        for one, other, start in zip(*both, starts, strict=True):
            assert (one.top_ids[start:, 0] == other.top_ids[start:, 0]).all()
            assert np.isnan(one.logprobs[:start]).all()
            for name, column in columns_of(one).items():
                np.testing.assert_allclose(column, columns_of(other)[name], atol=self.CLOSE, err_msg=name)

    def test_stop_strings(self, engine: Engine, lab: Engine) -> None:
        asked = requests(engine, 4, "cot")
        stop = Sampling(temperature=0.0, max_tokens=80, stop=(" answer", "zzz"))
        ours, expected = generated(engine, asked, stop), generated(lab, asked, stop)
        free = generated(lab, asked, GREEDY)
        for key, one in ours.items():
            assert_same(one, expected[key])
            assert one.text == free[key].text.partition(" answer")[0]
            assert one.token_ids == free[key].token_ids[: len(one.token_ids)]
        assert any(" answer" in decode(engine.tokenizer, c.token_ids) for c in ours.values())

    def test_a_stop_string_may_begin_in_what_is_written_already(self, engine: Engine, lab: Engine) -> None:
        (request,) = requests(engine, 1)
        (whole,) = lab.generate([request], GREEDY)
        text = decode(lab.tokenizer, whole.token_ids)
        stop = (text[len(decode(lab.tokenizer, whole.token_ids[:1])) - 2 : len(text) // 2],)
        sampling = Sampling(temperature=0.0, max_tokens=80, stop=stop)
        begun = Request("begun", (*request.prefix, whole.token_ids[0]), written=1)
        (one,), (other,) = engine.generate([begun], sampling), lab.generate([begun], sampling)
        assert_same(one, other)
        assert one.finish_reason == "stop"
        assert stop[0] not in one.text

    def test_written_tokens_are_part_of_the_response(self, engine: Engine, lab: Engine) -> None:
        (request,) = requests(engine, 1, "cot")
        (whole,) = lab.generate([request], Sampling(temperature=0.0, max_tokens=7))
        begun = Request("begun", (*request.prefix, *whole.token_ids[:3]), written=3)
        (rest,) = engine.generate([begun], Sampling(temperature=0.0, max_tokens=7))
        assert (whole.token_ids[:3] + rest.token_ids, rest.text) == (whole.token_ids, whole.text)

    @pytest.mark.parametrize(("asked", "sampling", "words"), [
        ([Request("a", ())], GREEDY, "empty prompt"),
        ([Request("a", (5,)), Request("a", (6,))], GREEDY, "same key"),
        ([Request("a", (5, 10**6))], GREEDY, "outside the vocabulary"),
        ([Request("a", (5,) * 5000)], GREEDY, "reads at most"),
        ([Request("a", (5,) * 90, written=80)], GREEDY, "80 of at most 80 tokens already"),
        ([Request("a", (5,))], Sampling(temperature=-1.0), "temperature must be"),
        ([Request("a", (5,))], Sampling(top_p=float("nan")), "top_p must be"),
        ([Request("a", (5,))], Sampling(stop=("",)), "stop string must not be empty"),
    ])  # fmt: skip
    def test_bad_requests_are_refused_before_anything_runs(self, engine, asked, sampling, words) -> None:
        with pytest.raises(UserError, match=words):
            engine.generate(asked, sampling)

    def test_bad_scoring_is_refused(self, engine: Engine) -> None:
        for sequence, options, words in (
            ((), {}, "empty prompt"),
            ((5, 10**6), {}, "outside the vocabulary"),
            ((5,) * 5000, {}, "reads at most"),
            ((5, 6, 7), {"starts": [4]}, "cannot start at 4"),
            ((5, 6, 7), {"top": engine.most_top + 1}, "top tokens were asked for"),
            ((5, 6, 7), {"sampling": Sampling(temperature=-1.0)}, "temperature must be"),
        ):
            with pytest.raises(UserError, match=words):
                engine.score([sequence], **options)

    def test_it_goes_on_after_an_iterator_is_dropped(self, engine: Engine) -> None:
        asked = [Request(f"{r.key}#{i}", r.prefix) for r in requests(engine, 4, "cot") for i in range(20)]
        first = engine.generate(asked, Sampling(max_tokens=60))
        next(first)
        first.close()  # type: ignore[attr-defined]
        assert len(generated(engine, asked[:10], GREEDY)) == 10

    def test_two_iterators_at_a_time(self, engine: Engine) -> None:
        asked = requests(engine, 8)
        alone = {key: c.token_ids for key, c in generated(engine, asked, GREEDY).items()}
        first, second = engine.generate(asked, GREEDY), engine.generate(asked, GREEDY)
        mixed = [next(first), next(second), next(first), *engine.generate(asked[:2], GREEDY), *first, *second]
        assert Counter(c.key for c in mixed) == Counter({r.key: 2 + (r in asked[:2]) for r in asked})
        assert all(alone[c.key] == c.token_ids for c in mixed)

    def test_critical_tokens_agree_with_transformers(self, engine: Engine, lab: Engine, tmp_path) -> None:
        search = CriticalConfig(sampling=Sampling(max_tokens=160, seed=1), budget=256, until="budget")
        problems = load_problems("lab", limit=3)
        own = find_critical(lab, problems, search, tmp_path / "lab")
        rows = [json.loads(line) for line in (tmp_path / "lab/critical.jsonl").open()]
        assert own["n_trajectories"] == len(rows) > 0
        same = load_trajectories(tmp_path / "lab/critical.jsonl", problems, engine, ())
        find_critical(engine, problems, search, tmp_path / "engine", trajectories=same)
        for one, row in zip(map(json.loads, (tmp_path / "engine/critical.jsonl").open()), rows, strict=True):
            assert one["token_ids"] == row["token_ids"]
            np.testing.assert_allclose(one["policy_prob"], row["policy_prob"], atol=self.CLOSE)
            pairs = zip(one["success_ci"], row["success_ci"], strict=True)
            apart = [not (a[0] <= b[1] and b[0] <= a[1]) for a, b in pairs]
            assert np.mean(apart) <= 0.05, f"success curves of {row['id']} lie apart"
