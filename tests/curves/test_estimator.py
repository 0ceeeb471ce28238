"""The fork estimator on an engine: against the exact probabilities of the toy, and the truncated policy of the lab."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats
from toy_engine import NEXT, PROBLEM, PROMPT, BareTokenizer, ToyEngine, success_after, trajectory
from toy_labels import FIVE, MANY, WRONG, Recorder, copies, labels_of

from forkpoint.curves import estimator, rollouts
from forkpoint.curves.estimator import UNNAMED, fork_labels, fork_leaves
from forkpoint.curves.paper_protocol import ROLLOUTS
from forkpoint.curves.rollouts import CurveLabel, Start, policies, roll_out
from forkpoint.engines import Engine
from forkpoint.lab.problem_generator import load_problems
from forkpoint.trajectories.rows import sample_trajectories
from forkpoint.types import Sampling, TokenIds, Trajectory


def labels(*of: Any, **options: Any) -> list[CurveLabel]:
    return labels_of(fork_labels, *of, **options)


def length_after(token_ids: TokenIds, max_tokens: int) -> float:
    """How many more tokens a response has after these, by enumeration."""
    if token_ids[-1] == 0 or len(token_ids) == max_tokens:
        return 0.0
    return 1 + sum(p * length_after((*token_ids, v), max_tokens) for v, p in enumerate(NEXT[token_ids[-1]]) if p)


@pytest.mark.parametrize(("token_ids", "named"), [
    (WRONG, 512),
    (WRONG, 2),
    ((2, 3, 1, 0), 512),  # correct
    ((4, 3, 4), 512),  # cut short, and its first token has a probability of 0
    ((4, 3, 4), 2),
    ((2, 1, 4, 2), 512),  # the same in the midst of it
    ((2, 1, 3, 3, 2), 512),  # as long as can be
])  # fmt: skip
def test_unbiased_with_intervals_that_hold(token_ids: TokenIds, named: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where most alternatives have no name and must be asked of the engine."""
    monkeypatch.setattr(rollouts, "ALTERNATIVES", named)
    found = labels(ToyEngine(), copies(trajectory(token_ids), 150), budget=120, wave=40, until="budget")
    assert (found[0].policy.outside.max() > 0.05) == (named == 2)
    prefixes = [token_ids[:i] for i in range(len(token_ids) + 1)]
    truth = np.array([success_after(prefix, 5) for prefix in prefixes])
    success = np.array([label.success for label in found])
    error = np.abs(success.mean(0) - truth)
    assert (error <= 4 * success.std(0) / 150**0.5 + 1e-6).all()
    lower, upper = np.array([label.success_ci for label in found]).transpose(2, 0, 1)
    covered = ((lower <= truth + 1e-6) & (truth <= upper + 1e-6)).mean(0)
    assert (covered > 0.9).all()
    plain = np.array([label.plain_tokens for label in found])
    expected = ROLLOUTS * sum(length_after(prefix, 5) for prefix in prefixes[1:])
    assert abs(plain.mean() - expected) <= 4 * plain.std() / 150**0.5


@pytest.mark.parametrize("most_top", [1, 2, 3])
@pytest.mark.parametrize("token_ids", [WRONG, (2, 3, 1, 0), (2, 1, 4, 2)])
def test_tokens_that_an_engine_cannot_name_bias_no_more_than_the_bound(
    token_ids: TokenIds, most_top: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToyEngine, "most_top", most_top)
    found = labels(ToyEngine(), copies(trajectory(token_ids), 150), budget=120, wave=40, until="budget")
    policy, bound = found[0].policy, found[0].policy.bias_bound()
    named = []
    for before, own in itertools.pairwise([PROMPT[-1], *token_ids]):
        top = set(np.argsort(-NEXT[before], kind="stable")[:most_top].tolist())
        named.append(NEXT[before, sorted(top | {own})].sum())
    np.testing.assert_allclose(policy.unnamed, 1 - np.array(named), atol=1e-6)
    assert not policy.outside.any()
    truth = np.array([success_after(token_ids[:i], 5) for i in range(len(token_ids) + 1)])
    success = np.array([label.success for label in found])
    error = np.abs(success.mean(0) - truth)
    assert (error <= bound + 4 * success.std(0) / 150**0.5 + 1e-6).all()
    assert bound[-1] == 0
    assert error[0] > 0.01 or most_top == 3  # there is a bias to bound
    assert all(a.token_id in policy.ids[a.position] for label in found for a in label.alternatives)


def test_alternatives_are_those_of_the_policy() -> None:
    engine = ToyEngine()
    found = labels(engine, copies(trajectory(WRONG), 60), budget=64, wave=64, until="budget")
    right, taken = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
    for label in found:
        assert sum(a.n for a in label.alternatives) == label.rollouts == 64
        assert [*label.alternatives] == sorted(label.alternatives, key=lambda a: (a.position, -a.prob))
        for a in label.alternatives:
            right[a.position, a.token_id] += a.correct
            taken[a.position, a.token_id] += a.n
            before = [PROMPT[-1], *WRONG][a.position]
            assert a.prob == pytest.approx(NEXT[before, a.token_id], abs=1e-6)
    path = list(itertools.pairwise([PROMPT[-1], *WRONG]))
    assert set(taken) == {(d, v) for d, (u, own) in enumerate(path) for v in range(5) if NEXT[u, v] and v != own}
    for (d, v), n in taken.items():
        p = success_after((*WRONG[:d], v), 5)
        assert right[d, v] == n * p if p in (0, 1) else stats.binomtest(right[d, v], n, p).pvalue > 0.001
    assert sum(label.tokens_generated for label in found) == engine.written


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def facts(sampling: Sampling = FIVE) -> list[tuple[Any, ...]]:
        return [
            (found.success.tolist(), found.success_ci.tolist(), found.status, found.critical_index, found.alternatives,
             found.rollouts, found.tokens_generated, found.plain_tokens)
            for found in labels(ToyEngine(), many, sampling)
        ]  # fmt: skip

    many = [trajectory(ids, f"t{i}") for i, ids in enumerate(MANY * 2)]
    base = facts()
    assert all(a[0] != b[0] for a, b in zip(base, base[len(MANY) :], strict=False))  # the same tokens, another id
    assert all(a[0] != b[0] for a, b in zip(base, facts(replace(FIVE, seed=1)), strict=True))
    for together in (1, 3, 100):
        monkeypatch.setattr(estimator, "TOGETHER", together)
        assert facts() == base


@pytest.mark.parametrize(("budget", "wave", "calls"), [(49, 16, 4), (48, 16, 3), (5, 16, 1)])
def test_the_budget_is_kept_exactly(budget: int, wave: int, calls: int) -> None:
    engine = Recorder()
    many = [trajectory(ids, f"t{i}") for i, ids in enumerate(MANY)]
    found = labels(engine, many, budget=budget, wave=wave, until="budget")
    assert [label.rollouts for label in found] == [budget] * len(MANY)
    assert sum(map(bool, engine.calls)) == calls
    keys = [request.key for call in engine.calls for request in call]
    assert len(set(keys)) == len(keys)  # no two rollouts draw the same numbers


def test_no_more_rollouts_once_decided() -> None:
    found = labels(ToyEngine(), copies(trajectory((2, 1, 3, 0)), 40), budget=200, wave=8)
    spent = Counter(label.rollouts for label in found)
    assert len(spent) > 5
    assert all(n % 8 == 0 for n in spent)
    assert all(label.status == "critical" or label.rollouts == 200 for label in found)
    assert Counter(label.status for label in found)["critical"] > 35


@pytest.mark.parametrize(("token_ids", "waits"), [
    (WRONG, 4),  # whether success was left before the last token
    ((4, 3, 4), 3),  # whether it is left after a trajectory that was cut short
])  # fmt: skip
def test_rollouts_go_where_the_verdict_waits(token_ids: TokenIds, waits: int) -> None:
    """Of a correct trajectory nothing is asked."""

    def there(one: Trajectory) -> int:
        (label,) = labels(ToyEngine(), [one], budget=100, wave=100)
        return label.rollouts - sum(a.n for a in label.alternatives if a.position < waits)

    one = trajectory(token_ids)
    assert there(one) > 1.2 * there(replace(one, correct=True))


def test_a_rollout_that_is_cut_off_is_right_only_by_a_stated_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one whose forced tokens fill the room: (2, 1, 1) ends in the right answer, 1, but not by itself."""
    one = trajectory((2, 1, 4))
    starts = [Start("full", one, 2, (1,)), Start("ended", one, 2, (0,)), *(Start(f"{i}", one, 1) for i in range(200))]
    for tokenizer, right in ((ToyEngine.tokenizer, True), (BareTokenizer(), False)):
        monkeypatch.setattr(ToyEngine, "tokenizer", tokenizer)
        found = roll_out(ToyEngine(), starts, Sampling(max_tokens=3))
        assert (found["full"].correct, found["ended"].correct) == (right, True)
        assert found["full"].generated == found["ended"].generated == 0
        cut = [r.correct for r in found.values() if r.token_ids[-1] == 1]
        assert cut == [right] * len(cut)
        assert len(cut) > 20


@pytest.mark.parametrize(("token_ids", "max_tokens", "label", "open_end"), [
    (WRONG, 5, ("critical", 4), False),
    ((4, 3, 4), 5, ("none", None), True),  # cut short: it goes on after its end
    ((4, 3, 4), 3, ("critical", 2), False),  # the same where no more may follow
])  # fmt: skip
def test_what_a_label_holds(token_ids: TokenIds, max_tokens: int, label: tuple[Any, ...], open_end: bool) -> None:
    one = trajectory(token_ids)
    (found,) = labels(ToyEngine(), [one], replace(FIVE, max_tokens=max_tokens), budget=512, until="budget")
    assert (found.trajectory, found.status, found.critical_index) == (one, *label)
    n, (lower, upper) = len(token_ids), found.success_ci.T
    assert found.success.shape == (n + 1,)
    assert (lower[:n] < found.success[:n]).all()
    assert (found.success[:n] < upper[:n]).all()
    assert (0 < lower[n] < found.success[n] < upper[n] < 1) == open_end
    assert open_end or lower[n] == found.success[n] == upper[n] == 0


def test_where_nothing_else_can_come_nothing_is_spent() -> None:
    """After token 0 the toy is sure."""
    engine = Recorder()
    sure = Trajectory("sure", PROBLEM, (1, 0), (0, 0), None, False, "stop")
    (label,) = labels(engine, [sure])
    assert (label.status, label.critical_index, label.rollouts, label.tokens_generated) == ("none", None, 0, 0)
    assert label.success.tolist() == [0, 0, 0]
    assert label.success_ci.tolist() == [[0, 0]] * 3
    assert label.plain_tokens == ROLLOUTS
    assert not any(engine.calls)


@pytest.mark.parametrize("truncation", [{"top_k": 3}, {"top_p": 0.8}])
def test_only_tokens_that_the_truncation_admits(truncation: dict[str, Any], lab: Engine) -> None:
    sampling = Sampling(max_tokens=40, **truncation)
    (one,) = sample_trajectories(lab, load_problems(limit=1), sampling, n=1, prompt="plain")
    (policy,) = policies(lab, [one], sampling)
    leaves, start = fork_leaves(one, policy, True), len(one.prompt_ids)
    assert UNNAMED not in leaves.token
    (scored,) = lab.score([(*one.prompt_ids, *one.token_ids)], top=lab.vocab_size, sampling=sampling, starts=[start])
    for d, own in enumerate(one.token_ids):
        here = leaves.position == d
        found = {own: leaves.own[d]} | dict(zip(leaves.token[here].tolist(), leaves.prob[here], strict=True))
        policy_of = zip(scored.top_ids[start + d].tolist(), scored.top_policy[start + d], strict=True)
        assert found == pytest.approx({token: prob for token, prob in policy_of if prob}, abs=1e-5)
