"""Which responses make a pair: one right and one wrong response a question; pure choice, no model.

Source: Critical Tokens Matter (arXiv 2411.19943), section 3 and the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forkpoint.trajectories.groups import Group, by_frequency, grouped, one_of
from forkpoint.types import Trajectory

QUESTIONS = ("no_correct", "no_wrong", "no_wrong_answer")
RESPONSES = ("question_dropped", "no_answer", "other_correct_answer", "same_correct_answer", "other_wrong_answer",
             "same_wrong_answer")  # fmt: skip


@dataclass(frozen=True, slots=True)
class PairChoice:
    """The chosen and the rejected response of each question that has both, and how many of what were left out and why.

    `counts`: `questions`, `samples`, `correct`, `wrong`, `cut_off`, `pairs`. `questions` says of the questions without
    a pair that all responses are wrong (`no_correct`), all right (`no_wrong`), or that no wrong one holds an answer
    (`no_wrong_answer`). `responses` says of each response in no pair that it belongs to such a question
    (`question_dropped`), or else that it holds no answer, that its answer is not the most frequent one of its kind, or
    that another response with that answer was drawn.
    """

    pairs: list[tuple[Trajectory, Trajectory]]
    counts: dict[str, int]
    questions: dict[str, int]
    responses: dict[str, int]


def choose_pairs(samples: Sequence[Trajectory], seed: int = 0) -> PairChoice:
    """One pair a question, of graded samples, several a question.

    Chosen: one of the correct responses with the most frequent correct answer. Rejected: one of the wrong responses
    with the most frequent wrong answer; a wrong response without an answer is never taken. Equal answers are merged by
    `answer_key`, and of equally frequent ones the one that was sampled first counts. Which response stands for its
    answer is drawn from (seed, question, answer) alone. Responses to one question under different prompts are treated
    as answers to different questions, since a pair has one prompt.
    """
    pairs: list[tuple[Trajectory, Trajectory]] = []
    questions, responses = dict.fromkeys(QUESTIONS, 0), dict.fromkeys(RESPONSES, 0)
    groups = grouped(samples, lambda s: (s.problem.id, s.prompt_ids))
    for question in groups:
        correct = [s for s in question if s.correct]
        wrong = [s for s in question if not s.correct]
        answered = [s for s in wrong if s.answer is not None]
        if (
            missing := "no_correct"
            if not correct
            else "no_wrong"
            if not wrong
            else ""
            if answered
            else "no_wrong_answer"
        ):
            questions[missing] += 1
            responses["question_dropped"] += len(question)
            continue
        chosen, rejected = (
            _drawn(part, name, seed, responses) for part, name in ((correct, "correct"), (answered, "wrong"))
        )
        responses["no_answer"] += len(wrong) - len(answered)
        pairs.append((chosen, rejected))
    right = sum(s.correct for s in samples)
    counts = {"questions": len(groups), "samples": len(samples), "correct": right, "wrong": len(samples) - right,
              "cut_off": sum(s.finish_reason == "length" for s in samples), "pairs": len(pairs)}  # fmt: skip
    return PairChoice(pairs, counts, questions, responses)


def _drawn(responses: Group, name: str, seed: int, dropped: dict[str, int]) -> Trajectory:
    """The response that stands for all right, or all wrong, responses to a question; the others are counted."""
    group = by_frequency(responses)[0]
    dropped[f"same_{name}_answer"] += len(group) - 1
    dropped[f"other_{name}_answer"] += len(responses) - len(group)
    return one_of(group, seed)
