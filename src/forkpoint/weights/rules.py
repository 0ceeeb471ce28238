"""Which tokens to train on: scores, what is ranked with what, and the share that is kept. Pure; imports only torch.

    L_Δ = L_θ − L_RM: Lin et al. 2024 (Rho-1, arXiv 2404.07965), eq. 2; the kept share k% is eq. 4's.

Shapes: n tokens, each with a number from every column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from forkpoint.types import UserError

Columns = Mapping[str, Float[Tensor, " n"]]
Scope = Literal["sequence", "micro_batch", "batch"]


@dataclass(frozen=True, slots=True)
class RankingScore:
    """What tokens are ranked by: the columns it reads, whether high or low numbers are kept, and the number."""

    columns: tuple[str, ...]
    keep: Literal["high", "low"]
    of: Callable[[Columns], Tensor]


SCORES = {
    "excess_loss": RankingScore(("loss", "reference_loss"), "high", lambda c: c["loss"] - c["reference_loss"]),
    "reference_loss": RankingScore(("reference_loss",), "low", lambda c: c["reference_loss"]),
    "reference_entropy": RankingScore(("reference_entropy",), "low", lambda c: c["reference_entropy"]),
    "loss": RankingScore(("loss",), "high", lambda c: c["loss"]),
    "random": RankingScore(("chance",), "low", lambda c: c["chance"]),
}
"""`loss` is L_θ, that of the trained model before the step; `chance` a number in [0, 1) drawn for the token."""
COMBINED = ("union", "intersection")  # of reference_loss and reference_entropy, each with its own share
NONE = "none"  # every token: plain causal language modeling
NAMES = (*SCORES, *COMBINED, NONE)
SCOPES: tuple[Scope, ...] = ("sequence", "micro_batch", "batch")


@dataclass(frozen=True, slots=True)
class Rule:
    """A selection rule: what tokens are ranked by, the share that is kept, and what is ranked together.

    `ratio` is the share; for union and intersection it is that of reference_loss, and `entropy_ratio` that of
    reference_entropy (None: the same). `scope` is what is ranked together: the tokens of one row (`sequence`), of one
    process's forward pass (`micro_batch`), or of a whole optimizer step over all processes (`batch`). In the first
    `warmup` steps (below 1: that share of all steps) the share falls from 1 to `ratio` along a line.
    """

    score: str = "excess_loss"
    ratio: float = 0.6
    entropy_ratio: float | None = None
    scope: Scope = "batch"
    warmup: float = 0.0

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the rule reads."""
        if self.score in COMBINED:
            return ("reference_loss", "reference_entropy")
        return () if self.score == NONE else SCORES[self.score].columns

    @property
    def needs_reference(self) -> bool:
        """Whether it reads what a reference model says."""
        return any(name.startswith("reference") for name in self.columns)

    @property
    def is_static(self) -> bool:
        """Whether it selects the same tokens whatever the trained model says."""
        return "loss" not in self.columns


@dataclass(frozen=True, slots=True)
class Selection:
    """Which tokens are kept [n]; and by score the last value that was kept, of each group that keeps any."""

    kept: Bool[Tensor, " n"]
    limits: dict[str, Float[Tensor, " G"]]


def check_rule(rule: Rule) -> None:
    """UserError for a rule that is unknown or out of range."""
    if rule.score not in NAMES:
        raise UserError(f"a selection rule must be one of {', '.join(NAMES)}, but is {rule.score!r}")
    if rule.scope not in SCOPES:
        raise UserError(f"scope must be one of {', '.join(SCOPES)}, but is {rule.scope!r}")
    for name, value in (("ratio", rule.ratio), ("entropy_ratio", rule.entropy_ratio)):
        if value is not None and not 0 < value <= 1:
            raise UserError(f"{name} must be above 0 and at most 1, but is {value}")
    if rule.entropy_ratio is not None and rule.score not in COMBINED:
        raise UserError(f"entropy_ratio is for union and intersection, not for {rule.score}")
    if not rule.warmup >= 0:
        raise UserError(f"ratio_warmup must be at least 0, but is {rule.warmup}")


def rule_at(rule: Rule, step: int, steps: int) -> Rule:
    """The rule in a step (from 0) of so many: while it warms up, with larger shares."""
    warmup = rule.warmup * steps if rule.warmup < 1 else rule.warmup
    if step >= warmup:
        return rule
    entropy_ratio = None if rule.entropy_ratio is None else _warming(rule.entropy_ratio, step / warmup)
    return replace(rule, ratio=_warming(rule.ratio, step / warmup), entropy_ratio=entropy_ratio)


def _warming(ratio: float, progress: float) -> float:
    return 1 - (1 - ratio) * progress


def select(columns: Columns, rule: Rule, groups: Int64[Tensor, " n"]) -> Selection:
    """Which tokens the rule keeps.

    `columns` are those that the rule reads, and `chance`, which also decides between equal scores. `groups` says what
    each token is ranked with (from 0).
    """
    if rule.score == NONE or not len(groups):
        return Selection(torch.ones_like(groups, dtype=torch.bool), {})
    kept: list[Tensor] = []
    limits: dict[str, Tensor] = {}
    for name, ratio in rankings(rule):
        score = SCORES[name]
        values = score.of(columns)
        sign = 1 if score.keep == "high" else -1
        kept.append(highest(sign * values, groups, ratio, columns["chance"]))
        limits[name] = sign * _lowest(sign * values, groups, kept[-1])
    combine = torch.logical_or if rule.score == "union" else torch.logical_and
    return Selection(reduce(combine, kept), limits)


def rankings(rule: Rule) -> list[tuple[str, float]]:
    """The scores that the rule ranks by, each with the share that is kept."""
    if rule.score not in COMBINED:
        return [(rule.score, rule.ratio)]
    entropy_ratio = rule.ratio if rule.entropy_ratio is None else rule.entropy_ratio
    return [("reference_loss", rule.ratio), ("reference_entropy", entropy_ratio)]


def quota(sizes: Int64[Tensor, " G"], ratio: float) -> Int64[Tensor, " G"]:
    """How many tokens of groups of these sizes are kept: round(ratio · N), a half rounded up."""
    return (sizes.double() * ratio + 0.5).floor().long()


def highest(
    scores: Float[Tensor, " n"], groups: Int64[Tensor, " n"], ratio: float, chance: Float[Tensor, " n"]
) -> Bool[Tensor, " n"]:
    """The `quota` of tokens of each group that have its highest scores."""
    order = chance.argsort()
    order = order[scores[order].argsort(descending=True, stable=True)]
    order = order[groups[order].argsort(stable=True)]
    sizes = torch.bincount(groups)
    begins = sizes.cumsum(0) - sizes
    own = groups[order]
    rank = torch.arange(len(order), device=order.device) - begins[own]
    kept = torch.empty_like(rank, dtype=torch.bool)
    kept[order] = rank < quota(sizes, ratio)[own]
    return kept


def _lowest(scores: Float[Tensor, " n"], groups: Int64[Tensor, " n"], kept: Bool[Tensor, " n"]) -> Float[Tensor, " G"]:
    """The lowest kept score of each group that keeps any."""
    lowest = scores.new_full((int(groups.max()) + 1,), torch.inf)
    lowest.scatter_reduce_(0, groups[kept], scores[kept], "amin")
    return lowest[torch.isfinite(lowest)]
