"""Which responses make a pair: one right and one wrong response a question; pure choice, no model.

Source: Critical Tokens Matter (arXiv 2411.19943), section 3 and the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forkpoint.trajectories.groups import by_frequency, grouped, one_of
from forkpoint.types import Trajectory

QUESTIONS = ("no_correct", "no_wrong", "no_wrong_answer")
RESPONSES = ("question_dropped", "no_answer", "other_correct_answer", "same_correct_answer", "other_wrong_answer",
             "same_wrong_answer")  # fmt: skip


@dataclass(frozen=True, slots=True)
class PairChoice:
    """The chosen and the rejected response of each question that has both, and how many of what were left out and why.

    `questions`: those without a pair. `responses`: those in no pair; they belong to such a question, hold no answer or
    not the most frequent one of their kind, or another response with that answer was drawn.
    """

    pairs: list[tuple[Trajectory, Trajectory]]
    counts: dict[str, int]
    questions: dict[str, int]
    responses: dict[str, int]


def choose_pairs(samples: Sequence[Trajectory], seed: int = 0) -> PairChoice:
    """One pair a question, of graded samples, several a question.

    Chosen: one of the correct responses with the most frequent correct answer. Rejected: one of the wrong responses
    with the most frequent wrong answer (`by_frequency`, `one_of`). Responses to one question under different prompts
    count as answers to different questions, since a pair has one prompt.
    """
    pairs: list[tuple[Trajectory, Trajectory]] = []
    questions, responses = dict.fromkeys(QUESTIONS, 0), dict.fromkeys(RESPONSES, 0)
    groups = grouped(samples, lambda s: (s.problem.id, s.prompt_ids))
    for question in groups:
        correct = [s for s in question if s.correct]
        wrong = [s for s in question if not s.correct]
        answered = [s for s in wrong if s.answer is not None]
        if not (correct and answered):
            questions["no_correct" if not correct else "no_wrong_answer" if wrong else "no_wrong"] += 1
            responses["question_dropped"] += len(question)
            continue
        pair = []
        for side, name in ((correct, "correct"), (answered, "wrong")):
            group = by_frequency(side)[0]
            responses[f"same_{name}_answer"] += len(group) - 1
            responses[f"other_{name}_answer"] += len(side) - len(group)
            pair.append(one_of(group, seed))
        responses["no_answer"] += len(wrong) - len(answered)
        pairs.append((pair[0], pair[1]))
    right = sum(s.correct for s in samples)
    counts = {"questions": len(groups), "samples": len(samples), "correct": right, "wrong": len(samples) - right,
              "cut_off": sum(s.finish_reason == "length" for s in samples), "pairs": len(pairs)}  # fmt: skip
    return PairChoice(pairs, counts, questions, responses)
