"""The pure losses at points where their value is known."""

from __future__ import annotations

import math

import pytest
import torch

from forkpoint.losses import preference as losses
from forkpoint.losses.language_modeling import weighted_nll
from forkpoint.losses.methods import METHODS, PAPERS, objective
from forkpoint.types import UserError

RATIO = torch.tensor([[0.5, -1.0], [-0.5, 2.0]])  # of two pairs: the chosen responses, the rejected ones


def softplus(x):
    return math.log1p(math.exp(x))


def loss(method, beta, alpha=None, **sums):
    """The losses of two pairs; a sum that is not given is 0."""
    zero = torch.zeros(2, 2)
    known = dict.fromkeys(("ratio", "weighted", "logprob", "length", "kl"), zero) | sums
    return losses.LOSSES[method](losses.PairSums(**known), objective(method, beta, alpha))


def test_values():
    kl = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    means = {"logprob": torch.tensor([[-6.0, -2.0], [9.0, 9.0]]), "length": torch.tensor([[3.0, 2.0], [7.0, 7.0]])}
    for method in ("dpo", "fork-dpo"):
        assert loss(method, 0.1, ratio=RATIO).tolist() == pytest.approx([softplus(-0.1), softplus(0.3)])
    assert loss("rpo", 0.1, 0.5, ratio=RATIO, **means).tolist() == pytest.approx(
        [softplus(-0.1) + 1.0, softplus(0.3) + 0.5]
    )
    assert loss("tdpo1", 0.1, ratio=RATIO, kl=kl).tolist() == pytest.approx([softplus(0.1), softplus(0.3)])
    assert loss("tdpo2", 0.1, 0.5, ratio=RATIO, kl=kl).tolist() == pytest.approx([softplus(0.0), softplus(0.3)])
    assert loss("critical-dpo", 1.0, weighted=RATIO).tolist() == pytest.approx([softplus(-1.0), softplus(3.0)])


def test_language_modeling_over_weighted_tokens():
    """The divisor is the number of tokens that count; without any the loss is 0."""
    logprobs, weights = torch.tensor([-1.0, -2.0, -4.0]), torch.tensor([1.0, 0.5, 0.0])
    assert float(weighted_nll(logprobs, weights, (weights != 0).sum())) == 1.0
    assert float(weighted_nll(logprobs, torch.ones(3), torch.tensor(3))) == -float(logprobs.mean())
    assert float(weighted_nll(logprobs, torch.zeros(3), torch.tensor(0))) == 0.0


def test_every_method_has_its_loss_and_paper():
    assert losses.LOSSES.keys() == {*METHODS}
    assert PAPERS.keys() == {*METHODS, "sft", "clm", "slm"}


def test_tdpo2_has_no_gradient_through_the_chosen_kl():
    for method, signs in (("tdpo2", [0, 1]), ("tdpo1", [-1, 1])):
        kl = torch.tensor([[1.0, 0.0], [3.0, 0.0]], requires_grad=True)
        loss(method, 0.1, ratio=RATIO, kl=kl).sum().backward()
        assert kl.grad.sign().T.tolist() == [signs, signs]


def test_a_certain_loss_does_not_overflow():
    assert loss("dpo", 1.0, ratio=torch.tensor([[-1e4, 1e4], [1e4, -1e4]])).tolist() == [2e4, 0.0]


def test_constants_are_the_papers_unless_given():
    assert (objective("critical-dpo").beta, objective("dpo").beta) == (1.0, 0.1)
    assert (objective("rpo").alpha, objective("tdpo2").alpha, objective("tdpo1").alpha) == (1.0, 0.5, 0.0)
    assert objective("tdpo2", 0.3, 0.0) == objective("tdpo2", alpha=0.0, beta=0.3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("ipo",), "the method must be one of dpo, rpo"),
        (("dpo", 0.1, 0.5), "dpo has no alpha; rpo and tdpo2 have one"),
        (("dpo", 0.0), "beta must be above 0, but is 0.0"),
        (("rpo", 0.1, -1.0), "alpha must be 0 or more, but is -1.0"),
    ],
)
def test_constants_out_of_range(given, message):
    with pytest.raises(UserError, match=message):
        objective(*given)
