"""The lab: exact problems, separate splits, errors with causes, and a model that is what its card says."""

from __future__ import annotations

import itertools
import random
import re

import pytest

from forkpoint.engines import load_engine
from forkpoint.lab import MODEL_DIR
from forkpoint.lab.corpus import answer_text, documents, solutions, worked_text
from forkpoint.lab.mistakes import (
    MISREADINGS,
    NO_STEPS,
    OTHER,
    SLIP,
    SLIP_PROBABILITY,
    SLIPS,
    cause_of_error,
    draw_errors,
    misread,
)
from forkpoint.lab.problem_generator import (
    LEVELS,
    Ref,
    Step,
    find_problem,
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
    worked = work_out((Step(5, "+", 3, "buys"), Step(Ref(0), "*", 2, "doubles")), (1, 0))
    assert [(w.left, w.result) for w in worked] == [(5, 9), (9, 18)]


def test_errors_come_as_often_as_they_should():
    rng = random.Random(3)
    drawn = [(p, draw_errors(rng, p)) for p in itertools.islice(stream(2, "train"), 5000)]
    slips = [slip for _, errors in drawn for slip in errors.slips]
    assert abs(sum(map(bool, slips)) / len(slips) - SLIP_PROBABILITY) < 0.01
    assert set(slips) == {0, *SLIPS}
    for wording, habit in MISREADINGS.items():
        readings = [
            (step, read) for p, errors in drawn for step, read in zip(p.steps, errors.steps, strict=True)
            if step.wording == wording and step.op == habit.op
        ]  # fmt: skip
        assert {read for _, read in readings} <= {one for step, _ in readings for one in (step, misread(step))}
        share = sum(step != read for step, read in readings) / len(readings)
        # answers that would fall below zero are drawn again, so a misreading that makes numbers small is rarer
        assert habit.probability - 0.15 < share < habit.probability + 0.05, wording
        assert 0.29 < share < 0.85, wording


@pytest.mark.parametrize(("steps", "right", "misread_as"), [
    ([Step(12, "*", 3, "times as many")], "12 * 3 = 36.", "12 + 3 = 15."),
    ([Step(12, "+", 15, "more than")], "12 + 15 = 27.", "15 - 12 = 3."),
    ([Step(4, "*", 8, "boxes"), Step(9, "+", Ref(0), "boxes")], "4 * 8 = 32. 9 + 32 = 41.", "1 * 8 = 8. 9 + 8 = 17."),
    ([Step(4, "*", 8, "bags"), Step(60, "-", Ref(0), "bags")], "4 * 8 = 32. 60 - 32 = 28.", "1 * 8 = 8. 60 - 8 = 52."),
    ([Step(9, "*", 3, "triples")], "9 * 3 = 27.", "9 + 3 = 12."),
    ([Step(9, "*", 2, "doubles")], "9 * 2 = 18.", "9 * 2 = 18."),
])  # fmt: skip
def test_a_misreading_is_what_the_table_says(steps, right, misread_as):
    def written(steps):
        return " ".join(f"{w.left} {w.op} {w.right} = {w.result}." for w in work_out(steps))

    assert written(steps) == right
    assert written([misread(step) or step for step in steps]) == misread_as


def test_a_question_says_what_its_wordings_are_called():
    names = {"boxes": "boxes", "bags": "bags", "triples": "triples", "doubles": "doubles", "more than": " more than ",
             "times as many": " times as many", "finds": " finds ", "loses": " loses "}  # fmt: skip
    for problem in itertools.islice(stream(7, "train"), 500):
        assert {name for name, text in names.items() if text in problem.question} == names.keys() & {*problem.wordings}


def test_every_problem_is_found_by_its_id_and_knows_its_wordings():
    for problem in load_problems("test", 1500, seed=3)[::100] + load_problems("train", 20):
        found = find_problem(problem.id)
        assert (found.question, str(found.answer)) == (problem.question, problem.answer)
        assert problem.wordings == found.wordings != ()


def test_the_cause_of_an_error_is_that_of_the_first():
    """Over what the corpus writes: the cause that was drawn is the one that is found."""
    rng = random.Random(4)
    seen = set()
    for problem in load_problems("train", 1000):
        known = find_problem(problem.id)
        errors = draw_errors(rng, known)
        drawn = [
            read.wording if read != step else SLIP if slip else None
            for step, read, slip in zip(known.steps, errors.steps, errors.slips, strict=True)
        ]
        if any(drawn):
            cause = cause_of_error(problem.id, worked_text(known, work_out(errors.steps, errors.slips), "", ""))
            assert cause == next(filter(None, drawn))
            seen.add(cause)
    assert seen == {SLIP, *MISREADINGS}


def test_errors_without_a_known_cause():
    problem = next(p for p in load_problems("train", 100) if len(find_problem(p.id).steps) == 2)
    first, last = work_out(find_problem(problem.id).steps)
    step = f" {first.left} {first.op} {first.right} = {first.result}."
    assert cause_of_error(problem.id, " The answer is 7.") == NO_STEPS
    assert cause_of_error(problem.id, f"{step} The answer is {first.result}.") == OTHER
    assert cause_of_error(problem.id, f"{step} {last.left + 100} {last.op} {last.right} = 3. The answer is 3.") == OTHER


def test_solutions_are_right_and_wrong():
    for row, problem in zip(itertools.islice(solutions(1), 200), stream(1, "train"), strict=False):
        assert row["prompt"] == f"Q: {problem.question}\nA: Let's think step by step."
        assert row["chosen"].endswith(f" The answer is {problem.answer}.")
        assert row["rejected"] != row["chosen"]
        assert "= -" not in row["rejected"]


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
