"""Do two runs of `forkpoint critical` on the same responses agree on the critical token? (seconds)

    forkpoint critical --limit 300 --out runs/forks
    forkpoint critical --limit 300 --trajectories runs/forks --protocol paper --seed 1 --out runs/paper-1
    forkpoint critical --limit 300 --trajectories runs/forks --protocol paper --seed 2 --out runs/paper-2
    python benchmarks/critical_labels.py runs/forks runs/paper-1
    python benchmarks/critical_labels.py runs/paper-1 runs/paper-2

The last line is how well the paper's protocol agrees with itself: its label is a draw of 64 rollouts.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from forkpoint.proportions import wilson


def read(run: Path) -> dict[str, Any]:
    """The wrong responses of a run, by id."""
    rows = map(json.loads, (run / "critical.jsonl").read_text(encoding="utf-8").splitlines())
    return {row["id"]: row for row in rows if not row["correct"]}


def main(a: Path, b: Path) -> None:
    """Print statuses, agreement with its interval, and costs."""
    first, second = read(a), read(b)
    pairs = [(row, second[name]) for name, row in first.items() if name in second]
    print(f"{len(pairs)} wrong responses in both")
    for statuses, count in Counter((x["status"], y["status"]) for x, y in pairs).most_common():
        print(f"  {statuses[0]:<10} {statuses[1]:<10} {count}")
    both = [(x, y) for x, y in pairs if x["status"] == y["status"] == "critical"]
    same = sum(x["critical_index"] == y["critical_index"] for x, y in both)
    low, high = wilson(same, len(both))
    print(f"the same token: {same} of {len(both)}, {100 * same / len(both):.1f}% ({100 * low:.1f} to {100 * high:.1f})")
    for run, side in ((a, 0), (b, 1)):
        spent, plain = (sum(pair[side][key] for pair in pairs) for key in ("tokens_generated", "brute_force_tokens"))
        print(f"{run}: {spent:,} tokens, brute force {plain:,}, {plain / spent:.1f} times as many")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
