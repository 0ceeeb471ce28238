"""CoT-decoding against a slow direct computation, and each of its options."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from completions_server import Behaviour, CompletionsServer
from tiny_models import build_model, tiny_config
from tiny_tokenizers import llama_2

import forkpoint
from forkpoint.decoding.cot import branch, choose_path, continue_branches, decode_cases, drop_unusable
from forkpoint.decoding.cot_answers import APPENDED, label_groups, label_mass_differences, locate
from forkpoint.decoding.outcome import Case, Path, read_path
from forkpoint.decoding.strategies import parse_strategy
from forkpoint.engines import load_engine
from forkpoint.engines.remote.openai_engine import load_openai
from forkpoint.lab.problem_generator import load_problems
from forkpoint.tasks import grade, render_prompt
from forkpoint.types import Completion, Request, Sampling, UserError

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
        assert found.tokens_generated == sum(len(p.token_ids) - 1 for p in found.paths)  # without the forced ones
        for path, (_, answer, delta) in zip(found.paths, slow, strict=True):
            if delta is not None:
                assert path.answer == answer
                assert path.confidence == pytest.approx(delta, abs=1e-4)
        best = max((d for _, _, d in slow if d is not None))
        assert found.paths[found.chosen].confidence == pytest.approx(best, abs=1e-4)


def generate(lab, cases):
    done = {c.key: c for c in lab.generate([Request(c.id, c.prompt) for c in cases], GREEDY)}
    return [done[c.id] for c in cases]


@pytest.mark.parametrize("position", ["3", "entropy:2"])
def test_branching_elsewhere_keeps_the_greedy_path_up_to_there(lab, cases, position):
    greedy = generate(lab, cases)
    found = decode_cases(lab, cases, GREEDY, **OPTIONS | {"k": 4, "position": position})
    for outcome, path in zip(found, greedy, strict=True):
        assert len(outcome.paths) == (7 if position.startswith("e") else 4)  # the greedy path once
        assert len({p.token_ids for p in outcome.paths}) == len(outcome.paths)
        assert outcome.paths[0].token_ids == path.token_ids
        if position == "3":
            at = min(3, len(path.token_ids) - 1)
            assert {p.token_ids[:at] for p in outcome.paths} == {path.token_ids[:at]}
            assert len({p.token_ids[at] for p in outcome.paths}) == 4


def test_entropy_positions_are_those_of_highest_entropy(lab, cases):
    branches, _ = branch(lab, cases[:4], GREEDY, 3, "entropy:2")
    for case, heads, path in zip(cases[:4], branches, generate(lab, cases[:4]), strict=True):
        logits = lab.model(torch.tensor([[*case.prompt, *path.token_ids]])).logits[0, len(case.prompt) - 1 : -1]
        p = logits.softmax(-1)
        entropy = -(p * p.clamp(min=1e-30).log()).sum(-1)
        first, second = sorted(entropy.topk(2).indices.tolist())
        assert [len(head) - 1 for head, _ in heads] == [first] * 3 + [second] * 2  # the greedy token once


def test_continuation_reads_the_answer_after_the_appended_words(lab, cases):
    found = decode_cases(lab, cases, GREEDY, **OPTIONS | {"span": "continuation"})
    located = [p for o in found for p in o.paths if p.dropped is None]
    assert located
    for path in located:
        assert path.continuation.startswith(APPENDED)
        start, end = path.span
        spelt = lab.tokenizer.decode(path.token_ids[start:end])
        assert path.answer in spelt
        assert path.confidence == pytest.approx(np.mean(path.gaps[start:end]))
    for path in (p for o in found for p in o.paths if p.dropped == "not aligned"):
        assert not re.search(rf"(?<![\d.]){path.answer}(?![\d])", path.text)
    for outcome in found:
        if outcome.paths[outcome.chosen].dropped is None:
            assert grade(outcome.response, outcome.paths[outcome.chosen].answer).correct


def spelt(lab, text: str) -> tuple[int, ...]:
    return tuple(lab.tokenizer(text)["input_ids"])


@pytest.mark.parametrize(("kind", "path_text", "said", "answer", "aligned"), [
    ("number", " He has 18 eggs left, 18 in all, 4 white.", " 18. Then 2.", "18", "18 in"),
    ("number", " x is -18 then 7.", " 18.", "18", None),
    ("number", " It makes 1,000 here.", " 1000.", "1000", "1,000 here"),
    ("option", " The answer is (A). A car travels on.", " A.", "A", "A). A car"),
    ("math", " Nothing here.", " 5.", "5", None),
])  # fmt: skip
def test_the_continuations_answer_is_aligned_by_meaning(lab, kind, path_text, said, answer, aligned):
    case = Case("c", (5, 6), kind)
    tokens, tail_tokens = spelt(lab, path_text), spelt(lab, said)
    before = read_path(lab.tokenizer, case, Path(tokens, tuple(np.linspace(0.1, 0.9, len(tokens))), path_text, "stop"))
    tail = Completion("k", tail_tokens, (), tuple([0.5] * len(tail_tokens)), said, "stop")
    located = locate(lab, case, before, tail, (5, 6, 7))
    assert located.answer == answer
    if aligned:
        assert located.dropped is None
        assert lab.tokenizer.decode(tokens[located.span[0] :]).startswith(aligned)
        assert located.before == (5, 6, *tokens[: located.span[0]])
    elif kind == "number":
        assert located.dropped == "not aligned"
    else:
        assert (located.confidence, located.span, located.before[:3]) == (0.5, None, (5, 6, 7))


def test_a_stop_string_spelt_by_forced_tokens_ends_the_path(lab, cases):
    stop = Sampling(temperature=0, max_tokens=40, stop=(" The answer",))
    greedy = parse_strategy("greedy").with_defaults(max_tokens=40, stop=stop.stop).solve(lab, cases)
    for position in ("0", "1", "2"):
        found = decode_cases(lab, cases, stop, **OPTIONS | {"k": 1, "position": position})
        assert [o.paths[0].token_ids for o in found] == [o.paths[0].token_ids for o in greedy]
        assert [o.response for o in found] == [o.response for o in greedy]


def test_branching_late_needs_no_more_room_than_greedy(tiny):
    prompt = tuple(range(5, 45))
    sampling = Sampling(temperature=0, max_tokens=512 - len(prompt))
    (found,) = decode_cases(tiny, [Case("c", prompt)], sampling, **OPTIONS | {"k": 2, "position": "entropy:1"})
    assert max(len(p.token_ids) for p in found.paths) <= sampling.max_tokens


def test_the_first_path_is_greedy_even_at_a_tie(tokenizer):
    model = build_model(tiny_config(tokenizer, tie_word_embeddings=False))
    with torch.no_grad():
        model.lm_head.weight[7] = model.lm_head.weight[300] = 20 * model.lm_head.weight[300]
    scored = load_engine(model, tokenizer).score([(token,) for token in range(5, 200)], top=2)
    tied = {token: s.top_ids[1] for token, s in enumerate(scored, 5) if {*s.top_ids[1].tolist()} == {7, 300}}
    assert tied
    for token, top in tied.items():
        assert top[0] == int(model(torch.tensor([[token]])).logits[0, -1].argmax())


def path(answer, confidence, **more):
    return Path((5,), (0.5,), f"so {answer}", "stop", answer=answer, confidence=confidence, **more)


def test_max_takes_the_surest_path_and_aggregate_the_heaviest_answer():
    paths = [path("7", 0.6), path("1,000", 0.5), path("1000.0", 0.4), path(None, None)]
    best, summed = (choose_path(Case("c", (1,)), paths, aggregate) for aggregate in (False, True))
    assert (best.chosen, best.response) == (0, "so 7")
    assert summed.chosen == 1
    assert summed.votes == pytest.approx({"7": 0.6, "1,000": 0.9})
    assert summed.paths[3].dropped == "no answer"


def test_filters_name_their_reason_and_the_greedy_path_remains(lab, cases):
    texts = {"It is 4.": "stop", " \n": "stop", "It is 4": "length", "What is 4? ": "stop"}
    usable, *dropped = [drop_unusable(Path((5,), (1.0,), text, reason)) for text, reason in texts.items()]
    assert [p.dropped for p in (usable, *dropped)] == [None, "empty", "length", "question"]
    assert choose_path(Case("c", (1,)), dropped, aggregate=True).chosen == 0
    heads = [((lab.ends[0],), (0.25,)), (spelt(lab, "7"), (0.25,))]
    ((ended, seven),) = continue_branches(lab, cases[:1], replace(GREEDY, max_tokens=1), [heads])
    assert (ended.dropped, ended.token_ids, ended.generated) == ("empty", (lab.ends[0],), 0)
    assert (seven.text, seven.finish_reason, seven.gaps) == ("7", "length", (0.25,))
    read = read_path(lab.tokenizer, cases[0], Path(spelt(lab, "7"), (0.25,), "7", "stop"))
    assert (read.answer, read.span, read.confidence) == ("7", (0, 1), 0.25)  # the prompt's own gap


def test_the_surer_yes_or_no_wins_over_the_greedy_one(monkeypatch, tmp_path):
    """After "a" the model says yes (6 of 10), no (2 of 10) or "the", after which it is sure of no."""
    tokenizer = llama_2()
    model = build_model(tiny_config(tokenizer, initializer_range=0.02))
    the, yes, no, end = tokenizer.convert_tokens_to_ids(["▁the", "▁yes", "▁no", "</s>"])
    (first,) = tokenizer("a")["input_ids"]
    rows = torch.tensor([[first, yes, end, end]] * 6 + [[first, no, end, end]] * 2 + [[first, the, no, end]] * 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        model(input_ids=rows, labels=rows).loss.backward()
        optimizer.step()
    engine = load_engine(model, tokenizer)
    asked, score = [], engine.score
    monkeypatch.setattr(engine, "score", lambda sequences, **more: asked.extend(sequences) or score(sequences, **more))
    (found,) = forkpoint.cot_decode(engine, ["a"], k=3, kind="yesno")
    assert asked == [(first,), (first,), (first,), (first, the)]  # the fork, and once before each answer
    with torch.inference_mode():
        p, after_the = model(torch.tensor([[first, the]])).logits[0].softmax(-1).tolist()
    expected = {"yes": p[yes] - p[no], "no": p[no] - p[yes], "the no": after_the[no] - after_the[yes]}
    assert {path.text: path.confidence for path in found.paths} == pytest.approx(expected, abs=1e-4)
    assert found.paths[0].text == "yes"
    assert found.response == "the no"
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with CompletionsServer(engine, Behaviour(echoes=None)) as server:  # one that scores no given tokens
        remote = load_openai(str(tmp_path), server.url, served_model="lab")
        (other,) = forkpoint.cot_decode(remote, ["a"], k=3, kind="yesno")
    assert {path.text: path.confidence for path in other.paths} == pytest.approx(expected, abs=1e-4)
    assert other.response == "the no"


def test_labels_are_single_tokens(lab):
    class Words(list):
        """Just enough of a tokenizer."""

        __hash__ = object.__hash__

        def batch_decode(self, ids, **_):
            return [self[i] for (i,) in ids]

    words = Words(["Yes", " yes", "no", " NO", "yesterday", "not", " y"])
    assert label_groups(words) == {"yes": (0, 1), "no": (2, 3)}
    with pytest.raises(UserError, match=r"no token of lab spells yes$"):
        label_mass_differences(lab, [Case("c", (10,), "yesno")], [[path("yes", 0.2, before=(10, 30))]])


def test_the_public_function_takes_texts(lab):
    prompts = ["Q: Tom has 5 apples. Tom buys 3 more. How many apples does Tom have now?\nA:"]
    (found,) = forkpoint.cot_decode(lab, prompts, k=5)
    assert (len(found.paths), found.paths[found.chosen].answer) == (5, "8")
    for options in ({"k": 0}, {"span": "words"}, {"position": "last"}, {"position": "entropy:0"}, {"k": 10**6},
                    {"kind": "word"}):  # fmt: skip
        with pytest.raises(UserError, match=r"cot-decoding|top tokens|kind must be"):
            forkpoint.cot_decode(lab, prompts, **options)
