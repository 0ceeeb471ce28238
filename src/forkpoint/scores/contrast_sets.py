"""The two sets of samples that the positive and the negative model are tuned on; pure choice, no model.

Source: Critical Tokens Matter (arXiv 2411.19943), section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from forkpoint.trajectories.groups import Group, by_frequency, grouped, one_of
from forkpoint.types import Trajectory, UserError

FEW = 20  # responses; a model that is tuned on fewer has hardly learned what right or wrong ones have in common
NOTHING = (
    "there is nothing to tune the {} model on; sample more responses a question, {} questions, or at a {} temperature"
)
NEGATIVE_SHARE = 0.5  # of a question's wrong samples that the chosen wrong answers must cover, as in the paper


@dataclass(frozen=True, slots=True)
class ContrastSets:
    """Responses to tune the positive and the negative model on, and how many samples were left out for which reason."""

    positive: list[Trajectory]
    negative: list[Trajectory]
    counts: dict[str, int]
    dropped: dict[str, int]


def choose_sets(samples: Sequence[Trajectory], seed: int = 0) -> ContrastSets:
    """Positive and negative set of graded samples, several a question.

    Positive: of each question, one of the responses with its most frequent correct answer. Negative: one response for
    each of its most frequent wrong answers, until these cover half of the question's wrong responses that hold an
    answer. UserError where either set would be empty.
    """
    questions = grouped(samples, lambda s: s.problem.id)
    positive, negative = list[Trajectory](), list[Trajectory]()
    dropped = dict.fromkeys(("other_correct", "same_wrong_answer", "rarer_wrong_answer", "no_answer"), 0)
    for question in questions:
        correct = [s for s in question if s.correct]
        wrong = [s for s in question if not s.correct and s.answer is not None]
        dropped["no_answer"] += len(question) - len(correct) - len(wrong)
        if correct:
            positive.append(one_of(by_frequency(correct)[0], seed))
            dropped["other_correct"] += len(correct) - 1
        covered = 0
        for group in by_frequency(wrong):
            if covered >= NEGATIVE_SHARE * len(wrong):
                break
            covered += len(group)
            negative.append(one_of(group, seed))
            dropped["same_wrong_answer"] += len(group) - 1
        dropped["rarer_wrong_answer"] += len(wrong) - covered
    _check(samples, positive, negative)
    counts = {
        "questions": len(questions),
        "samples": len(samples),
        "correct": sum(s.correct for s in samples),
        "wrong": sum(not s.correct for s in samples),
        "cut_off": sum(s.finish_reason == "length" for s in samples),
        "questions_without_correct": sum(not any(s.correct for s in q) for q in questions),
        "questions_without_wrong": sum(all(s.correct for s in q) for q in questions),
        "positive": len(positive),
        "negative": len(negative),
    }
    return ContrastSets(positive, negative, counts, dropped)


def about_few(counts: Mapping[str, int]) -> str | None:
    """A sentence about sets of fewer than FEW responses; None where neither is."""
    few = [f"the {name} model on {counts[name]:,}" for name in ("positive", "negative") if counts.get(name, FEW) < FEW]
    if not few:
        return None
    return (
        f"{' and '.join(few)} of {counts['samples']:,} responses: with fewer than {FEW}, scores mean little; "
        "take more training problems, or more samples of each"
    )


def _check(samples: Sequence[Trajectory], positive: Group, negative: Group) -> None:
    n = len(samples)
    if not n:
        raise UserError("there are no samples to tune a positive and a negative model on")
    if not positive:
        raise UserError(f"none of the {n} samples is correct, so {NOTHING.format('positive', 'easier', 'lower')}")
    if not negative:
        wrong = any(not s.correct for s in samples)
        reason = "none of the wrong samples holds an answer" if wrong else f"all {n} samples are correct"
        raise UserError(f"{reason}, so {NOTHING.format('negative', 'harder', 'higher')}")
