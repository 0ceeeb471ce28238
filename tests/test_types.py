"""What every public function that takes several texts says of one."""

from __future__ import annotations

from pathlib import Path

import pytest

import forkpoint
from forkpoint.evaluation.evaluate import evaluate
from forkpoint.evaluation.lm_eval_tasks import TaskChoice, Tasks, evaluate_tasks
from forkpoint.evaluation.logit_study import LogitsConfig, study_logits
from forkpoint.tasks import extract
from forkpoint.training.models import check_modules
from forkpoint.trajectories.rows import load_trajectories
from forkpoint.types import Problem, Sampling, UserError

ONE = "Q: 1 + 1"


@pytest.mark.parametrize(("name", "call"), [
    ("prompts", lambda engine, texts: forkpoint.cot_decode(engine, texts)),
    ("options", lambda engine, texts: forkpoint.cot_decode(engine, [ONE], options=texts)),
    ("stop", lambda engine, texts: forkpoint.cot_decode(engine, [ONE], stop=texts)),
    ("stop", lambda _, texts: Sampling(stop=texts)),
    ("stop", lambda engine, texts: load_trajectories(Path("x.jsonl"), [], engine, texts)),
    ("options", lambda _, texts: Problem("a", "b", "A", "option", texts)),
    ("options", lambda _, texts: extract("(A)", "option", texts)),
    ("strategies", lambda engine, texts: evaluate(engine, [Problem("a", "b", "1", "number")], texts)),
    ("strategies", lambda engine, texts: evaluate_tasks(engine, texts, None, None)),
    ("names of tasks", lambda _, texts: Tasks(TaskChoice(texts))),
    ("samplers", lambda engine, texts: study_logits(engine, {"a": (1,)}, LogitsConfig(texts, (1.0,)), Path("x"))),
    ("positions", lambda engine, texts: study_logits(engine, {"a": (1,)}, LogitsConfig((), (1.0,), texts), Path("x"))),
    ("lora_target_modules", lambda engine, texts: check_modules(engine.model, texts)),
])  # fmt: skip
def test_one_text_is_not_taken_for_its_letters(lab, name, call):
    with pytest.raises(UserError, match=f"^{name} must be a list of texts, but is one text, 'Q: 1 "):
        call(lab, ONE)
    with pytest.raises(UserError, match=f"^{name} must be a list of texts, but holds '?7'?$"):
        call(lab, ["a", 7])
