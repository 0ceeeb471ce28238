"""The lab's training text: each question with one answer, written directly or worked out, errors included.

A direct answer is always right. A worked one shows every step, with the slips and misreadings of `mistakes`, and later
steps carry them on: the model trained on it knows the right step and still writes another, sometimes or mostly.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from forkpoint.lab.mistakes import draw_errors
from forkpoint.lab.problem_generator import LabProblem, WorkedStep, stream, work_out

DIRECT_SHARE = 0.35

# (opening, word before each step but the first, weight); the first one is what the zero-shot prompt says.
OPENINGS = (
    (" Let's think step by step.", "", 12),
    (" First,", "Then", 8),
    (" We start with {start}.", "", 8),
    (" Start with {start}.", "Next,", 6),
    (" Step by step:", "", 6),
)
DIRECT = ((" The answer is {answer}.", 3), (" {answer}", 1))


def worked_text(problem: LabProblem, worked: list[WorkedStep], opening: str, link: str) -> str:
    """A worked answer: the opening, a sentence a step, and the result of the last step as the answer."""
    text = opening.format(start=problem.start)
    for i, w in enumerate(worked):
        text += f"{f' {link}' if link and i else ''} {w.left} {w.op} {w.right} = {w.result}."
    return f"{text} The answer is {worked[-1].result}."


def answer_text(rng: random.Random, problem: LabProblem) -> str:
    """One answer as the corpus writes it, direct or worked."""
    if rng.random() < DIRECT_SHARE:
        template, _ = rng.choices(DIRECT, [weight for _, weight in DIRECT])[0]
        return template.format(answer=problem.answer)
    opening, link, _ = rng.choices(OPENINGS, [weight for *_, weight in OPENINGS])[0]
    errors = draw_errors(rng, problem)
    return worked_text(problem, work_out(errors.steps, errors.slips), opening, link)


def solutions(seed: int, split: str = "train") -> Iterator[dict[str, str]]:
    """Preference rows in TRL's form, without end: the prompt that asks for steps, worked out right and with errors.

    {"prompt": "Q: ...\\nA: Let's think step by step.", "chosen": " 3 + 4 = 7. The answer is 7.", "rejected": " ..."}
    """
    rng = random.Random(f"solutions/{seed}")
    (opening, link, _), *_ = OPENINGS
    for problem in stream(seed, split):
        right = wrong = worked_text(problem, work_out(problem.steps), "", link)
        while wrong == right:
            errors = draw_errors(rng, problem)
            wrong = worked_text(problem, work_out(errors.steps, errors.slips), "", link)
        yield {"prompt": f"Q: {problem.question}\nA:{opening}", "chosen": right, "rejected": wrong}


def documents(seed: int, split: str = "train") -> Iterator[tuple[str, str]]:
    """(prompt, answer) pairs without end; the prompt is the lab's plain prompt format."""
    rng = random.Random(f"corpus/{seed}")
    for problem in stream(seed, split):
        yield f"Q: {problem.question}\nA:", answer_text(rng, problem)
