"""The fork estimator's curve beside plain rollouts from every prefix, sampled by `model.generate` and nothing of ours.

    python benchmarks/critical_truth.py [--wrong 7] [--right 3] [--rollouts 2000] [--seeds 12] [--budget 1024]

The truth at a prefix is the share of correct responses among `--rollouts` that a bare transformers model samples after
it, 250 in a batch; about 2.5 minutes a trajectory on one core. It is kept in benchmarks/results/critical_truth.json
after each trajectory, and a second run takes it from there. Then the estimator runs with `--seeds` seeds (about half a
minute each for 10 trajectories), and each prefix gives z = (mean estimate - truth) / its standard deviation. The
variance of the truth is p(1-p)/n with p halfway between the two. The trajectories are the first responses of 25 to 40
tokens to the lab's problems, wrong and right. Prints a table, adds the comparison to the same file.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from statistics import NormalDist
from typing import Any

import machine
import numpy as np
import torch

from forkpoint.curves.estimator import fork_labels
from forkpoint.curves.rollouts import CurveLabel, policies
from forkpoint.engines import load_engine
from forkpoint.engines.local.transformers_engine import TransformersEngine
from forkpoint.lab.problem_generator import load_problems
from forkpoint.tasks import grade_response
from forkpoint.trajectories.rows import sample_trajectories
from forkpoint.types import Problem, Sampling, TokenIds, Trajectory

NAME = "critical_truth"
MAX_TOKENS, BATCH = 120, 250  # of a response; of `generate`, which is fastest at about this size
SHORTEST, LONGEST = 25, 40
COMMON = 10  # expected successes and failures from which z is nearly normal

Row = dict[str, Any]


def short_ones(engine: TransformersEngine, wrong: int, right: int) -> list[Trajectory]:
    """The first wrong and the first right responses of a fitting length, one a problem."""
    sampling = Sampling(temperature=1.0, max_tokens=MAX_TOKENS)
    drawn = sample_trajectories(engine, load_problems(limit=200), sampling, n=1, prompt="cot")
    fitting = [t for t in drawn if SHORTEST <= len(t.token_ids) <= LONGEST and t.finish_reason == "stop"]
    return [t for t in fitting if not t.correct][:wrong] + [t for t in fitting if t.correct][:right]


def plain_responses(engine: TransformersEngine, prompt: TokenIds, written: TokenIds, n: int) -> Iterator[list[int]]:
    """The ids of n whole responses that begin with the written ones, the rest by `model.generate`."""
    ids = torch.tensor([[*prompt, *written]])
    end, pad = engine.tokenizer.eos_token_id, engine.tokenizer.pad_token_id
    assert end != pad
    for begin in range(0, n, BATCH):
        out = engine.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            num_return_sequences=min(BATCH, n - begin), max_new_tokens=MAX_TOKENS - len(written),
            eos_token_id=end, pad_token_id=pad,
        )  # fmt: skip
        for row in out[:, len(prompt) :].tolist():
            yield row[: row.index(end, len(written)) + 1] if end in row[len(written) :] else row


def is_correct(engine: TransformersEngine, response: list[int], problem: Problem) -> bool:
    """The verdict on a response's ids."""
    text = engine.tokenizer.decode(response, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return grade_response(text, problem, cut_off=response[-1] not in engine.ends).correct


def truth(engine: TransformersEngine, trajectory: Trajectory, rollouts: int) -> Row:
    """Correct plain rollouts after the first 0 to T-1 tokens, as a row of the file."""
    torch.manual_seed(0)
    started, tokens, counts = time.perf_counter(), 0, []
    for i in range(len(trajectory.token_ids)):
        count, verdicts = 0, dict[tuple[int, ...], bool]()
        for response in plain_responses(engine, trajectory.prompt_ids, trajectory.token_ids[:i], rollouts):
            key = tuple(response)
            if key not in verdicts:
                verdicts[key] = is_correct(engine, response, trajectory.problem)
            count += verdicts[key]
            tokens += len(response) - i
        counts.append(count)
    return {
        "id": trajectory.id, "correct": trajectory.correct, "prompt_ids": list(trajectory.prompt_ids),
        "token_ids": list(trajectory.token_ids), "rollouts": rollouts, "successes": counts, "tokens": tokens,
        "seconds": round(time.perf_counter() - started, 1),
    }  # fmt: skip


def kept_truth(trajectories: list[Trajectory], rollouts: int) -> dict[str, Row]:
    """The rows of an earlier run that hold for these trajectories and this many rollouts, by id."""
    path = machine.RESULTS / f"{NAME}.json"
    rows = {row["id"]: row for row in json.loads(path.read_text())["truth"]} if path.exists() else {}
    asked = {t.id: (list(t.prompt_ids), list(t.token_ids), rollouts) for t in trajectories}
    return {i: r for i, r in rows.items() if asked.get(i) == (r["prompt_ids"], r["token_ids"], r["rollouts"])}


def all_truth(engine: TransformersEngine, trajectories: list[Trajectory], rollouts: int) -> list[Row]:
    """Every trajectory's row, taken from the file or sampled and put there."""
    rows = kept_truth(trajectories, rollouts)
    to_do = [t for t in trajectories if t.id not in rows]
    started, left = time.perf_counter(), sum(len(t.token_ids) ** 2 for t in to_do)
    whole = left
    for t in to_do:
        rows[t.id] = truth(engine, t, rollouts)
        machine.save(NAME, {"truth": [rows[x.id] for x in trajectories if x.id in rows]})
        left -= len(t.token_ids) ** 2
        remaining = (time.perf_counter() - started) / (whole - left) * left / 60
        print(f"{t.id} {rows[t.id]['seconds']} s; about {remaining:.0f} minutes left", flush=True)
    return [rows[t.id] for t in trajectories]


def our_curves(
    engine: TransformersEngine, trajectories: list[Trajectory], seeds: int, budget: int
) -> dict[str, list[CurveLabel]]:
    """The estimator's answers by trajectory id, one a seed."""
    along = list(policies(engine, trajectories, Sampling(temperature=1.0, max_tokens=MAX_TOKENS)))
    found: dict[str, list[CurveLabel]] = {t.id: [] for t in trajectories}
    for seed in range(1, seeds + 1):
        started = time.perf_counter()
        sampling = Sampling(temperature=1.0, max_tokens=MAX_TOKENS, seed=seed)
        pairs = zip(trajectories, along, strict=True)
        for label in fork_labels(engine, pairs, sampling, budget=budget, until="budget"):
            found[label.trajectory.id].append(label)
        print(f"seed {seed} of {seeds}: {time.perf_counter() - started:.1f} s", flush=True)
    return found


def compare(row: Row, labels: list[CurveLabel]) -> Row:
    """What the seeds say at each prefix, beside the truth; `expected_coverage` is that of true 95% intervals."""
    n, p = row["rollouts"], np.array(row["successes"]) / row["rollouts"]
    curves = np.stack([label.success[:-1] for label in labels])
    lower, upper = np.stack([label.success_ci[:-1] for label in labels]).transpose(2, 0, 1)
    mean, spread = curves.mean(0), curves.std(0, ddof=1)
    common = (mean + p) / 2
    noise = common * (1 - common) / n
    deviation = np.sqrt(spread**2 / len(labels) + noise)
    z = np.divide(mean - p, deviation, out=np.full_like(p, np.nan), where=deviation > 0)
    half = (upper - lower).mean(0) / 2
    shrunk = 1.96 * np.divide(half, np.hypot(half, 1.96 * np.sqrt(noise)), out=np.ones_like(half), where=half > 0)
    return {
        "id": row["id"], "correct": row["correct"], "truth": p.round(5).tolist(), "mean": mean.round(5).tolist(),
        "spread": spread.round(5).tolist(), "z": [None if np.isnan(v) else round(float(v), 3) for v in z],
        "coverage": ((lower <= p) & (p <= upper)).mean(0).round(4).tolist(),
        "expected_coverage": [round(2 * NormalDist().cdf(float(v)) - 1, 4) for v in shrunk],
        "common": (np.minimum(common, 1 - common) * n >= COMMON).tolist(),
    }  # fmt: skip


def summary(rows: list[Row]) -> dict[str, float]:
    """Over all prefixes of all trajectories."""

    def column(name: str) -> np.ndarray:
        return np.concatenate([np.array(row[name], dtype=float) for row in rows])

    z, common, error = column("z"), column("common") > 0, column("mean") - column("truth")
    found: dict[str, float] = {"prefixes": len(z), "without_variation": int(np.isnan(z).sum())}
    for name, chosen in (("all", ~np.isnan(z)), ("common", common)):
        if not chosen.any():  # too few rollouts
            continue
        found |= {
            f"z_{name}_prefixes": int(chosen.sum()), f"z_{name}_mean": z[chosen].mean(),
            f"z_{name}_rms": np.sqrt((z[chosen] ** 2).mean()), f"z_{name}_below_1.96": (abs(z[chosen]) < 1.96).mean(),
            f"z_{name}_largest": abs(z[chosen]).max(),
        }  # fmt: skip
    found |= {
        "mean_signed_error": error.mean(), "largest_error": abs(error).max(), "rms_error": np.sqrt((error**2).mean()),
        "rms_spread_of_a_seed": np.sqrt((column("spread") ** 2).mean()), "coverage": column("coverage").mean(),
        "expected_coverage": column("expected_coverage").mean(),
    }  # fmt: skip
    return {key: round(float(value), 5) for key, value in found.items()}


def main() -> None:
    """Sample or read the truth, run the estimator, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wrong", type=int, default=7, help="wrong trajectories")
    parser.add_argument("--right", type=int, default=3, help="right trajectories")
    parser.add_argument("--rollouts", type=int, default=2000, help="plain rollouts a prefix")
    parser.add_argument("--seeds", type=int, default=12, help="runs of the estimator")
    parser.add_argument("--budget", type=int, default=1024, help="rollouts a trajectory in each of them")
    options = parser.parse_args()
    engine = load_engine("lab", device="cpu")
    assert isinstance(engine, TransformersEngine)
    trajectories = short_ones(engine, options.wrong, options.right)
    rows = all_truth(engine, trajectories, options.rollouts)
    ours = our_curves(engine, trajectories, options.seeds, options.budget)
    compared = [compare(row, ours[row["id"]]) for row in rows]
    figures = summary(compared)
    for key, value in figures.items():
        print(f"{key:28} {value:,}")
    settings = {"seeds": options.seeds, "budget": options.budget, "max_tokens": MAX_TOKENS}
    print(machine.save(NAME, settings | {"summary": figures, "comparison": compared, "truth": rows}))


if __name__ == "__main__":
    main()
