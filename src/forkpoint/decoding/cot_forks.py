"""The branching half of CoT-decoding: where a case forks, and each branch continued greedily."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from forkpoint.decoding.outcome import Case, Path
from forkpoint.engines import Engine
from forkpoint.text import decode
from forkpoint.types import Completion, Request, Sampling, Scored, TokenIds, UserError


@dataclass(frozen=True, slots=True)
class BranchPoint:
    """Where a case branches: the response tokens before, their gaps, the gap at the position, and its top tokens."""

    before: TokenIds
    gaps_before: tuple[float, ...]
    gap: float
    tokens: TokenIds


def parse_position(position: str) -> tuple[int, int]:
    """(position, 0) for a token number, (-1, m) for "entropy:m"; UserError for anything else."""
    name, colon, count = position.partition(":")
    if name == "entropy" and colon and count.isdecimal() and int(count) > 0:
        return -1, int(count)
    if position.isdecimal():
        return int(position), 0
    raise UserError(f"position of cot-decoding must be a token number or entropy:m, but is {position!r}")


def find_forks(
    engine: Engine, cases: Sequence[Case], greedy: Sampling, k: int, position: str
) -> tuple[list[list[BranchPoint]], list[int]]:
    """The forks of each case, and the tokens generated to find them (none for position 0).

    A position past the end of the greedy path is its last token. Of several forks only the first has the greedy
    token: after the others it would lead to the same path again.
    """
    at, most_uncertain = parse_position(position)
    if at == 0:
        scored = engine.score([c.prompt for c in cases], top=k, starts=[len(c.prompt) for c in cases])
        return [[_fork(None, s, len(c.prompt), 0)] for c, s in zip(cases, scored, strict=True)], [0] * len(cases)
    done = {c.key: c for c in engine.generate([Request(c.id, c.prompt) for c in cases], greedy)}
    responses = [done[c.id] for c in cases]
    sequences = [(*c.prompt, *r.token_ids) for c, r in zip(cases, responses, strict=True)]
    scored = engine.score(sequences, top=k, starts=[len(c.prompt) for c in cases])
    forks = []
    for case, response, s in zip(cases, responses, scored, strict=True):
        n, length = len(case.prompt), len(response.token_ids)
        where = [min(at, length - 1)]
        if most_uncertain:
            where = sorted(np.argsort(-s.entropy[n : n + length], kind="stable")[:most_uncertain].tolist())
        first, *others = [_fork(response, s, n, i) for i in where]
        forks.append([first, *(replace(fork, tokens=fork.tokens[1:]) for fork in others)])
    return forks, [len(r.token_ids) for r in responses]


def _fork(response: Completion | None, scored: Scored, prompt_length: int, at: int) -> BranchPoint:
    row = prompt_length + at
    tokens = tuple(scored.top_ids[row].tolist())
    before, gaps = (response.token_ids[:at], response.gaps[:at]) if response else ((), ())
    return BranchPoint(before, gaps, float(scored.gaps[row]), tokens)


def continue_forks(
    engine: Engine, cases: Sequence[Case], greedy: Sampling, forks: Sequence[Sequence[BranchPoint]]
) -> tuple[list[list[Path]], list[int]]:
    """Every branch of every fork, continued greedily from its forced token, and the tokens generated for each case.

    The paths have no text yet. A branch whose tokens already end the response, by an end-of-sequence token, a stop
    string or the length limit, is not continued.
    """
    branches = {
        f"{case.id}#{f}#{rank}": (case, fork, (*fork.before, token))
        for case, its in zip(cases, forks, strict=True)
        for f, fork in enumerate(its)
        for rank, token in enumerate(fork.tokens)
    }
    ended = {key: _already_ended(engine, greedy, head) for key, (_, _, head) in branches.items()}
    requests = [
        Request(key, (*case.prompt, *head), written=len(head))
        for key, (case, _, head) in branches.items()
        if not ended[key] and len(head) < greedy.max_tokens
    ]
    done = {c.key: c for c in engine.generate(requests, greedy)}
    paths: dict[str, list[Path]] = {case.id: [] for case in cases}
    spent = dict.fromkeys(paths, 0)
    for key, (case, fork, head) in branches.items():
        gaps = (*fork.gaps_before, fork.gap)
        if tail := done.get(key):
            path = Path((*head, *tail.token_ids), (*gaps, *tail.gaps), "", tail.finish_reason)
            spent[case.id] += len(tail.token_ids)
        else:
            path = Path(head, gaps, "", "stop" if ended[key] else "length")
        paths[case.id].append(path)
    return [paths[case.id] for case in cases], [spent[case.id] for case in cases]


def _already_ended(engine: Engine, greedy: Sampling, head: TokenIds) -> bool:
    if head[-1] in engine.ends:
        return True
    return bool(greedy.stop) and any(s in decode(engine.tokenizer, head) for s in greedy.stop)
