"""The fork estimator on an engine: against the exact probabilities of the toy, and the truncated policy of the lab."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats
from toy_engine import NEXT, PROBLEM, PROMPT, BareTokenizer, ToyEngine, success_after, trajectory

from forkpoint.curves import rollout_policy as policy_module
from forkpoint.curves.estimator import UNNAMED, ForkLabel, fork_labels, fork_leaves
from forkpoint.curves.paper_protocol import ROLLOUTS
from forkpoint.curves.rollout_policy import policies
from forkpoint.curves.rollouts import Start, roll_out
from forkpoint.engines import Engine
from forkpoint.lab.problem_generator import load_problems
from forkpoint.trajectories.rows import sample_trajectories
from forkpoint.types import Completion, Request, Sampling, TokenIds, Trajectory, UserError

FIVE = Sampling(max_tokens=5)
WRONG = (2, 1, 3, 3, 0)
MANY = [WRONG, (3, 3, 2), (1, 2, 4, 3, 3), (2, 3, 1, 0), (4, 3, 4), (2, 1, 3, 3, 2), (2, 0)]


class Recorder(ToyEngine):
    """The toy, with all that was asked of it, call by call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[Request]] = []

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        self.calls.append(list(requests))
        return super().generate(requests, sampling)


def labels(engine: Engine, trajectories: Sequence[Trajectory], sampling: Sampling, **options: Any) -> list[ForkLabel]:
    pairs = zip(trajectories, policies(engine, trajectories, sampling), strict=True)
    found = {label.trajectory.id: label for label in fork_labels(engine, pairs, sampling, **options)}
    return [found[t.id] for t in trajectories]


def copies(one: Trajectory, n: int) -> list[Trajectory]:
    return [replace(one, id=f"{one.id}/{i}") for i in range(n)]


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
    monkeypatch.setattr(policy_module, "ALTERNATIVES", named)
    many = copies(trajectory(token_ids), 150)
    found = labels(ToyEngine(), many, FIVE, budget=120, wave=40, until="budget")
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
def test_tokens_that_an_engine_cannot_name_bias_no_more_than_the_bound(token_ids: TokenIds, most_top: int) -> None:
    class Few(ToyEngine):
        pass

    Few.most_top = most_top
    many = copies(trajectory(token_ids), 150)
    found = labels(Few(), many, FIVE, budget=120, wave=40, until="budget")
    policy, bound = found[0].policy, found[0].policy.bias_bound()
    named = np.array([NEXT[before][np.argsort(-NEXT[before], kind="stable")[:most_top]].sum() + (
        0 if own in np.argsort(-NEXT[before], kind="stable")[:most_top] else NEXT[before, own]
    ) for before, own in itertools.pairwise([PROMPT[-1], *token_ids])])  # fmt: skip
    np.testing.assert_allclose(policy.unnamed, 1 - named, atol=1e-6)
    assert not policy.outside.any()
    truth = np.array([success_after(token_ids[:i], 5) for i in range(len(token_ids) + 1)])
    success = np.array([label.success for label in found])
    error = np.abs(success.mean(0) - truth)
    assert (error <= bound + 4 * success.std(0) / 150**0.5 + 1e-6).all()
    assert bound[-1] == 0
    assert error[0] > 0.01 or most_top == 3  # there is a bias to bound
    assert all(a.token_id in policy.ids[a.position] for label in found for a in label.alternatives)


def test_alternatives_are_those_of_the_policy() -> None:
    one = trajectory(WRONG)
    engine = ToyEngine()
    found = labels(engine, copies(one, 60), FIVE, budget=64, wave=64, until="budget")
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


def test_tokens_without_a_name_are_no_alternatives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_module, "ALTERNATIVES", 2)
    engine = Recorder()
    (label,) = labels(engine, [trajectory(WRONG)], FIVE, budget=5000, wave=5000)
    assert label.policy.ids[3].tolist() == [3, 0]  # of which 3 is the trajectory's own
    assert [a.token_id for a in label.alternatives if a.position == 3] == [0]
    assert 0 < sum(a.n for a in label.alternatives) < label.rollouts == 5000
    beyond = Counter(r.prefix[-1] for r in engine.calls[0] if r.written == 4)
    assert set(beyond) == {1, 2, 4}
    weights = NEXT[3, [1, 2, 4]]
    counts = [beyond[v] for v in (1, 2, 4)]
    assert stats.chisquare(counts, sum(counts) * weights / weights.sum()).pvalue > 0.01


def facts(label: ForkLabel) -> tuple[Any, ...]:
    return (
        label.trajectory.id, label.success.tolist(), label.success_ci.tolist(), label.status, label.critical_index,
        label.alternatives, label.rollouts, label.tokens_generated, label.plain_tokens,
    )  # fmt: skip


def test_batches_change_nothing() -> None:
    many = [trajectory(ids, f"t{i}") for i, ids in enumerate(MANY * 2)]
    base = [facts(label) for label in labels(ToyEngine(), many, FIVE)]
    for together in (1, 3, 100):
        assert [facts(label) for label in labels(ToyEngine(), many, FIVE, together=together)] == base
    assert all(a[1] != b[1] for a, b in zip(base, base[len(MANY) :], strict=False))  # the same tokens, another id
    other = labels(ToyEngine(), many, replace(FIVE, seed=1))
    assert all(a[1] != b.success.tolist() for a, b in zip(base, other, strict=True))


@pytest.mark.parametrize(("budget", "wave", "calls"), [(49, 16, 4), (48, 16, 3), (5, 16, 1)])
def test_the_budget_is_kept_exactly(budget: int, wave: int, calls: int) -> None:
    engine = Recorder()
    many = [trajectory(ids, f"t{i}") for i, ids in enumerate(MANY)]
    found = labels(engine, many, FIVE, budget=budget, wave=wave, until="budget")
    assert [label.rollouts for label in found] == [budget] * len(MANY)
    assert len(engine.calls) == calls
    keys = [request.key for call in engine.calls for request in call]
    assert len(set(keys)) == len(keys)  # no two rollouts draw the same numbers


def test_no_more_rollouts_once_decided() -> None:
    many = copies(trajectory((2, 1, 3, 0)), 40)
    found = labels(ToyEngine(), many, FIVE, budget=200, wave=8)
    whole = labels(ToyEngine(), many, FIVE, budget=200, wave=8, until="budget")
    spent = Counter(label.rollouts for label in found)
    assert len(spent) > 5
    assert all(n % 8 == 0 for n in spent)
    for a, b in zip(found, whole, strict=True):
        assert a.status == "critical" or a.rollouts == 200
        assert b.rollouts == 200
    assert Counter(label.status for label in found)["critical"] > 35


@pytest.mark.parametrize(("token_ids", "waits"), [
    (WRONG, 4),  # whether success was left before the last token
    ((4, 3, 4), 3),  # whether it is left after a trajectory that was cut short
])  # fmt: skip
def test_rollouts_go_where_the_verdict_waits(token_ids: TokenIds, waits: int) -> None:
    """Of a correct trajectory nothing is asked."""

    def there(one: Trajectory) -> int:
        (label,) = labels(ToyEngine(), [one], FIVE, budget=100, wave=100)
        return label.rollouts - sum(a.n for a in label.alternatives if a.position < waits)

    one = trajectory(token_ids)
    assert there(one) > 1.2 * there(replace(one, correct=True))


def test_a_rollout_that_is_cut_off_is_right_only_by_a_stated_answer() -> None:
    """Also one whose forced tokens fill the room: (2, 1, 1) ends in the right answer, 1, but not by itself."""

    class Bare(ToyEngine):
        tokenizer = BareTokenizer()

    one = trajectory((2, 1, 4))
    starts = [Start("full", one, 2, (1,)), Start("ended", one, 2, (0,)), *(Start(f"{i}", one, 1) for i in range(200))]
    for engine, right in ((ToyEngine(), True), (Bare(), False)):
        found = {r.key: r for r in roll_out(engine, starts, Sampling(max_tokens=3))}
        assert (found["full"].correct, found["ended"].correct) == (right, True)
        assert found["full"].generated == found["ended"].generated == 0
        cut = [r.correct for r in found.values() if r.token_ids[-1] == 1]
        assert cut == [right] * len(cut)
        assert len(cut) > 20


def test_what_a_label_holds() -> None:
    one = trajectory(WRONG)
    (label,) = labels(ToyEngine(), [one], FIVE, budget=512, until="budget")
    assert (label.trajectory, label.status, label.critical_index) == (one, "critical", 4)
    assert label.success.shape == (6,)
    assert label.success_ci.shape == (6, 2)
    assert [label.success[5], *label.success_ci[5]] == [0, 0, 0]
    assert (label.success_ci[:5, 0] < label.success[:5]).all()
    assert (label.success[:5] < label.success_ci[:5, 1]).all()


def test_one_that_was_cut_short_goes_on_after_its_end() -> None:
    """The same tokens are over where no more may follow, or where it ended by itself."""
    cut = trajectory((4, 3, 4))
    (going_on,) = labels(ToyEngine(), [cut], FIVE, budget=200)
    assert (going_on.status, going_on.critical_index) == ("none", None)
    assert 0 < going_on.success_ci[3, 0] < going_on.success[3] < going_on.success_ci[3, 1] < 1
    (finished,) = labels(ToyEngine(), [cut], replace(FIVE, max_tokens=3), budget=200)
    assert (finished.status, finished.critical_index) == ("critical", 2)
    assert finished.success_ci[3].tolist() == [0, 0]
    (stopped,) = labels(ToyEngine(), [replace(cut, finish_reason="stop")], FIVE, budget=200)
    assert stopped.success_ci[3].tolist() == [0, 0]


def test_where_nothing_else_can_come_nothing_is_spent() -> None:
    """After token 0 the toy is sure."""
    engine = Recorder()
    sure = Trajectory("sure", PROBLEM, (1, 0), (0, 0), None, False, "stop")
    (label,) = labels(engine, [sure], FIVE)
    assert (label.status, label.critical_index, label.rollouts, label.tokens_generated) == ("none", None, 0, 0)
    assert label.success.tolist() == [0, 0, 0]
    assert label.success_ci.tolist() == [[0, 0]] * 3
    assert label.plain_tokens == ROLLOUTS
    assert not any(engine.calls)


def test_a_trajectory_longer_than_a_rollout_is_refused() -> None:
    with pytest.raises(UserError, match="toy/0 has 5 tokens, more than the 4"):
        labels(ToyEngine(), [trajectory(WRONG)], replace(FIVE, max_tokens=4))


@pytest.mark.parametrize("named", [512, 2])
def test_rollouts_begin_with_the_trajectorys_own_ids(named: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_module, "ALTERNATIVES", named)
    engine = Recorder()
    many = {"a": trajectory((2, 4, 3, 4), "a"), "b": trajectory((2, 1, 3, 3, 0), "b")}
    labels(engine, list(many.values()), replace(FIVE, max_tokens=6), budget=200, until="budget")
    left = Counter[tuple[str, int]]()
    for request in itertools.chain(*engine.calls):
        one = many[request.key.split("/")[0]]
        written = request.prefix[len(PROMPT) :]
        assert request.prefix[: len(PROMPT)] == PROMPT
        assert request.written == len(written)
        if written == one.token_ids:  # cut short
            left[one.id, len(written)] += 1
            continue
        at = len(written) - 1
        assert written[:at] == one.token_ids[:at]
        assert written[at] != one.token_ids[at]
        assert NEXT[request.prefix[-2], written[at]] > 0
        left[one.id, at] += 1
    assert set(left) == {("a", d) for d in range(5)} | {("b", d) for d in range(5)}


def admitted(logprobs: np.ndarray, sampling: Sampling) -> np.ndarray:
    """The probabilities of all tokens under one truncation at temperature 1, naively; [V]."""
    p = np.exp(logprobs)
    order = np.argsort(-p)
    if sampling.top_k:
        kept = order[: sampling.top_k]
    elif sampling.top_p < 1:
        kept = order[: int(np.searchsorted(np.cumsum(p[order]), sampling.top_p)) + 1]
    elif sampling.min_p:
        kept = np.flatnonzero(p >= sampling.min_p * p.max())
    else:
        kept = np.flatnonzero(logprobs >= logprobs.max() - sampling.top_n_sigma * logprobs.std(ddof=1))
    return np.where(np.isin(np.arange(len(p)), kept), p, 0) / p[kept].sum()


@pytest.mark.parametrize("truncation", [{"top_k": 3}, {"top_p": 0.8}, {"min_p": 0.1}, {"top_n_sigma": 1.0}])
def test_only_tokens_that_the_truncation_admits(truncation: dict[str, Any], lab: Engine) -> None:
    sampling = Sampling(max_tokens=40, **truncation)
    sampled = sample_trajectories(lab, load_problems(limit=2), sampling, n=1, prompt="plain")
    for one, policy in zip(sampled, policies(lab, sampled, sampling), strict=True):
        leaves = fork_leaves(one, policy, True)
        n, start = len(one.token_ids), len(one.prompt_ids)
        total = np.bincount(leaves.position, leaves.prob, n) + leaves.own
        assert total == pytest.approx(np.ones(n), abs=1e-5)
        (raw,) = lab.score([(*one.prompt_ids, *one.token_ids)], top=lab.vocab_size, starts=[start])
        for d in range(n):
            by_id = np.empty(lab.vocab_size)
            by_id[raw.top_ids[start + d]] = raw.top_logprobs[start + d]
            expected = admitted(by_id.astype(np.float64), sampling)
            here = leaves.position == d
            found = np.zeros(lab.vocab_size)
            found[leaves.token[here]] = leaves.prob[here]
            found[one.token_ids[d]] = leaves.own[d]
            assert UNNAMED not in leaves.token[here]
            assert found == pytest.approx(expected, abs=1e-5)
            assert np.count_nonzero(found) == np.count_nonzero(expected)
    for label in labels(lab, sampled, sampling, budget=16, wave=16):
        assert label.rollouts == 16
        assert all(a.prob > 0 for a in label.alternatives)
