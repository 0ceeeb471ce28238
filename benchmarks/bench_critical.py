"""What the success curve and the label of a trajectory cost, beside 64 plain rollouts from every prefix.

    python benchmarks/bench_critical.py [--trajectories 24]

The peer is what one writes first: `model.generate(num_return_sequences=64)` after each token of a wrong trajectory of
the lab, each response graded. "curve": ours with one budget for all trajectories, the smallest with which the median
trajectory's error is at most the peer's; all in one call, as `forkpoint critical` does, and one trajectory at a time.
Ratios are by trajectory, of the tokens, and of the seconds: of its own call, or its share by tokens of the common one.
"label": tokens and accuracy of the label by the peer, by the paper's protocol as forkpoint runs it, and by the fork
estimator with its defaults and with few rollouts, against the label of the true curve. Some 8 minutes on an idle
machine. Prints tables, writes benchmarks/results/critical.json.
"""

from __future__ import annotations

import argparse
import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import machine
import numpy as np
from critical_growth import timed
from critical_truth import MAX_TOKENS, is_correct, plain_responses

from forkpoint.curves.estimator import WAVE, fork_labels
from forkpoint.curves.forks import Curve, label
from forkpoint.curves.paper_protocol import ROLLOUTS, critical_position, paper_labels
from forkpoint.curves.rollouts import CurveLabel, Policy, policies
from forkpoint.engines import load_engine
from forkpoint.engines.local.transformers_engine import TransformersEngine
from forkpoint.lab.problem_generator import load_problems
from forkpoint.trajectories.rows import sample_trajectories
from forkpoint.types import Sampling, Trajectory

BUDGETS = (16, 32, 48, 64, 80, 96, 128, 256)  # rollouts a trajectory, among which ours chooses
SEEDS = 5  # runs of a budget
TRUTH_SEEDS, TRUTH_BUDGET = 3, 1024  # whose mean is the true curve
FEW = (16, 32, 64)  # rollouts of a trajectory in all
SIMULATED = 2000  # draws of the peer's label from the true curve

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


def by_id(runs: Sequence[Sequence[CurveLabel]]) -> dict[str, list[CurveLabel]]:
    """The runs of each trajectory."""
    found: dict[str, list[CurveLabel]] = defaultdict(list)
    for one in itertools.chain.from_iterable(runs):
        found[one.trajectory.id].append(one)
    return found


def spend(engine: TransformersEngine, pairs: Sequence[Pair], budget: int, seeds: range) -> dict[str, list[CurveLabel]]:
    """Runs of a fixed budget, one a seed."""
    return by_id([list(fork_labels(engine, pairs, lab_sampling(s), budget=budget, until="budget")) for s in seeds])


def squared_error(curves: Sequence[np.ndarray], truth: np.ndarray) -> float:
    """Mean over prefixes of 1 to T-1 tokens; the curves have T+1 values, the truth too."""
    return float(np.mean([(np.asarray(curve)[1:-1] - truth[1:-1]) ** 2 for curve in curves]))


def curve_costs(engine: TransformersEngine, pairs: list[Pair], truth: dict[str, np.ndarray]) -> tuple[Row, Counts]:
    """The peer and ours at equal error, all in one call and one trajectory at a time; and the peer's counts by id."""
    allowed = {t.id: float(np.mean(truth[t.id][1:-1] * (1 - truth[t.id][1:-1]))) / ROLLOUTS for t, _ in pairs}
    errors: dict[int, dict[str, float]] = {}
    for budget in BUDGETS:
        runs = spend(engine, pairs, budget, range(100, 100 + SEEDS))
        errors[budget] = {i: squared_error([r.success for r in rows], truth[i]) for i, rows in runs.items()}
    ratios = {b: [errors[b][i] / allowed[i] for i in allowed] for b in BUDGETS}
    budget = next((b for b in BUDGETS if median(ratios[b]) <= 1), BUDGETS[-1])
    trajectories = [t for t, _ in pairs]
    rows: list[Row] = []
    counts: Counts = {}
    common = []  # now and then, so that a machine that slows down slows both
    for i, t in enumerate(trajectories):
        if i % max(1, len(trajectories) // SEEDS) == 0:
            common.append(timed(partial(run_alone, engine, trajectories, budget, 300 + i)))
        row, counts[t.id] = one_at_a_time(engine, t, budget, truth[t.id])
        rows.append(row | {"peer_rmse": allowed[t.id] ** 0.5})
        print(short(rows[-1]), flush=True)
    seconds = median(taken for _, taken in common)
    tokens = {
        i: float(np.mean([r.tokens_generated for r in runs])) for i, runs in by_id([f for f, _ in common]).items()
    }
    for row in rows:
        row["tokens_together"] = tokens[row["id"]]
        row["seconds_together"] = seconds * tokens[row["id"]] / sum(tokens.values())
        row |= {f"{kind}_ratio": row[f"peer_{kind}"] / row[f"{kind}_together"] for kind in ("tokens", "seconds")}
        row["seconds_ratio_alone"] = row["peer_seconds"] / row["seconds"]
    keys = ("tokens_ratio", "seconds_ratio", "seconds_ratio_alone", "rmse", "peer_rmse")
    medians = {key: median(row[key] for row in rows) for key in keys}
    whole = {
        f"{kind}_ratio": sum(row[f"peer_{kind}"] for row in rows) / sum(row[f"{kind}_together"] for row in rows)
        for kind in ("tokens", "seconds")
    }  # fmt: skip
    table = {
        b: {"rmse": float(np.mean(list(errors[b].values()))) ** 0.5, "median_ratio": median(ratios[b])} for b in BUDGETS
    }
    return {"budget": budget, "median": medians, "whole": whole, "by_budget": table, "trajectories": rows}, counts


def one_at_a_time(
    engine: TransformersEngine, trajectory: Trajectory, budget: int, truth: np.ndarray
) -> tuple[Row, list[int]]:
    """Both ways for one trajectory; ours with fresh seeds, its forward pass included, as the median of its runs."""
    (counts, tokens), seconds = timed(lambda: plain(engine, trajectory))
    runs = [timed(partial(run_alone, engine, [trajectory], budget, s)) for s in range(200, 200 + SEEDS)]
    ours = [one for (one,), _ in runs]
    return {
        "id": trajectory.id, "tokens_in_it": len(trajectory.token_ids),
        "rmse": squared_error([one.success for one in ours], truth) ** 0.5,
        "peer_rmse_measured": squared_error([np.array([0, *counts, 0]) / ROLLOUTS], truth) ** 0.5,
        "tokens": float(np.mean([one.tokens_generated for one in ours])), "peer_tokens": tokens,
        "seconds": median(taken for _, taken in runs), "peer_seconds": seconds,
    }, counts  # fmt: skip


def run_alone(engine: TransformersEngine, trajectories: list[Trajectory], budget: int, seed: int) -> list[CurveLabel]:
    """All that a user of ours waits for: the policy along the trajectories, and their curves."""
    pairs = zip(trajectories, policies(engine, trajectories, lab_sampling()), strict=True)
    return list(fork_labels(engine, pairs, lab_sampling(seed), budget=budget, until="budget"))


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
    ways |= {f"fork, at most {b}": partial(fork_labels, budget=b, wave=min(b, WAVE)) for b in FEW}
    for way, labels in ways.items():
        seeds = range(400, 400 + SEEDS)
        runs = [timed(partial(listed, labels, engine, pairs, lab_sampling(seed))) for seed in seeds]
        found: list[CurveLabel] = [one for done, _ in runs for one in done]
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
    parser.add_argument("--trajectories", type=int, default=24)
    options = parser.parse_args()
    engine = load_engine("lab", device="cpu")
    assert isinstance(engine, TransformersEngine)
    trajectories = wrong_ones(engine, options.trajectories)
    pairs = list(zip(trajectories, policies(engine, trajectories, lab_sampling()), strict=True))
    truth_runs = spend(engine, pairs, TRUTH_BUDGET, range(1, 1 + TRUTH_SEEDS))
    truth = {i: np.mean([run.success for run in runs], 0) for i, runs in truth_runs.items()}
    curve, counts = curve_costs(engine, pairs, truth)
    figures: Row = {"curve": curve, "label": label_costs(engine, pairs, truth, curve, counts)}
    for key in ("budget", "median", "whole", "by_budget"):
        print(key, short(curve[key]))
    for key, row in figures["label"].items():
        print(f"label: {key:18}", short(row))
    print(machine.save("critical", short(figures)))


if __name__ == "__main__":
    main()
