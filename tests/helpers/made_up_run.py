"""A finished `critical` run over the lab model's own responses, with made-up chances at the forks.

The curve follows from them exactly as a real one does: p before a token = π · p after it + (1 − π) · q at the fork.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np

from forkpoint.engines import Engine
from forkpoint.tasks import load_problems
from forkpoint.text import decode
from forkpoint.trajectories.rows import sample_trajectories, trajectory_row
from forkpoint.types import Sampling

Row = dict[str, Any]
SUMMARY: Row = {
    "model": "lab",
    "task": "lab",
    "protocol": "forks",
    "prompt": "cot",
    "which": "all",
    "responses": {"n": 80, "correct": 33, "no_answer": 2},
    "n_trajectories": 0,
    "n_wrong": 47,
    "success_bias": None,
    "share_critical": 0.42,
    "share_critical_ci95": [0.35, 0.49],
    "critical_position": {"mean": 23.4, "median": 22, "relative_mean": 0.46},
    "token_kinds": [{"kind": "number", "count": 31}, {"kind": "word", "count": 12}, {"kind": "operator", "count": 4}],
    "rollouts": 20160,
    "tokens_generated": 803221,
    "brute_force_tokens": 7612000,
    "seconds": 48.2,
    "sampling": {"temperature": 1.0, "top_p": 0.95, "max_tokens": 80, "seed": 0},
    "version": "0.1.0",
    "replacement": {
        "n_trajectories": 47,
        "table": [
            {"k": k, "without": 0.002 * k, "without_ci95": [0.001 * k, 0.003 * k],
             "with": 1 - 0.97**k, "with_ci95": [1 - 0.98**k, 1 - 0.96**k]}
            for k in range(1, 65)
        ],
    },
}  # fmt: skip


def made_up_rows(lab: Engine, problems: int = 20, n: int = 4) -> list[Row]:
    """Rows of critical.jsonl, `n` to each of the lab's first problems."""
    sampling = Sampling(temperature=1.0, top_p=0.95, max_tokens=80)
    found = sample_trajectories(lab, load_problems("lab", limit=problems), sampling, n=n, prompt="cot")
    scored = lab.score(
        [t.prompt_ids + t.token_ids for t in found], top=4, sampling=sampling, starts=[len(t.prompt_ids) for t in found]
    )
    rows = []
    for t, s in zip(found, scored, strict=True):
        own = slice(len(t.prompt_ids), len(t.prompt_ids) + len(t.token_ids))
        columns = {"policy_prob": s.policy, "entropy": s.entropy, "gap": s.gaps, "logprob": s.logprobs}
        row = trajectory_row(t, lab.tokenizer) | {key: value[own].tolist() for key, value in columns.items()}
        rows.append(_with_curve(row, s.top_ids[own], s.top_policy[own], lab))
    return rows


def _with_curve(row: Row, top_ids: np.ndarray, top_policy: np.ndarray, lab: Engine) -> Row:
    chance = random.Random(row["id"])
    length = len(row["token_ids"])
    slip = chance.randrange(length // 4, length) if not row["correct"] else length
    alternatives, q = [], []
    for t in range(length):
        rescued = min(1.0, max(0.0, chance.gauss(0.6, 0.2))) if t <= slip else 0.0
        q.append(rescued)
        for token, policy in zip(top_ids[t].tolist(), top_policy[t].tolist(), strict=True):
            if policy > 0 and token != row["token_ids"][t]:
                n = round(64 * policy)
                share = round(rescued * n) / n if n else None
                alternatives.append(
                    {"position": t, "token_id": token, "token": decode(lab.tokenizer, [token]), "policy_prob": policy,
                     "success": share, "n": n}
                )  # fmt: skip
    success = [float(row["correct"])]
    for t in reversed(range(length)):
        success.insert(0, row["policy_prob"][t] * success[0] + (1 - row["policy_prob"][t]) * q[t])
    low = [i for i, p in enumerate(success) if p < 1 / 64 and all(x < 0.05 for x in success[i:])]
    critical = low[0] - 1 if low and low[0] and not row["correct"] else None
    undecided = critical is None and not row["correct"]
    return row | {
        "success": success,
        "success_ci": [_interval(p) for p in success],
        "status": "critical" if critical is not None else "undecided" if undecided else "none",
        "critical_index": critical,
        "alternatives": alternatives,
        "rollouts": sum(a["n"] for a in alternatives),
        "tokens_generated": 30 * length,
    }


def _interval(p: float) -> list[float]:
    half = 2 * math.sqrt((p * (1 - p) + 0.003) / 64)
    return [max(0.0, p - half), min(1.0, p + half)]


def write_run(out: Path, rows: list[Row], **changes: Any) -> Path:
    """Write a run's files; `changes` go over the made-up summary."""
    out.mkdir(parents=True, exist_ok=True)
    statuses = {s: sum(row.get("status") == s for row in rows) for s in ("critical", "none", "undecided")}
    summary = SUMMARY | {"n_trajectories": len(rows), "statuses": statuses} | changes
    (out / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    (out / "critical.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return out
