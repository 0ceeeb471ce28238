"""Weighted votes over answers, equal answers merged by the task's equivalence, not by their spelling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forkpoint.tasks import answer_key, same_answer
from forkpoint.types import AnswerKind


@dataclass(frozen=True, slots=True)
class Ballot:
    """One distinct answer: its first spelling, its voters by index, and the sum of their weights."""

    answer: str
    voters: tuple[int, ...]
    weight: float


def count_votes(
    answers: Sequence[str | None], weights: Sequence[float], kind: AnswerKind, question: str = ""
) -> list[Ballot]:
    """Ballots in order of first appearance; answers that are None do not vote. The question decides what % means."""
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
    return [Ballot(spelling, tuple(v), sum(weights[i] for i in v)) for _, spelling, v in groups]


def winner(ballots: Sequence[Ballot]) -> Ballot:
    """The heaviest ballot; of equals, the one that appeared first."""
    return max(ballots, key=lambda b: b.weight)
