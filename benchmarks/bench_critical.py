"""What the success curve and the label of a trajectory cost, beside 64 plain rollouts from every prefix.

    python benchmarks/bench_critical.py [--trajectories 12] [--lengths 50 100 200 400 800]

The peer is what one writes first: `model.generate(num_return_sequences=64)` after each token of a trajectory, each
response graded. "curve": wrong trajectories of the lab, ours with the smallest budget whose error is at most the
peer's, one trajectory at a time and all together. "label": the tokens and the accuracy of the label by the peer, by the
paper's protocol as forkpoint runs it, and by the fork estimator, against the label of the true curve. "growth": longer
trajectories of a random model, ours with 256 rollouts, the peer measured at 5 prefixes and scaled up. About 10 minutes.
Prints tables, writes benchmarks/results/critical.json and docs/figures/critical-cost.svg.
"""

from __future__ import annotations

import argparse
import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import machine
import numpy as np
from critical_growth import at_equal_error, draw, growth, timed
from critical_truth import MAX_TOKENS, is_correct, plain_responses

from forkpoint.critical.estimator import ForkLabel, fork_labels
from forkpoint.critical.forks import Curve
from forkpoint.critical.labels import label
from forkpoint.critical.paper import ROLLOUTS, PaperLabel, critical_position, paper_labels
from forkpoint.critical.policy import Policy, policies
from forkpoint.engines import load_engine
from forkpoint.engines.transformers_engine import TransformersEngine
from forkpoint.lab.problems import load_problems
from forkpoint.trajectories.rows import sample_trajectories
from forkpoint.types import Sampling, Trajectory

BUDGETS = (8, 16, 32, 64, 128, 256)  # rollouts a trajectory, among which ours chooses
SEEDS = 5  # runs of a budget
TRUTH_SEEDS, TRUTH_BUDGET = 3, 1024  # whose mean is the true curve
SIMULATED = 2000  # draws of the peer's label from the true curve
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "critical-cost.svg"

Row = dict[str, Any]
Pair = tuple[Trajectory, Policy]
Counts = dict[str, list[int]]  # by trajectory id


def lab_sampling(seed: int = 0) -> Sampling:
    """The lab's policy."""
    return Sampling(temperature=1.0, max_tokens=MAX_TOKENS, seed=seed)


def wrong_ones(engine: TransformersEngine, n: int) -> list[Trajectory]:
    """The first n wrong finished responses to the lab's problems, one a problem."""
    drawn = sample_trajectories(engine, load_problems(limit=8 * n), lab_sampling(), n=1, prompt="cot")
    return [t for t in drawn if not t.correct and t.finish_reason == "stop"][:n]


def plain(engine: TransformersEngine, trajectory: Trajectory) -> tuple[list[int], int]:
    """The peer: correct rollouts of 64 after the first 1 to T-1 tokens, and the tokens generated for them."""
    counts, tokens = [], 0
    for i in range(1, len(trajectory.token_ids)):
        responses = list(plain_responses(engine, trajectory.prompt_ids, trajectory.token_ids[:i], ROLLOUTS))
        counts.append(sum(is_correct(engine, r, trajectory.problem) for r in responses))
        tokens += sum(len(r) - i for r in responses)
    return counts, tokens


def by_id(runs: Sequence[Sequence[ForkLabel]]) -> dict[str, list[ForkLabel]]:
    """The runs of each trajectory."""
    found: dict[str, list[ForkLabel]] = defaultdict(list)
    for one in itertools.chain.from_iterable(runs):
        found[one.trajectory.id].append(one)
    return found


def spend(engine: TransformersEngine, pairs: Sequence[Pair], budget: int, seeds: range) -> dict[str, list[ForkLabel]]:
    """Runs of a fixed budget, one a seed."""
    return by_id([list(fork_labels(engine, pairs, lab_sampling(s), budget=budget, until="budget")) for s in seeds])


def squared_error(curves: Sequence[np.ndarray], truth: np.ndarray) -> float:
    """Mean over prefixes of 1 to T-1 tokens; the curves have T+1 values, the truth too."""
    return float(np.mean([(np.asarray(curve)[1:-1] - truth[1:-1]) ** 2 for curve in curves]))


def curve_costs(engine: TransformersEngine, pairs: list[Pair], truth: dict[str, np.ndarray]) -> tuple[Row, Counts]:
    """The peer and ours at equal error, one trajectory at a time and together; and the peer's counts by id."""
    allowed = {t.id: float(np.mean(truth[t.id][1:-1] * (1 - truth[t.id][1:-1]))) / ROLLOUTS for t, _ in pairs}
    errors: dict[int, dict[str, float]] = {}
    for budget in BUDGETS:
        runs = spend(engine, pairs, budget, range(100, 100 + SEEDS))
        errors[budget] = {i: squared_error([r.success for r in rows], truth[i]) for i, rows in runs.items()}
    rows: list[Row] = []
    counts: Counts = {}
    for pair in pairs:
        name = pair[0].id
        budget = next((b for b in BUDGETS if errors[b][name] <= allowed[name]), BUDGETS[-1])
        row, counts[name] = one_at_a_time(engine, pair, budget, truth[name])
        rows.append(row | {"peer_rmse": allowed[name] ** 0.5})
        print(short(rows[-1]), flush=True)
    total = sum(allowed.values())
    budget = next((b for b in BUDGETS if sum(errors[b].values()) <= total), BUDGETS[-1])
    together = all_together(engine, pairs, budget, truth)
    for kind in ("tokens", "seconds"):
        together[f"{kind}_ratio"] = sum(row[f"peer_{kind}"] for row in rows) / together[kind]
    together["peer_rmse"] = (total / len(pairs)) ** 0.5
    medians = {
        key: median(row[key] for row in rows)
        for key in ("tokens_ratio", "seconds_ratio", "budget", "rmse", "peer_rmse")
    }
    table = {b: {"rmse": float(np.mean(list(e.values()))) ** 0.5} for b, e in errors.items()}
    return {"median": medians, "together": together, "rmse_by_budget": table, "trajectories": rows}, counts


def one_at_a_time(engine: TransformersEngine, pair: Pair, budget: int, truth: np.ndarray) -> tuple[Row, list[int]]:
    """Both ways for one trajectory; ours with fresh seeds, its forward pass included, as the median of its runs."""
    trajectory = pair[0]
    (counts, tokens), seconds = timed(lambda: plain(engine, trajectory))
    runs = [timed(partial(run_alone, engine, [trajectory], budget, s)) for s in range(200, 200 + SEEDS)]
    ours = [one for (one,), _ in runs]
    row = {
        "id": trajectory.id, "tokens_in_it": len(trajectory.token_ids), "budget": budget,
        "rmse": squared_error([one.success for one in ours], truth) ** 0.5,
        "peer_rmse_measured": squared_error([np.array([0, *counts, 0]) / ROLLOUTS], truth) ** 0.5,
        "tokens": float(np.mean([one.tokens_generated for one in ours])), "peer_tokens": tokens,
        "seconds": median(taken for _, taken in runs), "peer_seconds": seconds,
    }  # fmt: skip
    ratios = {f"{kind}_ratio": row[f"peer_{kind}"] / row[kind] for kind in ("tokens", "seconds")}
    return row | ratios, counts


def run_alone(engine: TransformersEngine, trajectories: list[Trajectory], budget: int, seed: int) -> list[ForkLabel]:
    """All that a user of ours waits for: the policy along the trajectories, and their curves."""
    pairs = zip(trajectories, policies(engine, trajectories, lab_sampling()), strict=True)
    return list(fork_labels(engine, pairs, lab_sampling(seed), budget=budget, until="budget"))


def all_together(engine: TransformersEngine, pairs: list[Pair], budget: int, truth: dict[str, np.ndarray]) -> Row:
    """Ours for all trajectories in one call, with fresh seeds."""
    trajectories = [t for t, _ in pairs]
    runs = [timed(partial(run_alone, engine, trajectories, budget, s)) for s in range(300, 300 + SEEDS)]
    error = np.mean([squared_error([r.success], truth[r.trajectory.id]) for found, _ in runs for r in found])
    tokens = [sum(r.tokens_generated for r in found) for found, _ in runs]
    return {
        "budget": budget, "rmse": float(error) ** 0.5, "tokens": float(np.mean(tokens)),
        "seconds": median(taken for _, taken in runs),
    }  # fmt: skip


def label_costs(
    engine: TransformersEngine, pairs: list[Pair], truth: dict[str, np.ndarray], curve: Row, counts: Counts
) -> Row:
    """Tokens and seconds a trajectory, and how often the label is that of the true curve; ours by its status too."""
    names = [t.id for t, _ in pairs]
    true = {i: label(Curve(truth[i], truth[i], truth[i]), correct=False)[1] for i in names}

    def row(tokens: float, seconds: float, found: Sequence[tuple[str, int | None]]) -> Row:
        off = [abs(c - t) for i, c in found if c is not None and (t := true[i]) is not None]
        right = np.mean([c == true[i] for i, c in found])
        return {"tokens": tokens, "seconds": seconds, "exact": float(right), "mean_distance": float(np.mean(off))}

    peer = [float(np.mean([r[f"peer_{kind}"] for r in curve["trajectories"]])) for kind in ("tokens", "seconds")]
    rows = {"plain": row(peer[0], peer[1], [(i, critical_position([1, *counts[i], 0])) for i in names])}
    rows["plain"]["exact_simulated"] = float(np.mean([simulated(truth[i], true[i]) for i in names]))
    ways: dict[str, Callable[..., Any]] = {"paper": paper_labels, "fork": fork_labels}
    for way, labels in ways.items():
        seeds = range(400, 400 + SEEDS)
        runs = [timed(partial(listed, labels, engine, pairs, lab_sampling(seed))) for seed in seeds]
        found: list[PaperLabel | ForkLabel] = [one for done, _ in runs for one in done]
        seconds = median(taken for _, taken in runs) / len(pairs)
        tokens = float(np.mean([one.tokens_generated for one in found]))
        rows[way] = row(tokens, seconds, [(one.trajectory.id, one.critical_index) for one in found])
        rows[way] |= {"rollouts": float(np.mean([one.rollouts for one in found]))}
        rows[way] |= {f"{kind}_ratio": rows["plain"][kind] / rows[way][kind] for kind in ("tokens", "seconds")}
        settled = [(one.trajectory.id, one.critical_index) for one in found if one.status == "critical"]
        rows[way]["critical"] = len(settled) / len(found)
        rows[way]["exact_where_critical"] = float(np.mean([c == true[i] for i, c in settled]))
    return rows | {"true": true}


def listed(labels: Callable[..., Any], *arguments: Any) -> list[Any]:
    """All that an iterator gives."""
    return list(labels(*arguments))


def simulated(truth: np.ndarray, true: int | None) -> float:
    """How often 64 plain rollouts a prefix would give the true label."""
    draws = np.random.default_rng(0).binomial(ROLLOUTS, np.clip(truth, 0, 1), (SIMULATED, len(truth)))
    return float(np.mean([critical_position(one) == true for one in draws]))


def short(value: Any) -> Any:
    """With floats cut to four digits, throughout."""
    if isinstance(value, dict):
        return {key: short(v) for key, v in value.items()}
    if isinstance(value, list):
        return [short(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    """Measure, print, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trajectories", type=int, default=12)
    parser.add_argument("--lengths", type=int, nargs="+", default=[50, 100, 200, 400, 800])
    options = parser.parse_args()
    engine = load_engine("lab", device="cpu")
    assert isinstance(engine, TransformersEngine)
    trajectories = wrong_ones(engine, options.trajectories)
    pairs = list(zip(trajectories, policies(engine, trajectories, lab_sampling()), strict=True))
    truth_runs = spend(engine, pairs, TRUTH_BUDGET, range(1, 1 + TRUTH_SEEDS))
    truth = {i: np.mean([run.success for run in runs], 0) for i, runs in truth_runs.items()}
    curve, counts = curve_costs(engine, pairs, truth)
    figures: Row = {"curve": curve, "label": label_costs(engine, pairs, truth, curve, counts), "growth": []}
    for key in ("median", "together"):
        print(key, short(curve[key]))
    for key, row in figures["label"].items():
        print(f"label: {key:8}", short(row))
    for length in options.lengths:
        figures["growth"].append(at_equal_error(growth(length)))
        print(short(figures["growth"][-1]), flush=True)
    draw(figures["growth"], FIGURE)
    print(machine.save("critical", short(figures)))


if __name__ == "__main__":
    main()
