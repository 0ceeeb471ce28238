"""The policy along a trajectory, and graded rollouts that leave it.

A response sampled from prefix i follows the trajectory to position d with probability Π_{i≤t<d} π_t and leaves it there
with 1 - π_d, by another token of the policy, renormalised. One forward pass gives these probabilities, so the part
where a response follows is drawn, not generated. Tokens up to there are the trajectory's own ids.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import numpy as np
from jaxtyping import Float64, Int64

from forkpoint.curves.forks import Status
from forkpoint.engines import Engine
from forkpoint.sampling.draw import key_hash, uniforms
from forkpoint.tasks import grade_response
from forkpoint.text import cut_at_stop, decode
from forkpoint.types import FinishReason, Request, Sampling, TokenIds, Trajectory

ALTERNATIVES = 512  # other tokens named at each position, where the engine can name so many
ROUNDING = 1e-5  # less probability outside of the named tokens is the rounding of a float32 sum
WIDEN = 8  # how many times more tokens are named when a draw lies outside those named so far

L = TypeVar("L")


@dataclass(frozen=True, slots=True)
class Policy:
    """The policy along a trajectory of T tokens, float64 probabilities after temperature and truncation.

    `own` is π of the trajectory's own tokens; `ids` and `probs` are the most probable tokens with their probabilities,
    0 for the trajectory's own; `outside` is the probability of all tokens that are neither. `unnamed` is that of tokens
    that the engine cannot name; it is left out, and the rest is scaled to make 1. Raw, [T] each: `logprob`, `entropy`
    (nats) and `gap` (p(top1) - p(top2)).
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


def uniforms_of(seed: int, keys: Iterable[str], step: int = 0) -> Float64[np.ndarray, " n"]:
    """A number in [0, 1) for each key."""
    return uniforms(np.array([key_hash(seed, key) for key in keys], dtype=np.uint64), step)


def divergence_positions(
    own: Float64[np.ndarray, " T"], prefix: int, u: Float64[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """The first position, from `prefix` on, at which each of n responses leaves the trajectory; T where it never does.

    u, uniform in [0, 1), decides: a response still follows after position d while u < Π_{prefix≤t≤d} π_t.
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

    correct: bool
    token_ids: TokenIds
    generated: int


Rollouts = dict[str, Rollout]


def other_tokens(engine: Engine, starts: Sequence[Start], sampling: Sampling) -> list[int | None]:
    """For each start a token drawn from its policy without the trajectory's own token; None where there is no other.

    Tokens stand in the order of their logits, and u picks the one at which the cumulative probability exceeds it. Where
    that is not among those that the policy names, the engine names more, up to the whole vocabulary: the draw is exact.
    """
    tokens, pending = list[int | None](), list[int]()
    for i, start in enumerate(starts):
        policy, at = start.policy, start.position
        assert policy is not None
        tokens.append(_pick(policy.ids[at], policy.probs[at], start, policy.outside[at] == 0))
        if tokens[i] is None and policy.outside[at] > 0:
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


def roll_out(engine: Engine, starts: Sequence[Start], sampling: Sampling) -> Rollouts:
    """One graded rollout a start, by key; each response has at most max_tokens tokens.

    A response that the forced tokens already end costs nothing. Where a policy has no other token, π being below 1 by
    rounding alone, the next token is the trajectory's own.
    """
    tokens = iter(other_tokens(engine, [start for start in starts if start.policy is not None], sampling))
    found, by_key, requests = Rollouts(), dict[str, Start](), list[Request]()
    for start in starts:
        trajectory, at = start.trajectory, start.position
        if start.policy is not None:
            token = next(tokens)
            assert token is not None or start.policy.outside[at] == 0, "the policy has tokens beyond those it names"
            start = replace(start, forced=(trajectory.token_ids[at] if token is None else token,))
        written = (*trajectory.token_ids[:at], *start.forced)
        text = decode(engine.tokenizer, written)
        response = cut_at_stop(text, sampling.stop)
        if response != text or (written and written[-1] in engine.ends):
            found[start.key] = _graded(start, response, "stop", ())
        elif len(written) >= sampling.max_tokens:
            found[start.key] = _graded(start, text, "length", ())
        else:
            by_key[start.key] = start
            requests.append(Request(start.key, (*trajectory.prompt_ids, *written), len(written)))
    for done in engine.generate(requests, sampling):
        found[done.key] = _graded(by_key[done.key], done.text, done.finish_reason, done.token_ids)
    return found


def _graded(start: Start, text: str, reason: FinishReason, generated: TokenIds) -> Rollout:
    verdict = grade_response(text, start.trajectory.problem, cut_off=reason == "length")
    return Rollout(verdict.correct, (*start.forced, *generated), len(generated))


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


Search = Generator[list[Start], Rollouts, L]
"""The search for a trajectory's label: it asks for rollouts, is sent them by their keys, and returns the label."""


def run_searches(engine: Engine, searches: Iterable[Search[L]], sampling: Sampling, *, together: int) -> Iterator[L]:
    """The label of each search, in the order in which they end; `together` of them share each call of the engine."""
    source, live = iter(searches), list[tuple[Search[L], Rollouts | None]]()
    while live := [*live, *((search, None) for search in islice(source, together - len(live)))]:
        starts, going = list[Start](), list[Search[L]]()
        for search, sent in live:
            try:
                starts += next(search) if sent is None else search.send(sent)
            except StopIteration as end:
                yield end.value
            else:
                going.append(search)
        rollouts = roll_out(engine, starts, sampling)
        live = [(search, rollouts) for search in going]
