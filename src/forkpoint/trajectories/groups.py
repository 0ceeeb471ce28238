"""Responses side by side: by question, by answer, and one drawn to stand for them all."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Sequence

from forkpoint.tasks import answer_key
from forkpoint.types import Trajectory

Group = list[Trajectory]


def grouped(responses: Sequence[Trajectory], key: Callable[[Trajectory], Hashable]) -> list[Group]:
    """Responses with one key side by side, in the order in which the keys first appear."""
    groups: dict[Hashable, Group] = {}
    for response in responses:
        groups.setdefault(key(response), []).append(response)
    return list(groups.values())


def by_frequency(responses: Sequence[Trajectory]) -> list[Group]:
    """Responses grouped by their answer, merged by `answer_key`: the most frequent first, then the first sampled."""
    groups = grouped(responses, lambda s: None if s.answer is None else answer_key(s.answer, s.problem.kind))
    return sorted(groups, key=len, reverse=True)


def one_of(group: Group, seed: int) -> Trajectory:
    """One of the responses to a question with the same answer, drawn from (seed, question, answer) alone."""
    return random.Random(f"{seed}/{group[0].problem.id}/{group[0].answer}").choice(group)
