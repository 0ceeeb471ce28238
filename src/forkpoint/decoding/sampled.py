"""Strategies without branching: greedy, sampling, beam search, self-consistency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from forkpoint.decoding.outcome import Case, Outcome, Path, outcome, read_path
from forkpoint.decoding.voting import count_votes
from forkpoint.engines import Engine
from forkpoint.types import Completion, Request, Sampling


def greedy(engine: Engine, cases: Sequence[Case], sampling: Sampling) -> list[Outcome]:
    """The most probable token at every step."""
    return sample(engine, cases, replace(sampling, temperature=0.0), n=1)


def sample(engine: Engine, cases: Sequence[Case], sampling: Sampling, *, n: int) -> list[Outcome]:
    """n independent responses a case; the first is the chosen one."""
    requests = [Request(f"{case.id}#{i}", case.prompt) for case in cases for i in range(n)]
    done = {c.key: c for c in engine.generate(requests, sampling)}
    return [outcome(case, [_path(engine, case, done[f"{case.id}#{i}"]) for i in range(n)], chosen=0) for case in cases]


def beam(engine: Engine, cases: Sequence[Case], sampling: Sampling, *, beams: int) -> list[Outcome]:
    """Beam search; the best beam is the only path, and only its tokens are counted."""
    best = engine.beam_search([Request(case.id, case.prompt) for case in cases], beams, sampling)
    return [outcome(case, [_path(engine, case, done)], chosen=0) for case, done in zip(cases, best, strict=True)]


def self_consistency(engine: Engine, cases: Sequence[Case], sampling: Sampling, *, n: int) -> list[Outcome]:
    """n sampled responses vote, each with weight 1 (Wang et al. 2022, arXiv 2203.11171); without answer, none.

    A response that was cut off votes only with an answer stated before the cut, else it is dropped ("length").
    """
    outcomes = []
    for case, sampled in zip(cases, sample(engine, cases, sampling, n=n), strict=True):
        paths = [replace(p, dropped="length") if p.answer is None and p.cut_off else p for p in sampled.paths]
        votes, voters = count_votes([p.answer for p in paths], [1.0] * n, case.kind, case.question)
        outcomes.append(outcome(case, paths, voters[0] if voters else 0, votes))
    return outcomes


def _path(engine: Engine, case: Case, done: Completion) -> Path:
    path = Path(done.token_ids, done.gaps, done.text, done.finish_reason, generated=len(done.token_ids))
    return read_path(engine.tokenizer, case, path)
