"""Selection rules, held to a sort in plain Python, and to tokens of which it is known what should be kept."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_up_stores import plain_selection

from forkpoint.types import UserError
from forkpoint.weights.rules import NAMES, RULES, GroupRanks, Rule, check_rule, rule_at, select

RATIOS = st.integers(1, 20).map(lambda twentieths: twentieths / 20)
RANKED = [name for name in NAMES if name != "uniform"]


@st.composite
def tokens(draw) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Columns with many ties, a chance for each token that no other has, and groups, some of them empty."""
    n = draw(st.integers(1, 40))
    some = st.lists(st.integers(0, 4).map(float), min_size=n, max_size=n)
    columns = {name: torch.tensor(draw(some)) for name in ("loss", "reference_loss", "reference_entropy")}
    chance = torch.tensor(draw(st.permutations(range(n))), dtype=torch.float64) / n
    groups = torch.tensor(draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    return columns | {"chance": chance}, groups


@given(tokens(), st.sampled_from(RANKED), RATIOS, st.none() | RATIOS)
def test_every_rule_is_a_sort_of_each_group(drawn, name, ratio, entropy_ratio):
    columns, groups = drawn
    rule = Rule(name, ratio, entropy_ratio if name in ("union", "intersection") else None)
    plain = plain_selection({key: column.tolist() for key, column in columns.items()}, rule, groups.tolist())
    assert select(columns, rule, groups).kept.tolist() == plain


@given(tokens(), st.sampled_from(RANKED), RATIOS, st.randoms(use_true_random=False))
def test_the_order_of_tokens_changes_nothing(drawn, name, ratio, random):
    """Chance belongs to the token, so ties are decided alike, too."""
    columns, groups = drawn
    order = list(range(len(groups)))
    random.shuffle(order)
    kept = select(columns, Rule(name, ratio), groups).kept
    moved = select({key: column[order] for key, column in columns.items()}, Rule(name, ratio), groups[order])
    assert moved.kept.tolist() == kept[order].tolist()


@given(tokens(), st.sampled_from(NAMES))
def test_all_are_kept_at_a_ratio_of_1_and_without_a_rule(drawn, name):
    columns, groups = drawn
    assert select(columns, Rule(name, 1.0), groups).kept.all()
    assert select(columns, Rule("uniform", 0.1), groups).kept.all()


@pytest.mark.parametrize("name", NAMES)
def test_no_tokens(name):
    none = torch.empty(0)
    columns = dict.fromkeys(("loss", "reference_loss", "reference_entropy", "chance"), none)
    assert select(columns, Rule(name, 0.5), torch.empty(0, dtype=torch.long)).kept.shape == (0,)


# Learned, worth learning, and noise, which neither model can predict; the reference knows what is worth learning.
KINDS = {
    #               loss, reference_loss, reference_entropy
    "learned": (0.1, 0.1, 0.2),
    "learnable": (6.0, 0.5, 0.8),
    "noise": (7.0, 7.2, 5.0),
    "known to be a surprise": (1.0, 5.0, 0.1),
}
KEPT = {
    "excess_loss": {"learnable"},
    "loss": {"noise"},
    "reference_loss": {"learned"},
    "reference_entropy": {"known to be a surprise"},
    "union": {"learned", "known to be a surprise"},
    "intersection": set(),
}


@pytest.mark.parametrize("name", KEPT)
def test_directions(name):
    columns = dict(zip(("loss", "reference_loss", "reference_entropy"), torch.tensor([*KINDS.values()]).T, strict=True))
    columns["chance"] = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    kept = select(columns, Rule(name, 0.25), torch.zeros(4, dtype=torch.long)).kept.tolist()
    assert {kind for kind, keep in zip(KINDS, kept, strict=True) if keep} == KEPT[name]


def test_limits_are_the_last_kept_values():
    columns = {"loss": torch.tensor([4.0, 3.0, 2.0, 9.0, 7.0, 1.0]), "reference_loss": torch.tensor([1.0] * 6)}
    columns |= {"reference_entropy": torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), "chance": torch.rand(6).double()}
    groups = torch.tensor([0, 0, 0, 2, 2, 2])

    def limits(*rule):
        return {name: found.tolist() for name, found in select(columns, Rule(*rule), groups).limits.items()}

    assert limits("loss", 0.5) == {"loss": [3.0, 7.0]}
    assert limits("excess_loss", 0.5) == {"excess_loss": [2.0, 6.0]}
    assert limits("union", 0.3) == {"reference_loss": [1.0, 1.0], "reference_entropy": [1.0, 4.0]}
    assert limits("loss", 0.1) == {"loss": []}


def test_which_columns_a_rule_reads():
    assert Rule().columns == ("loss", "reference_loss")
    assert {name for name in NAMES if Rule(name).is_static} == {*NAMES} - {"loss", "excess_loss"}
    assert {name for name in NAMES if not Rule(name).needs_reference} == {"loss", "random", "uniform"}
    group = torch.zeros(2, dtype=torch.long)
    for name in NAMES:
        columns = {column: torch.ones(2) for column in (*Rule(name).columns, "chance")}  # and no other
        RULES[name].weigh(columns, GroupRanks(Rule(name), group, columns["chance"]))


def test_a_weight_by_contrast_is_the_part_that_is_no_mistake():
    assert RULES["contrast"].weigh({"s": torch.tensor([0.0, 0.25, 1.0])}, None).tolist() == [1.0, 0.75, 0.0]
    with pytest.raises(UserError, match="a selection rule must be one of"):
        check_rule(Rule("contrast"))


def test_the_share_falls_along_a_line_while_it_warms_up():
    rule = Rule("union", 0.6, 0.8, warmup=4)
    seen = [rule_at(rule, step, 100) for step in range(6)]
    assert [r.ratio for r in seen] == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6, 0.6])
    assert [r.entropy_ratio for r in seen] == pytest.approx([1.0, 0.95, 0.9, 0.85, 0.8, 0.8])
    assert [rule_at(Rule(warmup=0.5), step, 8).ratio for step in range(6)] == pytest.approx(
        [1, 0.9, 0.8, 0.7, 0.6, 0.6]
    )
    assert rule_at(Rule(), 0, 10) == Rule()
    assert rule_at(Rule("union", warmup=4), 2, 10).entropy_ratio is None


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule("excess"), "a selection rule must be one of uniform, excess_loss, .*, but is"),
        (Rule(scope="epoch"), "scope must be one of sequence, micro_batch, batch, but is 'epoch'"),
        (Rule(ratio=0.0), "^ratio must be above 0 and at most 1, but is 0.0"),
        (Rule(ratio=math.nan), "^ratio must be above 0"),
        (Rule("union", entropy_ratio=1.5), "entropy_ratio must be above 0 and at most 1, but is 1.5"),
        (Rule("loss", entropy_ratio=0.5), "entropy_ratio is for union and intersection, not for loss"),
        (Rule(warmup=-1), "ratio_warmup must be at least 0, but is -1"),
    ],
)
def test_rules_out_of_range(rule, message):
    check_rule(Rule("union", 1.0, 0.5, "sequence", 100))
    with pytest.raises(UserError, match=message):
        check_rule(rule)


def flipped(columns: dict[str, torch.Tensor], rule: Rule) -> float:
    """The share of tokens that are kept only with, or only without, reference scores rounded to float16."""
    n = len(columns["chance"])
    rounded = {k: v.half().float() if k.startswith("reference") else v for k, v in columns.items()}
    groups = torch.arange(n) * 4 // n
    kept, rough = select(columns, rule, groups).kept, select(rounded, rule, groups).kept
    assert 0 < kept.float().mean() < 1
    return float((kept != rough).float().mean())


@pytest.mark.parametrize("name", ["excess_loss", "reference_loss", "reference_entropy", "intersection"])
@pytest.mark.parametrize("shape", ["gamma", "lognormal"])
def test_float16_changes_less_than_a_thousandth_of_the_selections(shape, name):
    rng = np.random.default_rng(1)
    draw = {"gamma": lambda: rng.gamma(0.6, 4.0, 200_000), "lognormal": lambda: rng.lognormal(0, 1.2, 200_000)}[shape]
    reference, entropy = draw(), draw()
    loss = np.abs(reference + rng.normal(0.3, 1.0, len(reference)))
    columns = {"loss": loss, "reference_loss": reference, "reference_entropy": entropy}
    columns = {key: torch.from_numpy(value).float() for key, value in columns.items()}
    columns["chance"] = torch.from_numpy(rng.random(len(loss)))
    assert flipped(columns, Rule(name, 0.6)) < 1e-3
    assert flipped(columns, replace(Rule(name), ratio=0.2)) < 1e-3
