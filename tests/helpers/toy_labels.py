"""Labels of the toy engine's responses, for tests of both protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from toy_engine import ToyEngine

from forkpoint.curves.rollouts import policies
from forkpoint.engines import Engine
from forkpoint.types import Completion, Request, Sampling, Trajectory

FIVE = Sampling(max_tokens=5)
WRONG = (2, 1, 3, 3, 0)
MANY = [WRONG, (3, 3, 2), (1, 2, 4, 3, 3), (2, 3, 1, 0), (4, 3, 4), (2, 1, 3, 3, 2), (2, 0)]


class Recorder(ToyEngine):
    """The toy, with all that was asked of it, call by call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[Request]] = []

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        self.calls.append(list(requests))
        return super().generate(requests, sampling)


def labels_of(
    protocol: Callable[..., Iterator[Any]],
    engine: Engine,
    trajectories: Sequence[Trajectory],
    sampling: Sampling = FIVE,
    **options: Any,
) -> list[Any]:
    """The labels by a protocol, in the order of the trajectories."""
    pairs = zip(trajectories, policies(engine, trajectories, sampling), strict=True)
    by_id = {label.trajectory.id: label for label in protocol(engine, pairs, sampling, **options)}
    return [by_id[t.id] for t in trajectories]


def copies(one: Trajectory, n: int) -> list[Trajectory]:
    """The same response under n ids."""
    return [replace(one, id=f"{one.id}/{i}") for i in range(n)]
