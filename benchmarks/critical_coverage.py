"""How often the fork estimator's 95% intervals hold the truth, over many trajectories of the lab.

    python benchmarks/critical_coverage.py [--trajectories 100] [--seeds 12] [--decided-seeds 4] [--budget 256]

Half of the trajectories are wrong and half right, sampled at temperature 1. Each gets `--seeds` runs of `--budget`
rollouts; a run's intervals are held against the mean curve of all other runs. Then `--decided-seeds` runs with the
defaults, which stop once a label is settled, are held against the mean of all runs of `--budget` rollouts. That mean
tells the prefixes apart too. The truth's own noise takes a little away: true 95% intervals would hold `reachable` of
it. The last prefix, which is known, is not counted. Coverage is a trajectory's share of its prefixes, averaged over
trajectories, with its standard error. Some 13 minutes on an idle core. Prints a table and writes
benchmarks/results/critical_coverage.json.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import Any

import machine
import numpy as np

from forkpoint.curves.estimator import Until, fork_labels
from forkpoint.curves.forks import HOPELESS, NEAR_ZERO
from forkpoint.curves.rollouts import CurveLabel, policies
from forkpoint.engines import Engine, load_engine
from forkpoint.lab.problem_generator import load_problems
from forkpoint.trajectories.rows import sample_trajectories
from forkpoint.types import Sampling, Trajectory

MAX_TOKENS = 120
NEAR = 0.02  # of 0 and 1
SHORT, LONG = 30, 45  # tokens; buckets of length end there
ROUNDING = 1e-9

Runs = dict[str, list[CurveLabel]]  # by trajectory id, one a seed
Parts = dict[str, list[float]]  # by the name of a group of prefixes, a number for each trajectory with such prefixes


def half_wrong(engine: Engine, n: int) -> list[Trajectory]:
    """The first wrong and the first right finished responses to the lab's problems, n in all, one a problem."""
    sampling = Sampling(temperature=1.0, max_tokens=MAX_TOKENS)
    drawn = sample_trajectories(engine, load_problems(limit=4 * n), sampling, n=1, prompt="cot")
    over = [t for t in drawn if t.finish_reason == "stop"]
    return [t for t in over if not t.correct][: n // 2] + [t for t in over if t.correct][: n - n // 2]


def runs_of(
    engine: Engine, trajectories: Sequence[Trajectory], seeds: range, budget: int | None, until: Until
) -> tuple[Runs, float]:
    """Every seed's curves and labels, and the seconds all took; the default budget where none is given."""
    along = list(policies(engine, trajectories, Sampling(temperature=1.0, max_tokens=MAX_TOKENS)))
    found: Runs = defaultdict(list)
    started = time.perf_counter()
    options: dict[str, Any] = {} if budget is None else {"budget": budget}
    for seed in seeds:
        sampling = Sampling(temperature=1.0, max_tokens=MAX_TOKENS, seed=seed)
        pairs = zip(trajectories, along, strict=True)
        for label in fork_labels(engine, pairs, sampling, until=until, **options):
            found[label.trajectory.id].append(label)
        print(f'until="{until}", seed {seed}: {time.perf_counter() - started:.0f} s since the first', flush=True)
    return found, round(time.perf_counter() - started, 1)


def groups(truth: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Names and masks of the prefixes that are told apart, given the curve up to the last prefix but one."""
    n = len(truth)
    length = f"up to {SHORT} tokens" if n <= SHORT else f"up to {LONG} tokens" if n <= LONG else "more tokens"
    yield "all", truth >= 0
    yield length, truth >= 0
    yield "truth 0", truth == 0
    yield f"truth up to {NEAR}", (truth > 0) & (truth <= NEAR)
    yield "truth between", (truth > NEAR) & (truth < 1 - NEAR)
    yield f"truth from {1 - NEAR}", truth >= 1 - NEAR


def coverage(held: Runs, pool: Runs, leave_out: bool) -> tuple[dict[str, Parts], list[dict[str, Any]]]:
    """By what is measured and group, a number for each trajectory; and a row for each trajectory.

    With `leave_out`, run i is held against the pool without its i-th curve.
    """
    found: dict[str, Parts] = {name: defaultdict(list) for name in ("covered", "truth_above", "truth_below", "width")}
    rows = []
    for name, labels in held.items():
        curves = np.stack([label.success[:-1] for label in pool[name]])
        marked = list(groups(curves.mean(0)))
        measured: dict[str, list[np.ndarray]] = {what: [] for what in found}
        for i, label in enumerate(labels):
            truth = np.delete(curves, i, 0).mean(0) if leave_out else curves.mean(0)
            lower, upper = label.success_ci[:-1].T
            above, below = truth > upper + ROUNDING, truth < lower - ROUNDING
            values = {"covered": ~(above | below), "truth_above": above, "truth_below": below, "width": upper - lower}
            for what, value in values.items():
                measured[what].append(value)
        for what, pieces in measured.items():
            for group, mask in marked:
                if mask.any():
                    found[what][group].append(float(np.stack(pieces)[:, mask].mean()))
        rows.append({"id": name, "correct": labels[0].trajectory.correct, "tokens": curves.shape[1],
                     "covered": round(found["covered"]["all"][-1], 4)})  # fmt: skip
    return found, rows


def table(found: dict[str, Parts]) -> dict[str, dict[str, float]]:
    """Means over trajectories by group."""
    rows = {}
    for group, shares in sorted(found["covered"].items()):
        error = float(np.std(shares)) / max(1, len(shares) - 1) ** 0.5
        rows[group] = {what: round(float(np.mean(parts[group])), 4) for what, parts in found.items()}
        rows[group] |= {"standard_error": round(error, 4), "trajectories": len(shares)}
    return rows


def calls(held: Runs, pool: Runs) -> dict[str, int]:
    """How many runs called a token critical, and how often that breaks one of the definition's terms by the truth."""
    found = dict.fromkeys(
        (
            "runs_of_wrong_trajectories",
            "undecided",
            "critical",
            "later_above_5%",
            "after_above_1/64",
            "before_below_1/64",
        ),
        0,
    )
    for name, labels in held.items():
        truth = np.mean([label.success for label in pool[name]], 0)
        for label in labels:
            found["runs_of_wrong_trajectories"] += not label.trajectory.correct
            found["undecided"] += label.status == "undecided"
            if label.status == "critical" and label.critical_index is not None:
                c = label.critical_index
                found["critical"] += 1
                found["later_above_5%"] += bool(truth[c + 1 :].max() >= HOPELESS)
                found["after_above_1/64"] += bool(truth[c + 1] > NEAR_ZERO)
                found["before_below_1/64"] += bool(truth[c] <= NEAR_ZERO)
    return found


def reachable(budgeted: int) -> float:
    """What true 95% normal intervals hold of a truth that is the mean of this many runs of the same size."""
    normal = NormalDist()
    return round(2 * normal.cdf(normal.inv_cdf(0.975) / (1 + 1 / budgeted) ** 0.5) - 1, 4)


def main() -> None:
    """Run, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trajectories", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=12, help="runs of --budget rollouts")
    parser.add_argument("--decided-seeds", type=int, default=4, help="runs that stop once a label is settled")
    parser.add_argument("--budget", type=int, default=256)
    options = parser.parse_args()
    engine = load_engine("lab", device="cpu")
    chosen = half_wrong(engine, options.trajectories)
    pool, seconds = runs_of(engine, chosen, range(1, options.seeds + 1), options.budget, "budget")
    first = options.seeds + 1
    decided, more = runs_of(engine, chosen, range(first, first + options.decided_seeds), None, "decided")
    figures: dict[str, Any] = {
        **vars(options), "wrong": sum(not t.correct for t in chosen), "max_tokens": MAX_TOKENS,
        "seconds": {"budget": seconds, "decided": more}, "reachable": reachable(options.seeds - 1),
    }  # fmt: skip
    for name, held in (("budget", pool), ("decided", decided)):
        found, rows = coverage(held, pool, leave_out=held is pool)
        figures[name] = {"coverage": table(found), "calls": calls(held, pool), "trajectories": rows}
        print(f'\nuntil="{name}"', figures[name]["calls"])
        for group, row in figures[name]["coverage"].items():
            print(f"{group:20}", "  ".join(f"{key} {value:,}" for key, value in row.items()))
    print(machine.save("critical_coverage", figures))


if __name__ == "__main__":
    main()
