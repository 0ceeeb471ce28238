"""A finished run over plain documents in the lab's tokens, with every column that a page may show, made up."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from forkpoint.scores.dynamics import class_names, classify, dynamics_summary
from forkpoint.tasks import load_problems
from forkpoint.text import pieces

Row = dict[str, Any]
CHECKPOINTS = ["step-0", "step-200", "step-400", "step-600", "step-800"]
NOISE = ("boilerplate", "typo")


def made_up_documents(tokenizer: Any, n: int = 10) -> tuple[list[Row], Row]:
    """Rows of documents.jsonl, and their summary."""
    rows, losses = [], []
    for problem in load_problems("lab", limit=n):
        worked = f"{problem.question}\nThe answer is {problem.answer}.\n\nSubscribe to our letter. Sign up now!"
        ids = tokenizer(worked, add_special_tokens=False)["input_ids"]
        chance = np.random.default_rng(random.Random(problem.id).randrange(2**32))
        losses.append(_losses(chance, len(ids)))
        noisy = range(len(ids) - 9, len(ids))
        noise = [NOISE[0] if t in noisy else NOISE[1] if chance.random() < 0.02 else None for t in range(len(ids))]
        rows.append({"id": problem.id, "token_ids": ids, "tokens": pieces(tokenizer, ids), "noise": noise})
    dynamics = classify(np.concatenate(losses, axis=1))
    names, delta, at = class_names(dynamics.classes), dynamics.delta, 0
    for row, own in zip(rows, losses, strict=True):
        part = slice(at, at := at + len(row["token_ids"]))
        reference = np.clip(own[-1] + np.random.default_rng(at).normal(0, 0.7, own.shape[1]), 0.01, None)
        columns = {"loss": own[-1], "reference_loss": reference, "excess_loss": own[-1] - reference,
                   "reference_entropy": reference * 0.8, "delta": delta[part]}  # fmt: skip
        row |= {key: [None if np.isnan(v) else float(v) for v in values] for key, values in columns.items()}
        row["class"] = names[part]
        row["selected"] = [None if v is None else int(v > 0) for v in row["excess_loss"]]
    summary = {"model": "lab", "documents": len(rows), "ratio": 0.6, "sampling": {"ignored": 1}, "version": "0.1.0"}
    return rows, summary | {"dynamics": dynamics_summary(np.concatenate(losses, axis=1), dynamics, CHECKPOINTS)}


def _losses(chance: np.random.Generator, n: int) -> np.ndarray:
    """Losses of n tokens at every checkpoint; the first token has none."""
    moves = chance.choice([-1.5, 0, 0, 0.8], n) * chance.random(n)
    losses = chance.gamma(0.9, 1.6, n) + 0.3 + moves * np.linspace(0, 1, len(CHECKPOINTS))[:, None]
    losses = np.clip(losses + chance.normal(0, 0.05, losses.shape), 0.001, None)
    losses[:, 0] = np.nan
    return losses.astype(np.float32)


def write_documents(out: Path, rows: list[Row], summary: Row) -> Path:
    """Write a run's files."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    (out / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return out
