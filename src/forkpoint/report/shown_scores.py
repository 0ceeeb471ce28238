"""The scores that tokens are shaded by, wherever a run is shown: their columns, names and scales."""

from __future__ import annotations

from dataclasses import dataclass

from forkpoint.scores.dynamics import CLASSES


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


SURE, UNSURE = 20, 5  # σ of the largest logit above the mean without shade, and at the strongest
LOSS, CHANGE, ENTROPY = 5, 2, 2.5  # nats of the strongest shade
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
    "policy_prob", "logprob", "entropy", "gap", "distance", "s", "logprob_positive",
    "logprob_negative", "weight",
    "loss", "reference_loss", "excess_loss", "reference_entropy", "delta",
)  # fmt: skip
CATEGORIES = (
    Category("class", "class of dynamics", CLASSES),
    Category("selected", "selected", ("left out", "selected"), plain=1),
    Category("noise", "noise"),
)
