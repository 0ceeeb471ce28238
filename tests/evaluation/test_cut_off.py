"""Responses that hit the length limit: they have an answer only where it was stated before, and they are counted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

import pytest

import forkpoint
from forkpoint.decoding.cot import decode_cases
from forkpoint.decoding.cot_answers import APPENDED
from forkpoint.decoding.outcome import Case
from forkpoint.engines import Engine
from forkpoint.tasks import extract
from forkpoint.trajectories.rows import load_trajectories, sample_trajectories
from forkpoint.types import Completion, Problem, Request, Sampling

BARE, STATED, OVER = " He has 3 and 7", " The answer is 7. Then he", " He has 3 and 7."
PROBLEM = Problem("p", "How many?", "7", "number")


class Scripted(Engine):
    """The lab, but for what it writes: by the last part of a request's key, a text and whether it is cut off."""

    def __init__(self, lab: Engine, said: Mapping[str, tuple[str, bool]]) -> None:
        self.lab, self.said = lab, said
        self.name, self.tokenizer, self.ends = "scripted", lab.tokenizer, lab.ends
        self.vocab_size, self.most_top, self.context = lab.vocab_size, lab.most_top, lab.context
        self.score = lab.score  # type: ignore[method-assign]

    @property
    def settings(self) -> Mapping[str, str | int | None]:
        return self.lab.settings

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        for request in requests:
            text, cut = self.said[request.key.rpartition("#" if "#" in request.key else "/")[2]]
            ids = tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
            numbers = (0.5,) * len(ids)
            yield Completion(request.key, ids, numbers, numbers, text, "length" if cut else "stop")


@pytest.fixture
def scripted(lab):
    return lambda *said: Scripted(lab, {str(i): one for i, one in enumerate(said)})


@pytest.mark.parametrize(("text", "answer"), [
    (BARE, None), (STATED, "7"), (" #### 7\n", "7"), (" The answer is 7", None), (" It is \\boxed{7", None),
    (" It is \\boxed{7}", "7"), (" The answer is 7.", None),  # 7.5?
    (" The answer is 7!", "7"), (" 3 + 4 = 7\n\nQuestion: How many pens", "7"),  # the response was over
])  # fmt: skip
def test_only_what_was_stated_before_the_cut(text, answer):
    found = extract(text, "number", cut_off=True)
    assert (found and found.value) == answer


def test_an_evaluation_counts_them_and_lets_only_stated_answers_vote(scripted, tmp_path):
    engine = scripted((BARE, True), (BARE.replace("7", "9"), True), (STATED, True), (" So 9 are left.", False))
    specs = ["self-consistency:n=3", "sample:n=4,temperature=1", "greedy", "pass@k:k=2,n=4"]
    results = forkpoint.evaluate(engine, [PROBLEM], specs, max_tokens=20, out=tmp_path / "run")
    voted, sampled, greedy, passed = (json.loads(line) for line in (tmp_path / "run/samples.jsonl").open())
    assert (voted["votes"], voted["chosen"], voted["answer"], voted["correct"]) == ({"7": 1.0}, 2, "7", True)
    assert [path["dropped"] for path in voted["paths"]] == ["length", "length", None]
    assert [path["extracted"] for path in sampled["paths"]] == [None, None, "7", "9"]
    assert (greedy["answer"], greedy["correct"], greedy["response"]) == (None, False, BARE)
    assert [row["score"] for row in (voted, sampled, greedy, passed)] == [1, 0.25, 0, 0.5]
    counted = [(s["responses"], s["extraction_failures"], s["cut_off"]) for s in results["strategies"]]
    assert counted == [(1, 0, 1), (4, 2, 3), (1, 1, 1), (4, 2, 3)]
    assert results["strategies"][0]["dropped_paths"] == {"length": 2}


def test_a_list_number_of_a_path_that_was_cut_off_wins_no_problem(scripted):
    """CoT-decoding: where the limit cut every path, the greedy one stands for the case, with what it had stated."""
    problem = Problem("p", "How many?", "2", "number")
    unstated, stated = " He buys eggs.\n2", " The answer is 2. Then"
    for said, answer in (([unstated] * 3, None), ([stated, unstated, unstated], "2")):
        engine = scripted(*((text, True) for text in said))
        for spec in ("cot-decoding:k=3", "cot-decoding:k=3,aggregate=true,span=continuation"):
            results = forkpoint.evaluate(engine, [problem], [spec], max_tokens=20)
            (entry,) = results["strategies"]
            assert entry["dropped_paths"] == {"length": 3}
            counted = entry["accuracy"], entry["extraction_failures"], entry["cut_off"]
            assert counted == (float(answer is not None), int(answer is None), 1)
    engine = scripted((unstated, True), (" He has 5 left.", False), (unstated, True))
    (entry,) = forkpoint.evaluate(engine, [problem], ["cot-decoding:k=3"], max_tokens=20)["strategies"]
    assert (entry["dropped_paths"], entry["extraction_failures"], entry["cut_off"]) == ({"length": 2}, 0, 0)


@pytest.mark.parametrize(("said", "cut", "answer"), [
    (" 5. He", True, "5"), (" 5", True, None), (" 5", False, "5"), (" got by adding 3 and 5", True, None),
])  # fmt: skip
def test_a_continuation_that_was_cut_off(lab, said, cut, answer):
    class Continued(Scripted):
        def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
            self.said = {"0": (said, cut) if sampling.max_tokens == 32 else (" So 5 are left.", False)}
            return super().generate(requests, sampling)

    sampling = Sampling(temperature=0, max_tokens=20)
    options = {"k": 1, "aggregate": False, "span": "continuation", "position": "0"}
    case = Case("p", (5, 6))
    (found,) = decode_cases(Continued(lab, {}), [case], sampling, **options)
    assert found.response == APPENDED + said
    assert found.paths[0].answer == answer
    engine = Continued(lab, {})
    (entry,) = forkpoint.evaluate(
        engine, [Problem("p", "How many?", "5", "number")], ["cot-decoding:k=1,span=continuation"], max_tokens=20
    )["strategies"]
    assert (entry["accuracy"], entry["extraction_failures"], entry["cut_off"]) == (answer == "5", answer is None, 0)


def test_trajectories_sampled_and_loaded(scripted, lab, tmp_path):
    engine = scripted((BARE, True), (STATED, True), (OVER, False))
    drawn = sample_trajectories(engine, [PROBLEM], Sampling(), n=3, prompt="cot")
    assert [(t.answer, t.correct, t.finish_reason) for t in drawn] == [
        (None, False, "length"), ("7", True, "length"), ("7", True, "stop"),
    ]  # fmt: skip
    texts = {"bare": BARE, "stated": STATED, "stopped": f"{BARE}\n\nQ: Who", "ended": BARE}
    ids = {name: list(lab.tokenizer(text, add_special_tokens=False)["input_ids"]) for name, text in texts.items()}
    ids["ended"].append(lab.ends[0])
    rows = [{"id": name, "problem_id": "p", "prompt_ids": [5], "token_ids": its} for name, its in ids.items()]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_trajectories(tmp_path / "rows.jsonl", [PROBLEM], lab, ("\n\nQ:",))
    assert [(t.id, t.answer, t.finish_reason) for t in loaded] == [
        ("bare", None, "length"), ("stated", "7", "length"), ("stopped", "7", "stop"), ("ended", "7", "stop"),
    ]  # fmt: skip
