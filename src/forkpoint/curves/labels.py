"""Which token was critical, read off a success curve and its intervals."""

from __future__ import annotations

from typing import Literal

from forkpoint.curves.forks import Curve

Status = Literal["critical", "none", "undecided"]
NEAR_ZERO = 1 / 64  # arXiv 2411.19943, section 2: no success in 64 rollouts
HOPELESS = 0.05  # the same: success of every later prefix


def label(curve: Curve, correct: bool) -> tuple[Status, int | None]:
    """The status and the critical token's index c; of an undecided trajectory, the candidate's.

    c is the first token after which success is at most 1/64 with an upper bound below 5%, and every later upper bound
    is below 5% too. It is critical if success before it is surely above 1/64, by its lower bound; else undecided. None:
    the trajectory is correct, or was cut short with success still left, or was lost before its first token.
    """
    last = len(curve.success) - 1
    if correct:
        return "none", None
    lost = last + 1
    while lost > 0 and curve.upper[lost - 1] < HOPELESS:
        lost -= 1
    found = next((i for i in range(lost, last + 1) if curve.success[i] <= NEAR_ZERO), None)
    if found is None:
        return ("none" if curve.lower[last] > NEAR_ZERO else "undecided"), None
    if found == 0:
        return "none", None
    return ("critical" if curve.lower[found - 1] > NEAR_ZERO else "undecided"), found - 1
