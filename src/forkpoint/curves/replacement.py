"""The replacement experiment of arXiv 2411.19943, section 2: does another token in its place rescue the response?

From a wrong trajectory with critical token y_c, n responses continue after y_c, and n others take a token other than
y_c there: pass@k of the latter jumps, and that of the former stays near 0, if y_c was what decided.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from forkpoint.curves.rollouts import Policy, Rollout, Start, hashes, other_tokens, policies, roll_out
from forkpoint.engines import Engine
from forkpoint.proportions import pass_at_k, pass_at_k_interval
from forkpoint.sampling.draw import uniforms
from forkpoint.text import pieces
from forkpoint.trajectories.rows import Row
from forkpoint.types import Sampling, Trajectory

ROLLOUTS = 64  # section 2 of the paper
UNTRUNCATED = Sampling()
Critical = tuple[Trajectory, Policy, int]
"""A trajectory, its policy, and the index c of its critical token."""


def replace_critical(
    engine: Engine, criticals: Iterable[Critical], sampling: Sampling, *, n: int = ROLLOUTS, together: int = 32
) -> Iterator[Row]:
    """A row for each trajectory with its policy under `sampling` and its critical token, in order.

        {"id": "lab/test/0/0/0", "problem_id": "lab/test/0/0", "critical_index": 12, "n": 64, "without": 0, "with": 23,
         "replaced": [{"token_id": 78, "token": " 1", "correct": true}], "tokens_generated": 5120, "untruncated": false}

    `without` and `with` count the correct ones of n fresh rollouts without replacement (from the prefix that ends with
    y_c) and with it (after the tokens before y_c and another one). Other tokens are drawn from the policy without y_c,
    renormalised; where the policy's truncation leaves no other token, from the model's own distribution at temperature
    1 (`untruncated`). Rollouts are independent of those that made the labels, and every draw is a function of
    (seed, trajectory id, rollout number), whatever `together` is.
    """
    source = iter(criticals)
    while batch := list(islice(source, together)):
        replacements = _replacements(engine, batch, sampling, n)
        starts = []
        for (trajectory, _, c), (tokens, _) in zip(batch, replacements, strict=True):
            starts += [Start(f"{trajectory.id}/kept/{i}", trajectory, c + 1) for i in range(n)]
            starts += [Start(f"{trajectory.id}/replaced/{i}", trajectory, c, (v,)) for i, v in enumerate(tokens)]
        rollouts = {rollout.key: rollout for rollout in roll_out(engine, starts, sampling)}
        for (trajectory, _, c), (tokens, untruncated) in zip(batch, replacements, strict=True):
            yield _row(engine, trajectory, c, tokens, rollouts) | {"untruncated": untruncated}


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


def _replacements(
    engine: Engine, batch: Sequence[Critical], sampling: Sampling, n: int
) -> list[tuple[list[int], bool]]:
    """For each trajectory n other tokens, and whether they had to come from the untruncated distribution."""
    tokens = _other(engine, batch, sampling, sampling.seed, n)
    bare = [i for i, row in enumerate(tokens) if None in row]
    wider = policies(engine, [batch[i][0] for i in bare], UNTRUNCATED)
    again = [(batch[i][0], policy, batch[i][2]) for i, policy in zip(bare, wider, strict=True)]
    for i, row in zip(bare, _other(engine, again, UNTRUNCATED, sampling.seed, n), strict=True):
        tokens[i] = row
    replacements = []
    for i, ((trajectory, policy, c), row) in enumerate(zip(batch, tokens, strict=True)):
        # even at temperature 1 all others may have probability 0 in float32: then the most probable one
        likeliest = next(int(v) for v in policy.ids[c] if v != trajectory.token_ids[c])
        replacements.append(([likeliest if v is None else v for v in row], i in bare))
    return replacements


def _other(engine: Engine, batch: Sequence[Critical], sampling: Sampling, seed: int, n: int) -> list[list[int | None]]:
    starts = []
    for trajectory, policy, c in batch:
        keys = [f"{trajectory.id}/replaced/{i}/token" for i in range(n)]
        u = uniforms(hashes(seed, keys), 0).tolist()
        starts += [Start(key, trajectory, c, policy=policy, u=x) for key, x in zip(keys, u, strict=True)]
    tokens = other_tokens(engine, starts, sampling)
    return [tokens[start : start + n] for start in range(0, len(tokens), n)]


def _row(engine: Engine, trajectory: Trajectory, c: int, tokens: Sequence[int], rollouts: dict[str, Rollout]) -> Row:
    kept = [rollouts[f"{trajectory.id}/kept/{i}"] for i in range(len(tokens))]
    replaced = [rollouts[f"{trajectory.id}/replaced/{i}"] for i in range(len(tokens))]
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
