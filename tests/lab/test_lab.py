"""The lab: exact problems, separate splits, honest slips, and a model that is what its card says."""

from __future__ import annotations

import itertools
import random
import re

import pytest

from forkpoint.engines import load_engine
from forkpoint.lab import MODEL_DIR
from forkpoint.lab.corpus import SLIP_PROBABILITY, SLIPS, answer_text, documents, draw_slips
from forkpoint.lab.problem_generator import (
    LEVELS,
    Ref,
    Step,
    generate_problem,
    is_held_out,
    load_problems,
    stream,
    work_out,
)
from forkpoint.types import Request, Sampling, UserError


def test_steps_lead_to_the_answer_and_have_the_level():
    rng = random.Random(0)
    for level in LEVELS:
        for _ in range(200):
            problem = generate_problem(rng, level)
            worked = work_out(problem.steps)
            assert problem.level == len(worked) == level
            assert worked[-1].result == problem.answer > 0
            for w in worked:
                assert w.result == {"+": w.left + w.right, "-": w.left - w.right, "*": w.left * w.right}[w.op]


def test_every_number_of_a_question_is_used():
    for problem in itertools.islice(stream(1, "train"), 300):
        numbers = sorted(map(int, re.findall(r"\d+", problem.question)))
        used = [o for s in problem.steps for o in (s.left, s.right) if isinstance(o, int)]
        doublings = problem.question.count("doubles"), problem.question.count("triples")
        assert sorted(used) == sorted([*numbers, *[2] * doublings[0], *[3] * doublings[1]])


def test_a_slip_is_carried_on():
    worked = work_out((Step(5, "+", 3), Step(Ref(0), "*", 2)), (1, 0))
    assert [(w.left, w.result) for w in worked] == [(5, 9), (9, 18)]


def test_slips_come_as_often_as_they_should():
    rng = random.Random(3)
    slips = [s for p in itertools.islice(stream(2, "train"), 3000) for s in draw_slips(rng, p)]
    share = sum(map(bool, slips)) / len(slips)
    assert abs(share - SLIP_PROBABILITY) < 0.02
    assert set(slips) == {0, *SLIPS}


def test_direct_answers_are_right_and_worked_ones_show_their_steps():
    rng = random.Random(5)
    for problem in itertools.islice(stream(6, "train"), 500):
        text = answer_text(rng, problem)
        if "=" not in text:
            assert text in (f" The answer is {problem.answer}.", f" {problem.answer}")
        else:
            assert text.count("=") == problem.level
            *_, last = re.findall(r"= (\d+)", text)
            assert text.endswith(f" The answer is {last}.")


def test_training_and_held_out_questions_never_meet():
    test = {p.question for p in load_problems("test", 1000)}
    assert len(test) == 1000
    assert all(is_held_out(q) for q in test)
    trained = {prompt[3:-3] for prompt, _ in itertools.islice(documents(0), 20_000)}
    assert not test & trained


def test_problems_are_the_same_every_time():
    assert load_problems("test", 20) == load_problems("test", 30)[:20]
    assert load_problems("train", 5, seed=1) != load_problems("train", 5, seed=2)
    with pytest.raises(UserError, match="train and test"):
        load_problems("dev")


def test_the_shipped_model_is_small_and_safe():
    files = {file.name: file.stat().st_size for file in MODEL_DIR.iterdir()}
    assert sum(files.values()) <= 8 * 2**20
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= files.keys()
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))]


def test_the_tokenizer_keeps_digits_apart_and_takes_any_text(tokenizer):
    assert len(tokenizer.tokenize("1234")) == 4
    text = "Zoë has 3½ плюс — ∑ 😀\n\ttabs"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.slow
def test_training_makes_a_model_that_loads(tmp_path):
    from forkpoint.lab.train import LabRecipe, train_lab_model

    recipe = LabRecipe(steps=2, batch_documents=4, hidden_size=16, intermediate_size=16, layers=1, heads=2)
    lines = []
    train_lab_model(tmp_path, recipe, lines.append)
    assert lines[-1].startswith("step 2/2")
    engine = load_engine(str(tmp_path))
    (done,) = engine.generate([Request("a", (5, 6))], Sampling(max_tokens=3))
    assert done.token_ids
    first = (tmp_path / "model.safetensors").read_bytes()
    train_lab_model(tmp_path / "again", recipe, lines.append)
    assert (tmp_path / "again/model.safetensors").read_bytes() == first
