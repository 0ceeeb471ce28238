"""Where the lab's critical tokens lie, by the cause of the error: reads a run of `forkpoint critical --task lab`.

    python benchmarks/critical_causes.py runs/lab-tables/critical

Of the wrong responses with a critical token: how often the critical token, the token with the largest drop of success
and the least probable one lie in the equation of the first error, in another equation, or elsewhere, and what the
probability of the critical token was.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from forkpoint.files import CRITICAL
from forkpoint.lab.mistakes import EQUATION, first_error
from forkpoint.tasks.data_sets import read_rows

PLACES = ("in it", "earlier", "later", "elsewhere")


def place(position: int, tokens: Sequence[str], wrong: int) -> str:
    """Where a token lies, as seen from the equation of index `wrong`."""
    ends = list(accumulate(map(len, tokens)))
    for i, match in enumerate(EQUATION.finditer("".join(tokens))):
        if match.start() < ends[position] <= match.end():
            return "in it" if i == wrong else "earlier" if i < wrong else "later"
    return "elsewhere"


def main(run: Path) -> None:
    """Print a line for each cause and each way to choose a token."""
    places: dict[tuple[str, str], list[str]] = defaultdict(list)
    probabilities: dict[str, list[float]] = defaultdict(list)
    for _, row in read_rows(run / CRITICAL):
        if row["status"] == "critical" and not row["correct"]:
            cause, wrong, chosen = _read(row)
            for name, position in chosen.items():
                places[cause, name].append("elsewhere" if wrong is None else place(position, row["tokens"], wrong))
            probabilities[cause].append(row["policy_prob"][row["critical_index"]])
    print(f"{'first error':<16}{'token':<22}{'n':>5}" + "".join(f"{name:>11}" for name in PLACES))
    for (cause, name), found in sorted(places.items()):
        print(f"{cause:<16}{name:<22}{len(found):>5}" + "".join(f"{found.count(one):>11}" for one in PLACES))
    for cause, values in sorted(probabilities.items()):
        print(f"{cause}: the critical token's own probability is {np.median(values):.2f} in the median")


def _read(row: dict[str, Any]) -> tuple[str, int | None, dict[str, int]]:
    """The first error's cause and equation, and the tokens that are looked for."""
    success = np.array([np.nan if value is None else value for value in row["success"]])
    return *first_error(row["problem_id"], "".join(row["tokens"])), {
        "critical": row["critical_index"],
        "largest drop": int(np.nanargmax(success[:-1] - success[1:])),
        "least probable": int(np.argmin(row["policy_prob"])),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
