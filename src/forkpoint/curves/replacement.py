"""The replacement experiment of arXiv 2411.19943, section 2: does another token in its place rescue the response?

From a wrong trajectory with critical token y_c, n responses continue after y_c, and n others take a token other than
y_c there: pass@k of the latter jumps, and that of the former stays near 0, if y_c was what decided.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from forkpoint.curves.divergence import Fork, other_tokens
from forkpoint.curves.rollout_policy import Policy, policies
from forkpoint.curves.rollouts import Rollout, Start, roll_out
from forkpoint.engines import Engine
from forkpoint.proportions import pass_at_k, pass_at_k_interval
from forkpoint.sampling.draw import key_hash, uniforms
from forkpoint.text import pieces
from forkpoint.types import Sampling, Trajectory

Row = dict[str, Any]
ROLLOUTS = 64  # section 2 of the paper
UNTRUNCATED = Sampling()


def replace_critical(
    engine: Engine,
    found: Iterable[tuple[Trajectory, Policy, int]],
    sampling: Sampling,
    *,
    n: int = ROLLOUTS,
    together: int = 32,
) -> Iterator[Row]:
    """A row for each (trajectory, its policy under `sampling`, index c of its critical token), in order.

    A row holds `id`, `problem_id`, `critical_index`, `n`; `without` and `with`: how many of n fresh rollouts are
    correct without replacement (from the prefix that ends with y_c) and with it (after the tokens before y_c and
    another one); `replaced`: n of {token_id, token, correct}; and `tokens_generated`. Other tokens are drawn from the
    policy with y_c's probability set to zero, renormalised; where the policy's truncation leaves no other token, from
    the model's own distribution at temperature 1 (`untruncated` is then true). Rollouts are independent of those that
    made the labels, and every draw is a function of (seed, trajectory id, rollout number), whatever `together` is.
    """
    source = iter(found)
    while batch := list(islice(source, together)):
        drawn = _replacements(engine, batch, sampling, n)
        starts = []
        for (trajectory, _, c), (tokens, _) in zip(batch, drawn, strict=True):
            starts += [Start(f"{trajectory.id}/kept/{i}", trajectory, c + 1) for i in range(n)]
            starts += [Start(f"{trajectory.id}/replaced/{i}", trajectory, c, (v,)) for i, v in enumerate(tokens)]
        done = {rollout.key: rollout for rollout in roll_out(engine, starts, sampling)}
        for (trajectory, _, c), (tokens, untruncated) in zip(batch, drawn, strict=True):
            yield _row(engine, trajectory, c, tokens, done) | {"untruncated": untruncated}


def replacement_table(rows: Sequence[Row]) -> list[Row]:
    """pass@k for k = 1..n, averaged over problems: {k, without, without_ci95, with, with_ci95} for each k.

    pass@k is the unbiased estimator 1 - C(n-c, k) / C(n, k); a row's n rollouts are n/k answers of k tries. Intervals
    are `pass_at_k_interval`'s, with all trajectories of a problem as one cluster.
    """
    n = min((row["n"] for row in rows), default=0)
    by_problem = defaultdict(list)
    for row in rows:
        by_problem[row["problem_id"]].append(row)
    table = []
    for k in range(1, n + 1):
        line: Row = {"k": k}
        for arm in ("without", "with"):
            scores = [[pass_at_k(row["n"], row[arm], k) for row in some] for some in by_problem.values()]
            line[arm] = round(float(np.mean([np.mean(some) for some in scores])), 6)
            interval = pass_at_k_interval(scores, sum(row["n"] for row in rows), k)
            line[f"{arm}_ci95"] = [round(end, 6) for end in interval]
        table.append(line)
    return table


def _replacements(
    engine: Engine, batch: Sequence[tuple[Trajectory, Policy, int]], sampling: Sampling, n: int
) -> list[tuple[list[int], bool]]:
    """For each trajectory n other tokens, and whether they had to come from the untruncated distribution."""
    tokens = _others(engine, batch, sampling, sampling.seed, n)
    bare = [i for i, drawn in enumerate(tokens) if None in drawn]
    trajectories = [batch[i][0] for i in bare]
    wider = list(policies(engine, trajectories, UNTRUNCATED))
    again = [(t, policy, batch[i][2]) for t, policy, i in zip(trajectories, wider, bare, strict=True)]
    for i, drawn in zip(bare, _others(engine, again, UNTRUNCATED, sampling.seed, n), strict=True):
        tokens[i] = drawn
    found = []
    for i, ((trajectory, policy, c), drawn) in enumerate(zip(batch, tokens, strict=True)):
        # even at temperature 1 all others may have probability 0 in float32: then the most probable one
        likeliest = next(int(v) for v in policy.ids[c] if v != trajectory.token_ids[c])
        found.append(([likeliest if v is None else v for v in drawn], i in bare))
    return found


def _others(
    engine: Engine, batch: Sequence[tuple[Trajectory, Policy, int]], sampling: Sampling, seed: int, n: int
) -> list[list[int | None]]:
    forks = []
    for trajectory, policy, c in batch:
        keys = [f"{trajectory.id}/replaced/{i}/token" for i in range(n)]
        u = uniforms(np.array([key_hash(seed, key) for key in keys], dtype=np.uint64), 0)
        forks += [Fork(trajectory, policy, c, float(v)) for v in u]
    drawn = other_tokens(engine, forks, sampling)
    return [drawn[start : start + n] for start in range(0, len(drawn), n)]


def _row(engine: Engine, trajectory: Trajectory, c: int, tokens: Sequence[int], done: dict[str, Rollout]) -> Row:
    kept = [done[f"{trajectory.id}/kept/{i}"] for i in range(len(tokens))]
    replaced = [done[f"{trajectory.id}/replaced/{i}"] for i in range(len(tokens))]
    texts = {v: pieces(engine.tokenizer, (*trajectory.token_ids[:c], v))[-1] for v in set(tokens)}
    return {
        "id": trajectory.id,
        "problem_id": trajectory.problem.id,
        "critical_index": c,
        "n": len(tokens),
        "without": sum(rollout.correct for rollout in kept),
        "with": sum(rollout.correct for rollout in replaced),
        "replaced": [
            {"token_id": v, "token": texts[v], "correct": rollout.correct}
            for v, rollout in zip(tokens, replaced, strict=True)
        ],
        "tokens_generated": sum(rollout.generated for rollout in (*kept, *replaced)),
    }
