"""The scores that tokens are shaded by, wherever a run is shown, and each token's shade.

Terminal and notebooks shade by the rule in templates/text.js.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from forkpoint.jsonl import Row
from forkpoint.scores.dynamics import CLASSES

SHADES = 10  # from no shade (0) to the strongest (9)
SURE, UNSURE = 20, 5  # σ of the largest logit above the mean without shade, and at the strongest
LOSS, CHANGE, ENTROPY = 5, 2, 2.5  # nats of the strongest shade


@dataclass(frozen=True, slots=True)
class ShownScore:
    """A score that tokens can be shaded by: `light` is the value without shade, `strong` that of the strongest shade.

    They are the same of every run, so that shades can be compared. "success" and "drop" are read off the curve, every
    other key names a column of the rows. A `two_sided` score is shaded on both sides of `light`, in two hues, as
    strongly at as far a distance.
    """

    key: str
    label: str
    light: float
    strong: float
    two_sided: bool = False


@dataclass(frozen=True, slots=True)
class Category:
    """A column of names, or of whole numbers that stand for the `values`, a colour each but for the first `plain`.

    Names that are not among the values follow them, as they come in the rows.
    """

    key: str
    label: str
    values: tuple[str, ...] = ()
    plain: int = 0


SCORES = (
    ShownScore("success", "success after the token", 1, 0),
    ShownScore("drop", "drop of success at the token", 0, 0.5),
    ShownScore("s", "contrastive score s", 1, 0),
    ShownScore("weight", "weight 1 − s in training", 0, 1),
    ShownScore("policy_prob", "policy probability π", 1, 0),
    ShownScore("entropy", "entropy in nats", 0, ENTROPY),
    ShownScore("gap", "gap between the two likeliest", 1, 0),
    ShownScore("distance", "largest logit above the mean in σ", SURE, UNSURE),
    ShownScore("loss", "loss in nats", 0, LOSS),
    ShownScore("reference_loss", "reference loss in nats", 0, LOSS),
    ShownScore("excess_loss", "excess loss in nats", 0, CHANGE, two_sided=True),
    ShownScore("reference_entropy", "reference entropy in nats", 0, ENTROPY),
    ShownScore("delta", "change of loss Δ in nats", 0, CHANGE, two_sided=True),
)
COLUMNS = (
    "policy_prob", "logprob", "entropy", "gap", "distance", "s", "logprob_positive", "logprob_negative", "weight",
    "loss", "reference_loss", "excess_loss", "reference_entropy", "delta",
)  # fmt: skip
CATEGORIES = (
    Category("class", "class of dynamics", CLASSES),
    Category("selected", "selected", ("left out", "selected"), plain=1),
    Category("noise", "noise"),
)


Score = ShownScore | Category


@dataclass(frozen=True, slots=True)
class Shade:
    """0 (none) to 9 (strongest), on the far side of a two-sided score `below`; of a category the `name` to colour."""

    strength: int = 0
    below: bool = False
    name: str | None = None


def scores_of(row: Row) -> list[Score]:
    """The scores and categories of which a row holds a value, in the order in which the viewer offers them."""
    return [one for one in (*CATEGORIES, *SCORES) if any(value is not None for value in values_of(row, one.key))]


def values_of(row: Row, key: str) -> list[Any]:
    """A number (or a category's name) a token, None where there is none; empty where the row has no such score."""
    values = row.get("success" if key == "drop" else key) or ()
    known: list[Any] = [v if isinstance(v, str) or (v is not None and math.isfinite(v)) else None for v in values]
    if key == "drop":
        return [None if a is None or b is None else a - b for a, b in pairwise(known)]
    return known[1:] if key == "success" else known


def shades_of(row: Row, score: Score | None) -> list[Shade]:
    """A shade a token; without a score there is none."""
    if score is None:
        return [Shade()] * len(row["tokens"])
    values = values_of(row, score.key)
    if isinstance(score, ShownScore):
        return [shade(value, score) for value in values]
    names = [score.values[value] if isinstance(value, int) else value for value in values]
    return [Shade(name=None if name in score.values[: score.plain] else name) for name in names]


def shade(value: float | None, score: ShownScore) -> Shade:
    """The shade of a value between that without shade and that of the strongest."""
    if value is None:
        return Shade()
    below = score.two_sided and value < score.light
    far = (value - score.light) / (score.strong - score.light) * SHADES
    return Shade(max(0, min(SHADES - 1, math.floor(-far if below else far))), below)
