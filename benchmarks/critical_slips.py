"""Where the lab's critical tokens lie: reads a run of `forkpoint critical --task lab` (seconds).

The lab writes its steps as "A op B = C.", so a slip can be seen without a model: the first equation whose result is
wrong, or that no longer starts from the numbers of the exact solution. Prints, over the wrong responses with a critical
token, how often the critical token and the token with the largest drop of success lie in that first slip, in a later
wrong equation, in the last equation, or elsewhere.

    python benchmarks/critical_slips.py runs/critical-lab
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

EQUATION = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)\.")


def equations(tokens: list[str]) -> list[tuple[set[int], bool]]:
    """Each equation of a response: the positions of its tokens, and whether its result is right."""
    text, ends = "".join(tokens), []
    for token in tokens:
        ends.append((ends[-1] if ends else 0) + len(token))
    found = []
    for match in EQUATION.finditer(text):
        a, op, b, c = int(match[1]), match[2], int(match[3]), int(match[4])
        exact = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else None}[op]
        found.append(({i for i, end in enumerate(ends) if match.start() < end <= match.end()}, exact == c))
    return found


def place(position: int, steps: list[tuple[set[int], bool]]) -> str:
    """In words, where a token lies."""
    wrong = [i for i, (_, right) in enumerate(steps) if not right]
    at = next((i for i, (where, _) in enumerate(steps) if position in where), None)
    if at is None:
        return "outside of the equations"
    if wrong and at == wrong[0]:
        return "the first wrong equation"
    if at in wrong:
        return "a later wrong equation"
    return "the last equation, right in itself" if at == len(steps) - 1 else "an earlier equation, right in itself"


def largest_drop(row: dict[str, Any]) -> int:
    success = row["success"]
    return max(range(len(success) - 1), key=lambda i: success[i] - success[i + 1])


def main(run: Path) -> None:
    """Print the table."""
    rows = [json.loads(line) for line in (run / "critical.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row["status"] == "critical" and None not in row["success"]]
    steps = [equations(row["tokens"]) for row in rows]
    critical = Counter(place(row["critical_index"], some) for row, some in zip(rows, steps, strict=True))
    drops = Counter(place(largest_drop(row), some) for row, some in zip(rows, steps, strict=True))
    last = sum(bool(some) and row["critical_index"] in some[-1][0] for row, some in zip(rows, steps, strict=True))
    same = sum(row["critical_index"] == largest_drop(row) for row in rows)
    print(f"{len(rows)} responses with a critical token; in the last equation: {last}; the largest drop itself: {same}")
    for name in sorted({*critical, *drops}):
        print(f"{name:<40} critical {critical[name]:>4}   largest drop {drops[name]:>4}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
