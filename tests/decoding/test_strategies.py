"""Strategy specs, votes, and the strategies without branching."""

from __future__ import annotations

import numpy as np
import pytest

from forkpoint.decoding.outcome import Case
from forkpoint.decoding.strategies import parse_strategy
from forkpoint.decoding.voting import count_votes
from forkpoint.lab.problem_generator import load_problems
from forkpoint.tasks import render_prompt
from forkpoint.types import UserError


def test_a_spec_sets_options_and_sampling():
    s = parse_strategy("self-consistency:n=5,temperature=0.7,top_n_sigma=1,p_less=true")
    assert s.options == {"n": 5}
    assert (s.sampling.temperature, s.sampling.top_n_sigma, s.sampling.p_less) == (0.7, 1.0, True)
    options = {"k": 3, "aggregate": True, "span": "extract", "position": "entropy:2"}
    assert parse_strategy("cot-decoding:k=3,aggregate=true,position=entropy:2").options == options
    s = parse_strategy("sample:max_tokens=7").with_defaults(max_tokens=100, seed=3)
    assert (s.sampling.max_tokens, s.sampling.seed) == (7, 3)  # defaults fill what the spec left open
    s = parse_strategy("sample:temperature=1,min_p=0.1").with_option("temperature", "3")
    assert (s.spec, s.sampling.temperature) == ("sample:min_p=0.1,temperature=3", 3)


@pytest.mark.parametrize(("spec", "message"), [
    ("gredy", "did you mean 'greedy'"), ("cot-decoding:kk=3", "did you mean 'k'"),
    ("greedy:temperature=1", "no option 'temperature'"), ("sample:temperature", "has no value"),
    ("sample:temperature=hot", "must be a number"), ("sample:n=1.5", "must be a whole number"),
    ("sample:p_less=maybe", "true or false"), ("sample:n=0", "at least 1"), ("sample:temperature=-1", "temperature"),
    ("sample:temperature=1,temperature=2", "twice"), ("pass@k:k=9,n=4", "k of at most n"),
    ("cot-decoding:span=words", "extract or continuation"), ("self-consistency:temperature=0", "equal responses"),
])  # fmt: skip
def test_a_wrong_spec_is_one_sentence(spec, message):
    with pytest.raises(UserError, match=message):
        parse_strategy(spec)


def test_votes_merge_equal_answers_and_ties_go_to_the_first():
    assert count_votes(["1,000", "7", None, "1000.0", "7"], [1] * 5, "number") == ({"1,000": 2, "7": 2}, [0, 3])
    assert count_votes(["2", "x+1", "1+x"], [1, 1, 0.5], "math") == ({"2": 1, "x+1": 1.5}, [1, 2])
    assert count_votes([None], [1], "yesno") == ({}, [])


@pytest.fixture(scope="module")
def cases(lab):
    return [Case(p.id, render_prompt(p, "cot", lab.tokenizer)) for p in load_problems(limit=20)]


def solve(lab, cases, spec):
    return parse_strategy(spec).with_defaults(max_tokens=120, stop=("\n\nQ:",)).solve(lab, cases)


@pytest.mark.parametrize("spec", ["sample:temperature=0", "beam:beams=1", "cot-decoding:k=1"])
def test_what_is_greedy(lab, cases, spec):
    greedy, same = (solve(lab, cases[:5], name) for name in ("greedy", spec))
    assert [o.paths[0].token_ids for o in greedy] == [o.paths[0].token_ids for o in same]
    assert [o.response for o in greedy] == [o.response for o in same]


def test_self_consistency_takes_the_most_frequent_answer(lab, cases):
    for outcome in solve(lab, cases, "self-consistency:n=12"):
        counts = {a: sum(p.answer == a for p in outcome.paths) for a in {p.answer for p in outcome.paths} - {None}}
        assert outcome.votes == counts
        assert counts[outcome.paths[outcome.chosen].answer] == max(counts.values())


def test_samples_of_a_case_differ_and_do_not_depend_on_the_other_cases(lab, cases):
    together = solve(lab, cases, "sample:n=6,temperature=1")
    alone = solve(lab, cases[3:4], "sample:n=6,temperature=1")
    assert [p.token_ids for p in together[3].paths] == [p.token_ids for p in alone[0].paths]
    np.testing.assert_allclose(together[3].paths[0].gaps, alone[0].paths[0].gaps, atol=1e-4)
    assert len({p.token_ids for p in together[3].paths}) > 1
