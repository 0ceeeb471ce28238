"""CoT-decoding against a slow direct computation, and each of its options."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from tiny_models import build_model, tiny_config

import forkpoint
from forkpoint.decoding import cot
from forkpoint.decoding.cot import Fork, choose_path, continue_forks, decode_cases, drop_unusable, dropped_counts
from forkpoint.decoding.outcome import Case, Path
from forkpoint.engines import load_engine
from forkpoint.lab.problems import load_problems
from forkpoint.tasks import render_prompt
from forkpoint.types import Sampling, UserError

GREEDY = Sampling(temperature=0, max_tokens=120, stop=("\n\nQ:", "\nQ:"))
OPTIONS = {"k": 10, "aggregate": False, "span": "extract", "position": "0"}


@pytest.fixture(scope="module")
def cases(lab):
    return [Case(p.id, render_prompt(p, "plain", lab.tokenizer)) for p in load_problems(limit=12)]


def slow_paths(lab, prompt, k: int):
    """Each path and its Δ by plain forward passes, one token at a time, and text search over token boundaries."""
    model, tokenizer = lab.model, lab.tokenizer
    first = model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
    for token in first.topk(k).indices.tolist():
        tokens, gaps = [], []
        probs = first
        following = token
        while True:
            top = probs.topk(2).values
            gaps.append(float(top[0] - top[1]))
            tokens.append(following)
            if following == tokenizer.eos_token_id or len(tokens) == GREEDY.max_tokens:
                break
            probs = model(torch.tensor([[*prompt, *tokens]])).logits[0, -1].softmax(-1)
            following = int(probs.argmax())
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        numbers = list(re.finditer(r"\d+", text))
        delta = None
        if numbers and following == tokenizer.eos_token_id:
            ends = [len(tokenizer.decode(tokens[: i + 1], skip_special_tokens=True)) for i in range(len(tokens))]
            starts = [0, *ends[:-1]]
            start, end = numbers[-1].span()
            delta = np.mean([g for g, a, b in zip(gaps, starts, ends, strict=True) if a < end and b > start])
        yield tuple(tokens), numbers[-1].group() if numbers else None, delta


@torch.inference_mode()
def test_paths_and_deltas_equal_a_slow_direct_computation(lab, cases):
    for case, found in zip(cases[:3], decode_cases(lab, cases[:3], GREEDY, **OPTIONS), strict=True):
        slow = list(slow_paths(lab, case.prompt, 10))
        assert [p.token_ids for p in found.paths] == [tokens for tokens, _, _ in slow]
        for path, (_, answer, delta) in zip(found.paths, slow, strict=True):
            if delta is not None:
                assert path.answer == answer
                assert path.confidence == pytest.approx(delta, abs=1e-4)
        best = max((d for _, _, d in slow if d is not None))
        assert found.paths[found.chosen].confidence == pytest.approx(best, abs=1e-4)


def test_k_1_is_greedy(lab, cases):
    greedy = [c.token_ids for c in generate(lab, cases)]
    found = decode_cases(lab, cases, GREEDY, **OPTIONS | {"k": 1})
    assert [o.paths[0].token_ids for o in found] == greedy
    assert all(o.chosen == 0 for o in found)


def generate(lab, cases):
    from forkpoint.types import Request

    done = {c.key: c for c in lab.generate([Request(c.id, c.prompt) for c in cases], GREEDY)}
    return [done[c.id] for c in cases]


def test_tokens_generated_leave_out_the_forced_ones(lab, cases):
    (found,) = decode_cases(lab, cases[:1], GREEDY, **OPTIONS)
    assert found.tokens_generated == sum(len(p.token_ids) - 1 for p in found.paths)


@pytest.mark.parametrize("position", ["3", "entropy:2"])
def test_branching_elsewhere_keeps_the_greedy_path_up_to_there(lab, cases, position):
    greedy = generate(lab, cases)
    found = decode_cases(lab, cases, GREEDY, **OPTIONS | {"k": 4, "position": position})
    for outcome, path in zip(found, greedy, strict=True):
        assert len(outcome.paths) == 4 * (2 if position.startswith("e") else 1)
        assert outcome.paths[0].token_ids == path.token_ids
        if position == "3":
            at = min(3, len(path.token_ids) - 1)
            assert {p.token_ids[:at] for p in outcome.paths} == {path.token_ids[:at]}
            assert len({p.token_ids[at] for p in outcome.paths}) == 4


def test_entropy_positions_are_those_of_highest_entropy(lab, cases):
    forks, _ = cot.find_forks(lab, cases[:4], GREEDY, 3, "entropy:2")
    for case, its, path in zip(cases[:4], forks, generate(lab, cases[:4]), strict=True):
        logits = lab.model(torch.tensor([[*case.prompt, *path.token_ids]])).logits[0, len(case.prompt) - 1 : -1]
        p = logits.softmax(-1)
        entropy = -(p * p.clamp(min=1e-30).log()).sum(-1)
        assert [len(f.before) for f in its] == sorted(entropy.topk(2).indices.tolist())


def test_continuation_reads_the_answer_after_the_appended_words(lab, cases):
    found = decode_cases(lab, cases, GREEDY, **OPTIONS | {"span": "continuation"})
    located = [p for o in found for p in o.paths if p.dropped is None]
    assert located
    for path in located:
        assert path.continuation.startswith(" So the answer is")
        start, end = path.span
        spelt = lab.tokenizer.decode(path.token_ids[start:end])
        assert path.answer in spelt
        assert path.confidence == pytest.approx(np.mean(path.gaps[start:end]))
    for path in (p for o in found for p in o.paths if p.dropped == "not aligned"):
        assert not re.search(rf"(?<![\d.]){path.answer}(?![\d])", path.text)


def path(answer, confidence, **more):
    return Path((5,), (0.5,), f"so {answer}", "stop", answer=answer, confidence=confidence, **more)


def test_max_takes_the_surest_path_and_aggregate_the_heaviest_answer():
    paths = [path("7", 0.6), path("1,000", 0.5), path("1000.0", 0.4), path(None, None)]
    best = choose_path(Case("c", (1,)), paths, aggregate=False)
    assert best.chosen == 0
    assert best.response == "so 7"
    summed = choose_path(Case("c", (1,)), paths, aggregate=True)
    assert summed.chosen == 1
    assert summed.votes == pytest.approx({"7": 0.6, "1,000": 0.9})
    assert summed.paths[3].dropped == "no answer"


def test_filters_name_their_reason_and_the_greedy_path_remains():
    usable = drop_unusable(Path((5,), (1.0,), "It is 4.", "stop"))
    assert usable.dropped is None
    dropped = [
        drop_unusable(Path((5,), (1.0,), text, reason))
        for text, reason in ((" \n", "stop"), ("It is 4", "length"), ("What is 4? ", "stop"))
    ]
    assert [p.dropped for p in dropped] == ["empty", "length", "question"]
    outcome = choose_path(Case("c", (1,)), dropped, aggregate=True)
    assert outcome.chosen == 0
    assert dropped_counts([outcome]) == {"empty": 1, "length": 1, "question": 1}


def test_an_end_of_sequence_token_forced_first_is_an_empty_path(lab, cases):
    (paths,) = continue_forks(lab, cases[:1], GREEDY, [[Fork((), (), 0.25, (lab.ends[0],))]])
    assert drop_unusable(paths[0]).dropped == "empty"
    assert paths[0].token_ids == (lab.ends[0],)


def test_a_one_token_answer_that_is_forced_first_has_the_prompts_own_gap(lab, cases):
    seven = lab.tokenizer("7")["input_ids"][0]
    (paths,) = continue_forks(lab, cases[:1], Sampling(temperature=0, max_tokens=1), [[Fork((), (), 0.25, (seven,))]])
    from forkpoint.decoding.sampled import read_path

    read = read_path(lab, cases[0], paths[0], ())
    assert (read.answer, read.span, read.confidence) == ("7", (0, 1), 0.25)


def test_yes_no_delta_is_the_difference_of_label_masses(tokenizer):
    engine = load_engine(build_model(tiny_config(tokenizer)), tokenizer)
    from forkpoint.decoding.yesno import label_groups, label_mass_differences

    words = tokenizer.convert_tokens_to_ids(tokenizer.tokenize("yes no"))
    groups = {"yes": (words[0], 40), "no": (words[-1], 41)}
    label_groups.cache_clear()
    prompt = tuple(range(10, 20))
    case = Case("c", prompt, "yesno")
    yes = Path((30, words[0], 31), (0.1, 0.2, 0.3), "x", "stop", answer="yes", span=(1, 2), confidence=0.2)
    original = label_groups.__wrapped__
    import forkpoint.decoding.yesno as module

    module.label_groups = lambda _: groups
    try:
        ((found,),) = label_mass_differences(engine, [case], [[yes]])
    finally:
        module.label_groups = label_groups
    assert original(tokenizer).keys() == {"yes", "no"}
    p = engine.model(torch.tensor([[*prompt, 30]])).logits[0, -1].softmax(-1)
    expected = sum(p[i] for i in groups["yes"]) - sum(p[i] for i in groups["no"])
    assert found.confidence == pytest.approx(float(expected), abs=1e-5)


def test_the_public_function_takes_texts(lab):
    prompts = ["Q: Tom has 5 apples. Tom buys 3 more. How many apples does Tom have now?\nA:"]
    (found,) = forkpoint.cot_decode(lab, prompts, k=5)
    assert len(found.paths) == 5
    assert found.paths[found.chosen].answer == "8"


@pytest.mark.parametrize("options", [{"k": 0}, {"span": "words"}, {"position": "last"}, {"position": "entropy:0"}])
def test_options_out_of_range_are_one_sentence(lab, options):
    with pytest.raises(UserError, match="cot-decoding"):
        forkpoint.cot_decode(lab, ["Q: x\nA:"], **options)
