"""Strategies without branching: greedy, sampling, beam search, self-consistency, and pass@k sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from forkpoint.decoding.answer_span import mean_gap, readable, tokens_of
from forkpoint.decoding.outcome import Case, Outcome, Path
from forkpoint.decoding.voting import count_votes, winner
from forkpoint.engines import Engine
from forkpoint.tasks import extract
from forkpoint.types import Completion, Request, Sampling


def greedy(engine: Engine, cases: Sequence[Case], sampling: Sampling) -> list[Outcome]:
    """The most probable token at every step."""
    return sample(engine, cases, replace(sampling, temperature=0.0), n=1)


def sample(engine: Engine, cases: Sequence[Case], sampling: Sampling, *, n: int) -> list[Outcome]:
    """n independent responses a case; the first is the chosen one."""
    requests = [Request(f"{case.id}#{i}", case.prompt) for case in cases for i in range(n)]
    done = {c.key: c for c in engine.generate(requests, sampling)}
    outcomes = []
    for case in cases:
        paths = [path_of(engine, case, done[f"{case.id}#{i}"], sampling.stop) for i in range(n)]
        outcomes.append(outcome(case, paths, chosen=0))
    return outcomes


def beam(engine: Engine, cases: Sequence[Case], sampling: Sampling, *, beams: int) -> list[Outcome]:
    """Beam search; the best beam is the only path, and only its tokens are counted."""
    requests = [Request(case.id, case.prompt) for case in cases]
    found = engine.beam_search(requests, beams, sampling)
    return [
        outcome(case, [path_of(engine, case, done, sampling.stop)], chosen=0)
        for case, done in zip(cases, found, strict=True)
    ]


def self_consistency(engine: Engine, cases: Sequence[Case], sampling: Sampling, *, n: int) -> list[Outcome]:
    """n sampled responses vote, each with weight 1 (Wang et al. 2022, arXiv 2203.11171); without answer, none.

    A response that was cut off votes only with an answer stated before the cut, else it is dropped ("length").
    """
    outcomes = []
    for case, sampled in zip(cases, sample(engine, cases, sampling, n=n), strict=True):
        paths = [
            replace(p, dropped="length") if p.answer is None and p.finish_reason == "length" else p
            for p in sampled.paths
        ]
        ballots = count_votes([p.answer for p in paths], [1.0] * n, case.kind, case.question)
        chosen = winner(ballots).voters[0] if ballots else 0
        outcomes.append(outcome(case, paths, chosen, {b.answer: b.weight for b in ballots}))
    return outcomes


def path_of(engine: Engine, case: Case, done: Completion, stop: tuple[str, ...]) -> Path:
    """A completion as a path, its answer read and located."""
    return read_path(engine, case, Path(done.token_ids, done.gaps, "", done.finish_reason), stop)


def read_path(engine: Engine, case: Case, path: Path, stop: tuple[str, ...]) -> Path:
    """The path with its text, its answer, the answer's tokens, and Δ over them."""
    text, offsets = readable(engine.tokenizer, path.token_ids, stop)
    found = extract(text, case.kind, case.options, cut_off=path.cut_off)
    if found is None:
        return replace(path, text=text)
    span = tokens_of(offsets, found.start, found.end)
    return replace(path, text=text, answer=found.value, span=span, confidence=mean_gap(path.gaps, span))


def outcome(case: Case, paths: Sequence[Path], chosen: int, votes: dict[str, float] | None = None) -> Outcome:
    """An outcome whose response is the chosen path's continuation, where there is one, else its text."""
    path = paths[chosen]
    response = path.text if path.continuation is None else path.continuation
    return Outcome(case.id, tuple(paths), chosen, response, sum(len(p.token_ids) for p in paths), votes or {})
