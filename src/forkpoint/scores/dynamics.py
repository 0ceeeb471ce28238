"""Token dynamics: how the loss of each token moves over the checkpoints of a training run.

Arithmetic on arrays of losses; where they come from is not known here. The classes are those of Rho-1 (Lin et al.
2024, arXiv 2404.07965): H→L is learned, L→H unlearned, L→L was known already, and H→H stays hard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int8

DOCUMENTS = "documents.jsonl"  # of a run: documents with their tokens' numbers and classes
CLASSES = ("H→H", "L→H", "H→L", "L→L")
HH, LH, HL, LL = range(4)
NONE = -1  # of a token without a loss at some checkpoint, such as a document's first
FALL, RISE = -0.2, 0.2  # nats along the line, beyond which a loss has moved (arXiv 2404.07965)


@dataclass(frozen=True, slots=True)
class Dynamics:
    """The class of each of n tokens, an index into CLASSES or NONE, and what its least-squares line changes by from the
    first checkpoint to the last (nats; NaN for NONE). A token that did not move is H→H above the last loss `mean`."""

    classes: Int8[np.ndarray, " n"]
    delta: Float32[np.ndarray, " n"]
    mean: float


def classify(losses: Float[np.ndarray, "C n"], mean: float | None = None) -> Dynamics:
    """The class of each token by its losses, in nats, at C ≥ 2 equally spaced checkpoints (arXiv 2404.07965).

    H→L where the line falls by more than 0.2 nats, L→H where it rises by more; else L→L up to a last loss of `mean`
    (default: that of these tokens' last losses), H→H above. A token with a loss that is not finite has no class.
    """
    losses = losses.astype(np.float32, copy=False)
    known = np.isfinite(losses).all(axis=0)
    last = losses[-1]
    if mean is None:
        mean = float(last.mean(where=known, dtype=np.float64)) if known.any() else float("nan")
    delta = np.where(known, _line_change(losses), np.float32(np.nan))
    still = np.where(last > np.float32(mean), HH, LL)
    classes = np.select([~known, delta < np.float32(FALL), delta > np.float32(RISE)], [NONE, HL, LH], still)
    return Dynamics(classes.astype(np.int8), delta, mean)


def _line_change(losses: Float32[np.ndarray, "C n"]) -> Float32[np.ndarray, " n"]:
    """Slope times (C - 1) of each token's least-squares line over the checkpoints 0 to C - 1."""
    n = len(losses)
    x = np.arange(n) - (n - 1) / 2
    weights = x * (n - 1) / (x @ x)
    change = np.zeros(losses.shape[1])
    with np.errstate(invalid="ignore"):  # inf - inf of tokens that get no class
        for i in range(n // 2):  # in pairs, so that a constant loss changes by 0; no float64 copy of all the losses
            change += weights[-1 - i] * (losses[-1 - i].astype(np.float64) - losses[i])
    return change.astype(np.float32)


def class_names(classes: Int8[np.ndarray, " n"]) -> list[str | None]:
    """The name of each token's class, None where it has none."""
    return [CLASSES[c] if c != NONE else None for c in classes.tolist()]


def dynamics_summary(
    losses: Float[np.ndarray, "C n"], dynamics: Dynamics, checkpoints: Sequence[str]
) -> dict[str, Any]:
    """The classes over tokens and checkpoints as plain data, what `dynamics` is in a run's summary.json.

    `{"checkpoints": ["step-1", "step-2"], "tokens": 40, "mean_last_loss": 1.2, "classes": {"H→L": {"tokens": 10,
    "share": 0.25, "mean_loss": [2.5, 0.5]}, ...}}`; what has no tokens to be taken over is None.
    """
    bins = dynamics.classes.astype(np.intp) - NONE
    counts, *sums = (np.bincount(bins, weights=row, minlength=1 + len(CLASSES))[1:].tolist() for row in (None, *losses))
    total = sum(counts)
    classes = {
        name: {
            "tokens": n,
            "share": n / total if total else None,
            "mean_loss": [part / n if n else None for part in own],
        }
        for name, n, *own in zip(CLASSES, counts, *sums, strict=True)
    }
    mean = dynamics.mean if np.isfinite(dynamics.mean) else None
    return {"checkpoints": list(checkpoints), "tokens": total, "mean_last_loss": mean, "classes": classes}
