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
    """The class of each of n tokens: an index into CLASSES, or NONE.

    `delta` is what the least-squares line changes by from the first checkpoint to the last, in nats; NaN where the
    class is NONE. `mean` is the loss at the last checkpoint above which a token that did not move is H→H.
    """

    classes: Int8[np.ndarray, " n"]
    delta: Float32[np.ndarray, " n"]
    mean: float


def classify(losses: Float[np.ndarray, "C n"], mean: float | None = None) -> Dynamics:
    """The class of each token by its losses, in nats, at C ≥ 2 equally spaced checkpoints (arXiv 2404.07965).

    H→L where the line falls by more than 0.2 nats, L→H where it rises by more; else L→L where the last loss is not
    above `mean`, and H→H where it is. `mean` is that of all the tokens' last losses, unless the tokens are a part of
    more and the mean of all is given. A token with a loss that is not finite, at any checkpoint, has no class. Losses
    count as float32; beside them it takes a few numbers a token.
    """
    assert len(losses) >= 2, "a line needs two checkpoints"
    losses = losses.astype(np.float32, copy=False)
    known = np.isfinite(losses[0])
    for row in losses[1:]:
        known &= np.isfinite(row)
    last = losses[-1]
    if mean is None:
        mean = float(last.mean(where=known, dtype=np.float64)) if known.any() else float("nan")
    delta = _line_change(losses)
    delta[~known] = np.nan
    still = np.where(last > np.float32(mean), HH, LL)
    classes = np.select([~known, delta < np.float32(FALL), delta > np.float32(RISE)], [NONE, HL, LH], still)
    return Dynamics(classes.astype(np.int8), delta, mean)


def _line_change(losses: Float32[np.ndarray, "C n"]) -> Float32[np.ndarray, " n"]:
    """Slope times (C - 1) of each token's least-squares line over the checkpoints 0 to C - 1."""
    count = len(losses)
    x = np.arange(count) - (count - 1) / 2
    weights = x * (count - 1) / (x @ x)
    change = np.zeros(losses.shape[1])
    with np.errstate(invalid="ignore"):  # inf - inf of tokens that get no class
        for i in range(count // 2):  # in pairs, so that a constant loss changes by 0; no float64 copy of all the losses
            change += weights[-1 - i] * (losses[-1 - i].astype(np.float64) - losses[i])
    return change.astype(np.float32)


def class_names(classes: Int8[np.ndarray, " n"]) -> list[str | None]:
    """The name of each token's class, None where it has none."""
    return [CLASSES[c] if c != NONE else None for c in classes.tolist()]


def dynamics_summary(
    losses: Float[np.ndarray, "C n"], dynamics: Dynamics, checkpoints: Sequence[str]
) -> dict[str, Any]:
    """The classes over tokens and checkpoints as plain data, what `dynamics` is in a run's summary.json.

    `{"checkpoints": the C names, "tokens": those with a class, "mean_last_loss", "classes": {name: {"tokens",
    "share", "mean_loss"}}}`: `share` is of the tokens with a class, and `mean_loss` holds a number a checkpoint. What
    has no tokens to be taken over is None.
    """
    bins = dynamics.classes.astype(np.intp) - NONE
    counts = np.bincount(bins, minlength=1 + len(CLASSES))[1:].tolist()
    sums = [np.bincount(bins, weights=row, minlength=1 + len(CLASSES))[1:].tolist() for row in losses]
    total = sum(counts)
    classes = {
        name: {
            "tokens": n,
            "share": n / total if total else None,
            "mean_loss": [row[i] / n if n else None for row in sums],
        }
        for i, (name, n) in enumerate(zip(CLASSES, counts, strict=True))
    }
    assert len(checkpoints) == len(losses)
    mean = dynamics.mean if np.isfinite(dynamics.mean) else None
    return {"checkpoints": list(checkpoints), "tokens": total, "mean_last_loss": mean, "classes": classes}
