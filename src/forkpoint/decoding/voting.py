"""Weighted votes over answers, equal answers merged by the task's equivalence, not by their spelling."""

from __future__ import annotations

from collections.abc import Sequence

from forkpoint.tasks import answer_key, same_answer
from forkpoint.types import AnswerKind


def count_votes(
    answers: Sequence[str | None], weights: Sequence[float], kind: AnswerKind, question: str = ""
) -> tuple[dict[str, float], list[int]]:
    """The weight of each distinct answer, by its first spelling, and the voters for the heaviest (of equals the first).

    Answers that are None do not vote. The question decides what % means.
    """
    groups: list[tuple[str, str, list[int]]] = []  # key, spelling, voters
    for voter, answer in enumerate(answers):
        if answer is None:
            continue
        key = answer_key(answer, kind)
        for known, spelling, voters in groups:
            if key == known or (kind == "math" and same_answer(answer, spelling, kind, question=question)):
                voters.append(voter)
                break
        else:
            groups.append((key, answer, [voter]))
    votes = {spelling: sum(weights[i] for i in voters) for _, spelling, voters in groups}
    return votes, max(groups, key=lambda group: votes[group[1]])[2] if groups else []
