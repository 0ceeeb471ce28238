"""Weights: one table of rules, `RULES`. A rule takes what is known of each token and gives a weight a token.

Stored columns: `reference_loss`, `reference_entropy` (of a reference model), `chance` (a number in [0, 1) drawn for the
token), `s` (the contrastive score). Dynamic ones, of the trained model before the step: `loss` L_θ, `entropy`.
Shapes: n tokens, G groups of tokens that are ranked together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from forkpoint.types import UserError

Columns = Mapping[str, Any]
Scope = Literal["sequence", "micro_batch", "batch"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
DYNAMIC = ("loss", "entropy")
RHO1 = "Lin et al. 2024 (Rho-1, arXiv 2404.07965)"


class Ranks(Protocol):
    """Ranks tokens by a score of that name: weight 1 for the kept share of lowest (or highest) values, else 0."""

    def low(self, score: str, values: Tensor) -> Tensor: ...

    def high(self, score: str, values: Tensor) -> Tensor: ...


def uniform(c: Columns, ranks: Ranks) -> Tensor:
    """1 for every token."""
    return torch.ones(len(c["chance"]), dtype=torch.bool, device=c["chance"].device)


def excess_loss(c: Columns, ranks: Ranks) -> Tensor:
    """1 for the highest L_Δ = L_θ − L_RM."""
    return ranks.high("excess_loss", c["loss"] - c["reference_loss"])


def reference_loss(c: Columns, ranks: Ranks) -> Tensor:
    """1 for the lowest L_RM."""
    return ranks.low("reference_loss", c["reference_loss"])


def reference_entropy(c: Columns, ranks: Ranks) -> Tensor:
    """1 for the lowest H_RM."""
    return ranks.low("reference_entropy", c["reference_entropy"])


def loss(c: Columns, ranks: Ranks) -> Tensor:
    """1 for the highest L_θ."""
    return ranks.high("loss", c["loss"])


def random(c: Columns, ranks: Ranks) -> Tensor:
    """1 for the lowest chance."""
    return ranks.low("random", c["chance"])


def union(c: Columns, ranks: Ranks) -> Tensor:
    """1 where the reference's loss or its entropy is low."""
    return reference_loss(c, ranks) | reference_entropy(c, ranks)


def intersection(c: Columns, ranks: Ranks) -> Tensor:
    """1 where both are low."""
    return reference_loss(c, ranks) & reference_entropy(c, ranks)


def contrast(c: Columns, ranks: Ranks | None = None) -> Any:
    """1 − s_t: the likelier a token is the mistake, the more it counts."""
    return 1 - c["s"]


@dataclass(frozen=True, slots=True)
class WeightRule:
    """A rule: its function, the columns that it reads, which end of the score counts, and its source."""

    weigh: Callable[[Columns, Any], Tensor]
    needs: tuple[str, ...]
    direction: Literal["all", "high", "low"]
    source: str

    @property
    def is_static(self) -> bool:
        """Whether the weights are the same whatever the trained model says."""
        return not set(self.needs) & set(DYNAMIC)


RULES: dict[str, WeightRule] = {
    "uniform": WeightRule(uniform, (), "all", "language modeling on every token"),
    "excess_loss": WeightRule(excess_loss, ("loss", "reference_loss"), "high", f"{RHO1}, eq. 2 and 4"),
    "reference_loss": WeightRule(reference_loss, ("reference_loss",), "low", f"{RHO1}, self-reference"),
    "reference_entropy": WeightRule(reference_entropy, ("reference_entropy",), "low", f"{RHO1}, self-reference"),
    "loss": WeightRule(loss, ("loss",), "high", "a control: no reference"),
    "random": WeightRule(random, ("chance",), "low", "a control: no score"),
    "union": WeightRule(union, ("reference_loss", "reference_entropy"), "low", f"{RHO1}, self-reference"),
    "intersection": WeightRule(intersection, ("reference_loss", "reference_entropy"), "low", f"{RHO1}, self-reference"),
    "contrast": WeightRule(contrast, ("s",), "low", "Lin et al. 2024 (cDPO, arXiv 2411.19943), section 4"),
}
UNIFORM = "uniform"
COMBINED = ("union", "intersection")  # of two scores, each with a share of its own
NAMES = tuple(name for name, rule in RULES.items() if "s" not in rule.needs)  # those for a corpus


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule for a corpus by name, the share that is kept, and what is ranked together.

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
        return RULES[self.score].needs

    @property
    def needs_reference(self) -> bool:
        """Whether it reads what a reference model says."""
        return any(name.startswith("reference") for name in self.columns)

    @property
    def is_static(self) -> bool:
        """Whether it selects the same tokens whatever the trained model says."""
        return RULES[self.score].is_static

    def share(self, score: str) -> float:
        """The share that is kept by this score."""
        return self.ratio if score != "reference_entropy" or self.entropy_ratio is None else self.entropy_ratio


@dataclass(frozen=True, slots=True)
class Selection:
    """The weights of tokens [n]; and by score the last value that was kept, of each group that keeps any."""

    weights: Float[Tensor, " n"]
    limits: dict[str, Float[Tensor, " G"]]

    @property
    def kept(self) -> Bool[Tensor, " n"]:
        """Which tokens count."""
        return self.weights != 0


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
    ratio, other = (1 - (1 - share) * (step / warmup) for share in (rule.ratio, rule.entropy_ratio or 0.0))
    return replace(rule, ratio=ratio, entropy_ratio=rule.entropy_ratio and other)


def select(columns: Columns, rule: Rule, groups: Int64[Tensor, " n"]) -> Selection:
    """The weights that the rule gives.

    `columns` are those that the rule reads, and `chance`, which also decides between equal scores. `groups` says what
    each token is ranked with (from 0).
    """
    ranks = GroupRanks(rule, groups, columns["chance"])
    weights = RULES[rule.score].weigh(columns, ranks)
    return Selection(weights.to(torch.float32), ranks.limits)


@dataclass
class GroupRanks:
    """Ranks within groups of tokens; keeps the `limits` of each score."""

    rule: Rule
    groups: Int64[Tensor, " n"]
    chance: Float[Tensor, " n"]
    limits: dict[str, Float[Tensor, " G"]] = field(default_factory=dict)

    def low(self, score: str, values: Tensor) -> Tensor:
        """The share with the lowest values."""
        kept = self.high(score, -values)
        self.limits[score] = -self.limits[score]
        return kept

    def high(self, score: str, values: Tensor) -> Tensor:
        """The share with the highest values."""
        kept = highest(values, self.groups, self.rule.share(score), self.chance)
        lowest = values.new_full((int(self.groups.max()) + 1 if len(kept) else 0,), torch.inf)
        lowest.scatter_reduce_(0, self.groups[kept], values[kept], "amin")
        self.limits[score] = lowest[torch.isfinite(lowest)]
        return kept


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
