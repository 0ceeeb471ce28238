"""Naive float64 numpy versions of the truncations, straight from their definitions, and rows to try them on."""

from __future__ import annotations

import numpy as np
import torch

SOFT_BAN = 1e4


def live(row: np.ndarray) -> np.ndarray:
    """Where a logit is finite and not a soft ban."""
    top = row[np.isfinite(row)].max()
    return np.isfinite(row) & (row > top - SOFT_BAN)


def softmax(row: np.ndarray) -> np.ndarray:
    weights = np.exp(row - row.max())
    return weights / weights.sum()


def top_n_sigma_threshold(row: np.ndarray, n: float) -> float:
    return float(row.max() - n * np.std(row[live(row)]))


def p_less_threshold(row: np.ndarray) -> float:
    """The logit whose probability is Σ p²."""
    log_total = row.max() + np.log(np.exp(row - row.max()).sum())
    return float(log_total + np.log((softmax(row) ** 2).sum()))


def min_k_kept(row: np.ndarray, tau: float) -> np.ndarray:
    """The mask of min-k by a full sort, ties with the k-th kept."""
    alive = live(row)
    ordered = np.sort(row[alive])[::-1]
    spread = ordered[0] - ordered[-1]
    if spread == 0:
        return alive
    decay = (ordered[:-1] - ordered[1:]) / spread / np.arange(1, len(ordered))
    k = max(int(np.argmax(decay)) + 1, int(min(tau / spread, len(ordered))))
    return alive & (row >= ordered[k - 1])


def awkward_rows(rows: int, vocab: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Random logits [rows, vocab]: a seventh plain, then far from 0, banned, softly banned, tied, lone, and flat."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1, (rows, vocab)) * rng.uniform(0.01, 10, (rows, 1))
    for row, kind in zip(logits, np.arange(rows) % 7, strict=True):
        some = rng.random(vocab) < rng.uniform(0.05, 0.9)
        some[rng.integers(vocab)] = False
        if kind == 1:
            row += rng.choice([-1, 1]) * rng.uniform(100, 5000)
        elif kind == 2:
            row[some] = -np.inf
        elif kind == 3:
            row[some] = rng.choice([-1e9, -65504.0, np.finfo(np.float32).min])
        elif kind == 4:
            row[:] = np.round(row)
        elif kind == 5:
            row[np.arange(vocab) != rng.integers(vocab)] = -np.inf
        elif kind == 6:
            row[:] = row[0]
            row[some] = -np.inf
    return torch.from_numpy(logits).to(dtype)
