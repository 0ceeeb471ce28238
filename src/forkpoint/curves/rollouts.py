"""The policy along a trajectory, and graded rollouts that leave it.

A response sampled from prefix i follows the trajectory to position d with probability Π_{i≤t<d} π_t and leaves it there
with 1 - π_d, by another token of the policy, renormalised. One forward pass gives these probabilities, so the part
where a response follows is drawn, not generated. Tokens up to there are the trajectory's own ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np
from jaxtyping import Float64, Int64, UInt64

from forkpoint.curves.forks import Status
from forkpoint.engines import Engine
from forkpoint.sampling.draw import key_hash
from forkpoint.tasks import grade_response
from forkpoint.text import cut_at_stop, decode
from forkpoint.types import FinishReason, Request, Sampling, TokenIds, Trajectory

ALTERNATIVES = 512  # other tokens named at each position, where the engine can name so many
ROUNDING = 1e-5  # less probability outside of the named tokens is the rounding of a float32 sum
WIDEN = 8  # how many times more tokens are named when a draw lies outside those named so far

L_co = TypeVar("L_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Policy:
    """The policy along a trajectory of T tokens, float64 probabilities after temperature and truncation.

    `own` [T] is π of the trajectory's own tokens; `ids` and `probs` [T, K] are the most probable tokens with their
    probabilities, 0 for the trajectory's own; `outside` [T] is the probability of all tokens that are neither.
    `unnamed` [T] is the probability of tokens that the engine cannot name; it is left out, and the rest is scaled to
    make 1. Raw: `logprob`, `entropy` (nats) and `gap` (p(top1) - p(top2)), [T] each.
    """

    own: Float64[np.ndarray, " T"]
    ids: Int64[np.ndarray, "T K"]
    probs: Float64[np.ndarray, "T K"]
    outside: Float64[np.ndarray, " T"]
    unnamed: Float64[np.ndarray, " T"]
    logprob: np.ndarray
    entropy: np.ndarray
    gap: np.ndarray

    def bias_bound(self) -> Float64[np.ndarray, " T+1"]:
        """How far a success probability P(correct | the first i tokens) may lie from the truth for what is left out.

        With m_t = `unnamed` there, p_{t-1} = (1 - m_t) p'_{t-1} + m_t q for some q in [0, 1], where p' leaves m_t out:
        so the difference grows by at most m_t, beside π_t (1 - m_t) times that of p_t.
        """
        bound = np.zeros(len(self.own) + 1)
        for t in range(len(self.own) - 1, -1, -1):
            bound[t] = self.unnamed[t] + (1 - self.unnamed[t]) * self.own[t] * bound[t + 1]
        return np.minimum(bound, 1.0)


def policies(engine: Engine, trajectories: Iterable[Trajectory], sampling: Sampling) -> Iterator[Policy]:
    """The policy along each trajectory, in order, from one forward pass over each.

    Each is scored alone, so that its last bits, on which every draw rests, do not depend on its neighbours.
    """
    top = min(ALTERNATIVES, engine.most_top)
    for trajectory in trajectories:
        start = len(trajectory.prompt_ids)
        sequence = (*trajectory.prompt_ids, *trajectory.token_ids)
        (scored,) = engine.score([sequence], top=top, sampling=sampling, starts=[start])
        rows = slice(start, len(sequence))
        own, probs = scored.policy[rows].astype(np.float64), scored.top_policy[rows].astype(np.float64)
        ids = scored.top_ids[rows].astype(np.int64)
        probs = np.where(ids == np.array(trajectory.token_ids)[:, None], 0.0, probs)
        named = own + probs.sum(1)
        rest = np.where((named > 1 - ROUNDING) | (top == engine.vocab_size), 0.0, 1 - named)
        lost = rest if engine.most_top < engine.vocab_size else np.zeros_like(rest)
        scale = np.where(rest > lost, 1.0, 1 / named)
        yield Policy(
            own * scale, ids, probs * scale[:, None], rest - lost, lost,
            scored.logprobs[rows], scored.entropy[rows], scored.gaps[rows],
        )  # fmt: skip


def hashes(seed: int, keys: Iterable[str]) -> UInt64[np.ndarray, " n"]:
    """The seeds of `uniforms` for each key."""
    return np.array([key_hash(seed, key) for key in keys], dtype=np.uint64)


def divergence_positions(
    own: Float64[np.ndarray, " T"], prefix: int, u: Float64[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """The first position, from `prefix` on, at which each of n responses leaves the trajectory; T where it never does.

    `own` is π of the trajectory's own tokens and u, uniform in [0, 1), decides: a response still follows after
    position d while u < Π_{prefix≤t≤d} π_t.
    """
    following = np.cumprod(own[prefix:])
    return prefix + np.searchsorted(-following, -u, side="left").astype(np.int64)


@dataclass(frozen=True, slots=True)
class Start:
    """Where a rollout begins: after the trajectory's first `position` tokens, with `forced` as the next ones.

    With a `policy` the next token is another one than the trajectory's, which u in [0, 1) draws. `key` names the
    rollout and seeds its randomness.
    """

    key: str
    trajectory: Trajectory
    position: int
    forced: TokenIds = ()
    policy: Policy | None = None
    u: float = 0.0


@dataclass(frozen=True, slots=True)
class Rollout:
    """A graded rollout: its tokens from the start's position on, and how many of them the engine wrote."""

    key: str
    correct: bool
    token_ids: TokenIds
    generated: int


def other_tokens(engine: Engine, starts: Sequence[Start], sampling: Sampling) -> list[int | None]:
    """For each start a token drawn from its policy without the trajectory's own token, renormalised.

    None where the policy has no other token. Tokens stand in the order of their logits, and u picks the one at which
    the cumulative probability exceeds it. Where that is not among those that the policy names, the engine names more of
    them, up to the whole vocabulary, so the draw is exact.
    """
    tokens: list[int | None] = []
    pending = []
    for i, start in enumerate(starts):
        assert start.policy is not None
        at = start.position
        all_named = bool(start.policy.outside[at] == 0)
        tokens.append(_pick(start.policy.ids[at], start.policy.probs[at], start, all_named))
        if tokens[i] is None and not all_named:
            pending.append(i)
    top = min(ALTERNATIVES, engine.most_top)
    while pending:
        top = min(top * WIDEN, engine.vocab_size)
        rest = [starts[i] for i in pending]
        prefixes = [(*s.trajectory.prompt_ids, *s.trajectory.token_ids[: s.position]) for s in rest]
        scores = engine.score(prefixes, top=top, sampling=sampling, starts=[len(p) for p in prefixes])
        for i, start, scored in zip(pending, rest, scores, strict=True):
            ids, own = scored.top_ids[-1], start.trajectory.token_ids[start.position]
            probs = np.where(ids == own, 0.0, scored.top_policy[-1].astype(np.float64))
            tokens[i] = _pick(ids, probs, start, top == engine.vocab_size)
        pending = [i for i in pending if tokens[i] is None and top < engine.vocab_size]
    return tokens


def _pick(ids: np.ndarray, probs: np.ndarray, start: Start, all_named: bool) -> int | None:
    """The token that u falls on, None where that is beyond these or where all of them have probability 0."""
    assert start.policy is not None
    cumulative = np.cumsum(probs)
    total = cumulative[-1] if all_named else 1 - start.policy.own[start.position]
    target = start.u * total
    if all_named:  # u · total may round up to total
        target = min(target, np.nextafter(total, 0))
    at = int(np.searchsorted(cumulative, target, side="right"))
    return int(ids[at]) if at < len(ids) else None


def roll_out(engine: Engine, starts: Sequence[Start], sampling: Sampling) -> Iterator[Rollout]:
    """One graded rollout a start, in the order in which they finish; each response has at most max_tokens tokens.

    A response that the forced tokens already end (by an end-of-sequence token, a stop string, or the last token there
    is room for) costs nothing. Where a policy has no other token, π being below 1 by rounding alone, the next token is
    the trajectory's own.
    """
    tokens = iter(other_tokens(engine, [start for start in starts if start.policy is not None], sampling))
    by_key = {}
    requests = []
    for start in starts:
        trajectory, at = start.trajectory, start.position
        if start.policy is not None:
            token = next(tokens)
            assert token is not None or start.policy.outside[at] == 0, "the policy has tokens beyond those it names"
            start = replace(start, forced=(trajectory.token_ids[at] if token is None else token,))
        by_key[start.key] = start
        written = (*trajectory.token_ids[:at], *start.forced)
        text = decode(engine.tokenizer, written) if sampling.stop else ""
        if (written and written[-1] in engine.ends) or any(stop in text for stop in sampling.stop):
            yield _graded(start, cut_at_stop(decode(engine.tokenizer, written), sampling.stop), "stop", ())
        elif len(written) >= sampling.max_tokens:
            yield _graded(start, decode(engine.tokenizer, written), "length", ())
        else:
            requests.append(Request(start.key, (*trajectory.prompt_ids, *written), len(written)))
    for done in engine.generate(requests, sampling):
        yield _graded(by_key[done.key], done.text, done.finish_reason, done.token_ids)


def _graded(start: Start, text: str, reason: FinishReason, generated: TokenIds) -> Rollout:
    verdict = grade_response(text, start.trajectory.problem, cut_off=reason == "length")
    return Rollout(start.key, verdict.correct, (*start.forced, *generated), len(generated))


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another token at a position: its policy probability, and how many of n rollouts that took it were correct."""

    position: int
    token_id: int
    prob: float
    correct: int
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveLabel:
    """The label of a trajectory of T tokens. Index i is the prefix of i tokens.

    `success` [T+1] estimates P(correct | prefix), `success_ci` [T+1, 2] is its 95% interval; NaN where not evaluated.
    `status` is "critical" with `critical_index` c, where token_ids[c] is the critical token, "none", or "undecided"
    with the candidate's index. `rollouts` were drawn; the engine wrote `tokens_generated` for them. `plain_tokens`
    estimates the tokens of 64 rollouts from every prefix that has a token before it, each generated to its end.
    `alternatives` are those that rollouts took, by position and falling probability, where the protocol keeps them.
    """

    trajectory: Trajectory
    policy: Policy
    success: Float64[np.ndarray, " T+1"]
    success_ci: Float64[np.ndarray, "T+1 2"]
    status: Status
    critical_index: int | None
    rollouts: int
    tokens_generated: int
    plain_tokens: float
    alternatives: tuple[Alternative, ...] = ()


class Search(Protocol[L_co]):
    """A trajectory whose label is being found: it draws rollouts, takes them in by their keys, until it is over."""

    @property
    def is_over(self) -> bool: ...
    def draw(self) -> list[Start]: ...
    def add(self, rollouts: Mapping[str, Rollout]) -> None: ...
    def label(self) -> L_co: ...


def run_searches(
    engine: Engine, searches: Iterable[Search[L_co]], sampling: Sampling, *, together: int
) -> Iterator[L_co]:
    """The label of each search, in the order in which they end; `together` of them share each call of the engine."""
    if together < 1:
        raise ValueError(f"together must be at least 1, but is {together}")
    source, live = iter(searches), list[Search[L_co]]()
    while live := [*live, *islice(source, together - len(live))]:
        starts = [start for search in live for start in search.draw()]
        rollouts = {rollout.key: rollout for rollout in roll_out(engine, starts, sampling)}
        for search in live:
            search.add(rollouts)
        yield from (search.label() for search in live if search.is_over)
        live = [search for search in live if not search.is_over]
