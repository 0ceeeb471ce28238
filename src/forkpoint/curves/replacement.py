"""The replacement experiment of arXiv 2411.19943, section 2: does another token in its place rescue the response?

From a wrong trajectory with critical token y_c, n responses continue after y_c, and n others take a token other than
y_c there: pass@k of the latter jumps, and that of the former stays near 0, if y_c was what decided.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from forkpoint.curves.rollouts import Policy, Rollouts, Start, other_tokens, policies, roll_out, uniforms_of
from forkpoint.engines import Engine
from forkpoint.proportions import pass_at_k, pass_at_k_interval
from forkpoint.text import pieces
from forkpoint.trajectories.rows import Row
from forkpoint.types import Sampling, Trajectory

ROLLOUTS = 64  # section 2 of the paper
UNTRUNCATED = Sampling()
Critical = tuple[Trajectory, Policy, int]
"""A trajectory, its policy, and the index c of its critical token."""


def replace_critical(
    engine: Engine, criticals: Sequence[Critical], sampling: Sampling, *, n: int = ROLLOUTS
) -> Iterator[Row]:
    """A row for each trajectory with its policy under `sampling` and its critical token, in order.

        {"id": "lab/test/0/0/0", "problem_id": "lab/test/0/0", "critical_index": 12, "n": 64, "without": 0, "with": 23,
         "replaced": [{"token_id": 78, "token": " 1", "correct": true}], "tokens_generated": 5120, "untruncated": false}

    `without` and `with` count the correct ones of n fresh rollouts without replacement (from the prefix that ends with
    y_c) and with it (after the tokens before y_c and another one). Other tokens are drawn from the policy without y_c,
    renormalised; where the policy's truncation leaves no other token, from the model's own distribution at temperature
    1 (`untruncated`). Rollouts are independent of those that made the labels, and every draw is a function of
    (seed, trajectory id, rollout number).
    """
    starts = []
    for trajectory, policy, c in criticals:
        starts += [Start(f"{trajectory.id}/kept/{i}", trajectory, c + 1) for i in range(n)]
        starts += _replaced(engine, trajectory, policy, c, sampling, n)
    rollouts = roll_out(engine, starts, sampling)
    for critical in criticals:
        yield _row(engine, *critical, n, rollouts)


def replacement_table(rows: Sequence[Row]) -> list[Row]:
    """pass@k for k = 1..n, averaged over problems: {k, without, without_ci95, with, with_ci95} for each k.

    A row's n rollouts are n/k answers of k tries. Intervals are `pass_at_k_interval`'s, with all trajectories of a
    problem as one cluster.
    """
    by_problem = defaultdict(list)
    for row in rows:
        by_problem[row["problem_id"]].append(row)
    table = []
    for k in range(1, min((row["n"] for row in rows), default=0) + 1):
        line: Row = {"k": k}
        for arm in ("without", "with"):
            scores = [[pass_at_k(row["n"], row[arm], k) for row in cluster] for cluster in by_problem.values()]
            line[arm] = round(float(np.mean([np.mean(cluster) for cluster in scores])), 6)
            interval = pass_at_k_interval(scores, sum(row["n"] for row in rows), k)
            line[f"{arm}_ci95"] = [round(end, 6) for end in interval]
        table.append(line)
    return table


def _has_others(policy: Policy, c: int) -> bool:
    """Whether the policy has another token than the trajectory's own at c."""
    return bool(policy.probs[c].any() or policy.outside[c])


def _replaced(
    engine: Engine, trajectory: Trajectory, policy: Policy, c: int, sampling: Sampling, n: int
) -> list[Start]:
    """n rollouts with another token at c."""
    keys = [f"{trajectory.id}/replaced/{i}" for i in range(n)]
    u = uniforms_of(sampling.seed, [f"{key}/token" for key in keys]).tolist()
    starts = [Start(key, trajectory, c, policy=policy, u=x) for key, x in zip(keys, u, strict=True)]
    if _has_others(policy, c):
        return starts
    (wider,) = policies(engine, [trajectory], UNTRUNCATED)
    tokens = other_tokens(engine, [replace(start, policy=wider) for start in starts], UNTRUNCATED)
    # even at temperature 1 all others may have probability 0 in float32: then the most probable one
    likeliest = next(int(v) for v in wider.ids[c] if v != trajectory.token_ids[c])
    forced = [likeliest if v is None else v for v in tokens]
    return [Start(key, trajectory, c, (v,)) for key, v in zip(keys, forced, strict=True)]


def _row(engine: Engine, trajectory: Trajectory, policy: Policy, c: int, n: int, rollouts: Rollouts) -> Row:
    kept, replaced = ([rollouts[f"{trajectory.id}/{arm}/{i}"] for i in range(n)] for arm in ("kept", "replaced"))
    tokens = [rollout.token_ids[0] for rollout in replaced]
    texts = {v: pieces(engine.tokenizer, (*trajectory.token_ids[:c], v))[-1] for v in set(tokens)}
    return {
        "id": trajectory.id,
        "problem_id": trajectory.problem.id,
        "critical_index": c,
        "n": n,
        "without": sum(rollout.correct for rollout in kept),
        "with": sum(rollout.correct for rollout in replaced),
        "replaced": [
            {"token_id": v, "token": texts[v], "correct": rollout.correct}
            for v, rollout in zip(tokens, replaced, strict=True)
        ],
        "tokens_generated": sum(rollout.generated for rollout in (*kept, *replaced)),
        "untruncated": not _has_others(policy, c),
    }
