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


class Ranks(Protocol):
    """Ranks tokens by a score of that name: true for the kept share of lowest (or highest) values."""

    def low(self, score: str, values: Tensor) -> Tensor: ...

    def high(self, score: str, values: Tensor) -> Tensor: ...


def contrast(c: Columns, ranks: Ranks | None = None) -> Any:
    """1 − s_t: the likelier a token is the mistake, the more it counts."""
    return 1 - c["s"]


def _low_loss(c: Columns, ranks: Ranks) -> Tensor:
    return ranks.low("reference_loss", c["reference_loss"])


def _low_entropy(c: Columns, ranks: Ranks) -> Tensor:
    return ranks.low("reference_entropy", c["reference_entropy"])


@dataclass(frozen=True, slots=True)
class WeightRule:
    """A rule: a function of columns and `Ranks`, and the columns that it needs."""

    weigh: Callable[[Columns, Any], Tensor]
    needs: tuple[str, ...]


BOTH = ("reference_loss", "reference_entropy")
RULES: dict[str, WeightRule] = {
    # language modeling on every token
    "uniform": WeightRule(lambda c, ranks: torch.ones_like(c["chance"], dtype=torch.bool), ()),
    # Lin et al. 2024 (Rho-1, arXiv 2404.07965), eq. 2 and 4: L_Δ = L_θ − L_RM
    "excess_loss": WeightRule(
        lambda c, ranks: ranks.high("excess_loss", c["loss"] - c["reference_loss"]), ("loss", "reference_loss")
    ),
    # the same, self-reference
    "reference_loss": WeightRule(_low_loss, BOTH[:1]),
    "reference_entropy": WeightRule(_low_entropy, BOTH[1:]),
    # controls: no reference, and no score
    "loss": WeightRule(lambda c, ranks: ranks.high("loss", c["loss"]), ("loss",)),
    "random": WeightRule(lambda c, ranks: ranks.low("random", c["chance"]), ("chance",)),
    # Rho-1, self-reference
    "union": WeightRule(lambda c, ranks: _low_loss(c, ranks) | _low_entropy(c, ranks), BOTH),
    "intersection": WeightRule(lambda c, ranks: _low_loss(c, ranks) & _low_entropy(c, ranks), BOTH),
    # Lin et al. 2024 (cDPO, arXiv 2411.19943), section 4
    "contrast": WeightRule(contrast, ("s",)),
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
        return not any(name in DYNAMIC for name in self.columns)

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
    """`Ranks` within groups of tokens; keeps the `limits` of each score."""

    rule: Rule
    groups: Int64[Tensor, " n"]
    chance: Float[Tensor, " n"]
    limits: dict[str, Float[Tensor, " G"]] = field(default_factory=dict)

    def low(self, score: str, values: Tensor) -> Tensor:
        kept = self.high(score, -values)
        self.limits[score] = -self.limits[score]
        return kept

    def high(self, score: str, values: Tensor) -> Tensor:
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
    own = groups[order]
    rank = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[own]
    kept = torch.empty_like(rank, dtype=torch.bool)
    kept[order] = rank < quota(sizes, ratio)[own]
    return kept
