"""CoT-decoding (Wang & Zhou 2024, arXiv 2402.10200): branch at one token, keep the path whose answer is surest.

    1. take the top-k tokens at the branching position and continue each greedily;
    2. find the answer of each path and the tokens that spell it;
    3. Δ = mean over those tokens of p(top1) - p(top2), from the raw distribution;
    4. `max`: the path with the largest Δ; `aggregate`: the answer with the largest sum of Δ.

The top-1 branch is the greedy path, so k = 1 is greedy decoding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from forkpoint.decoding.answers import find_again, mean_gap, readable, tokens_of
from forkpoint.decoding.outcome import Case, Outcome, Path
from forkpoint.decoding.sampled import outcome, read_path
from forkpoint.decoding.voting import count_votes, winner
from forkpoint.decoding.yesno import label_mass_differences
from forkpoint.engines import Engine
from forkpoint.tasks import extract
from forkpoint.types import AnswerKind, Request, Sampling, TokenIds, UserError

CONTINUATION = " So the answer is"
CONTINUATION_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Fork:
    """Where a case branches: the response tokens before, their gaps, the gap and the top tokens at the position."""

    before: TokenIds
    gaps_before: tuple[float, ...]
    gap: float
    tokens: TokenIds


def cot_decode(
    engine: Engine,
    prompts: Sequence[str],
    k: int = 10,
    *,
    kind: AnswerKind = "number",
    options: tuple[str, ...] = (),
    aggregate: bool = False,
    span: str = "extract",
    position: str = "0",
    max_tokens: int = 256,
    stop: tuple[str, ...] = ("\n\nQ:", "\nQ:"),
) -> list[Outcome]:
    """CoT-decoding of text prompts; one outcome a prompt, in order, with every path, its Δ and why it was dropped.

    Use the plain format `Q: {question}\\nA:` for base models. `span` is "extract" or "continuation", `position` a token
    number of the response or "entropy:m" for the m positions of the greedy path with the highest entropy.
    Raises UserError for an option out of range.
    """
    cases = [
        Case(f"prompt {i}", tuple(engine.tokenizer(prompt)["input_ids"]), kind, options)
        for i, prompt in enumerate(prompts)
    ]
    if k < 1:
        raise UserError(f"k of cot-decoding must be at least 1, but is {k}")
    check_options(span, position)
    sampling = Sampling(temperature=0.0, max_tokens=max_tokens, stop=stop)
    return decode_cases(engine, cases, sampling, k=k, aggregate=aggregate, span=span, position=position)


def check_options(span: str, position: str) -> None:
    """Raise UserError for a span or a position that CoT-decoding does not know."""
    if span not in ("extract", "continuation"):
        raise UserError(f"span of cot-decoding must be extract or continuation, but is {span!r}")
    _parse_position(position)


def decode_cases(
    engine: Engine, cases: Sequence[Case], sampling: Sampling, *, k: int, aggregate: bool, span: str, position: str
) -> list[Outcome]:
    """CoT-decoding of prepared cases; of `sampling` only max_tokens and stop count."""
    greedy = replace(sampling, temperature=0.0)
    forks, spent = find_forks(engine, cases, greedy, k, position)
    paths = continue_forks(engine, cases, greedy, forks)
    spent = [s + sum(len(p.token_ids) for p in ps) - _forced(fs) for s, ps, fs in zip(spent, paths, forks, strict=True)]
    paths = [
        [drop_unusable(read_path(engine, case, path, greedy.stop)) for path in ps]
        for case, ps in zip(cases, paths, strict=True)
    ]
    if span == "continuation":
        paths, more = continue_with_answer(engine, cases, paths, greedy.stop)
        spent = [s + m for s, m in zip(spent, more, strict=True)]
    paths = label_mass_differences(engine, cases, paths)
    return [
        replace(choose_path(case, ps, aggregate), tokens_generated=s)
        for case, ps, s in zip(cases, paths, spent, strict=True)
    ]


def _forced(forks: Sequence[Fork]) -> int:
    """Tokens of a case's paths that no engine call wrote: what stood before each fork, and the forced token."""
    return sum((len(fork.before) + 1) * len(fork.tokens) for fork in forks)


# ---- branching ------------------------------------------------------------------------------------------------------


def find_forks(
    engine: Engine, cases: Sequence[Case], greedy: Sampling, k: int, position: str
) -> tuple[list[list[Fork]], list[int]]:
    """The forks of each case, and the tokens generated to find them (none for position 0)."""
    at, most_uncertain = _parse_position(position)
    if at == 0:
        scored = engine.score([c.prompt for c in cases], top=k, starts=[len(c.prompt) for c in cases])
        forks = [
            [Fork((), (), float(s.gaps[len(c.prompt)]), tuple(s.top_ids[len(c.prompt)].tolist()))]
            for c, s in zip(cases, scored, strict=True)
        ]
        return forks, [0] * len(cases)
    done = {c.key: c for c in engine.generate([Request(c.id, c.prompt) for c in cases], greedy)}
    responses = [done[c.id] for c in cases]
    sequences = [(*c.prompt, *r.token_ids) for c, r in zip(cases, responses, strict=True)]
    scored = engine.score(sequences, top=k, starts=[len(c.prompt) for c in cases])
    forks = []
    for case, response, s in zip(cases, responses, scored, strict=True):
        n = len(case.prompt)
        length = len(response.token_ids)
        if most_uncertain:
            entropy = s.entropy[n : n + length]
            where = sorted(np.argsort(-entropy, kind="stable")[:most_uncertain].tolist())
        else:
            where = [min(at, length - 1)]
        forks.append([
            Fork(response.token_ids[:i], response.gaps[:i], float(s.gaps[n + i]), tuple(s.top_ids[n + i].tolist()))
            for i in where
        ])  # fmt: skip
    return forks, [len(r.token_ids) for r in responses]


def _parse_position(position: str) -> tuple[int, int]:
    """(position, 0) for a token number, (-1, m) for "entropy:m"."""
    name, colon, count = position.partition(":")
    if name == "entropy" and colon and count.isdigit() and int(count) > 0:
        return -1, int(count)
    if position.isdigit():
        return int(position), 0
    raise UserError(f"position of cot-decoding must be a token number or entropy:m, but is {position!r}")


def continue_forks(
    engine: Engine, cases: Sequence[Case], greedy: Sampling, forks: Sequence[Sequence[Fork]]
) -> list[list[Path]]:
    """Every branch of every fork, continued greedily from its forced token; paths without text yet."""
    starts = {
        f"{case.id}#{f}#{rank}": (case, fork, token)
        for case, its in zip(cases, forks, strict=True)
        for f, fork in enumerate(its)
        for rank, token in enumerate(fork.tokens)
    }
    requests = [
        Request(key, (*case.prompt, *fork.before, token))
        for key, (case, fork, token) in starts.items()
        if token not in engine.ends and len(fork.before) + 1 < greedy.max_tokens
    ]
    rest = replace(greedy, max_tokens=max(1, greedy.max_tokens - 1))
    done = {c.key: c for c in engine.generate(requests, rest)}
    paths: dict[str, list[Path]] = {case.id: [] for case in cases}
    for key, (case, fork, token) in starts.items():
        head, gaps = (*fork.before, token), (*fork.gaps_before, fork.gap)
        room = greedy.max_tokens - len(head)
        if key in done:
            tail = done[key]
            reason = tail.finish_reason if len(tail.token_ids) <= room else "length"
            path = Path((*head, *tail.token_ids[:room]), (*gaps, *tail.gaps[:room]), "", reason)
        else:
            path = Path(head, gaps, "", "stop" if token in engine.ends else "length")
        paths[case.id].append(path)
    return [paths[case.id] for case in cases]


# ---- filters, spans, choice -----------------------------------------------------------------------------------------


def drop_unusable(path: Path) -> Path:
    """Mark empty paths, paths cut off by the length limit, and paths that end in a question."""
    if not path.text.strip():
        return replace(path, dropped="empty")
    if path.finish_reason == "length":
        return replace(path, dropped="length")
    if path.text.rstrip().endswith("?"):
        return replace(path, dropped="question")
    return path


def continue_with_answer(
    engine: Engine, cases: Sequence[Case], paths: Sequence[Sequence[Path]], stop: tuple[str, ...]
) -> tuple[list[list[Path]], list[int]]:
    """Append "So the answer is" to each usable path, decode on, and locate the answer that follows in the path."""
    appended = tuple(engine.tokenizer(CONTINUATION, add_special_tokens=False)["input_ids"])
    requests = []
    for case, its in zip(cases, paths, strict=True):
        for i, path in enumerate(its):
            if path.dropped is None:
                body = _without_end(engine, path, stop)
                requests.append(Request(f"{case.id}#{i}", (*case.prompt, *body, *appended)))
    greedy = Sampling(temperature=0.0, max_tokens=CONTINUATION_TOKENS, stop=(*stop, "\n"))
    done = {c.key: c for c in engine.generate(requests, greedy)}
    spent = [sum(len(done[f"{c.id}#{i}"].token_ids) for i in range(len(ps)) if f"{c.id}#{i}" in done)
             for c, ps in zip(cases, paths, strict=True)]  # fmt: skip
    located = []
    for case, its in zip(cases, paths, strict=True):
        located.append([
            _locate(engine, case, path, Path(c.token_ids, c.gaps, c.text, c.finish_reason), stop)
            if (c := done.get(f"{case.id}#{i}")) else path
            for i, path in enumerate(its)
        ])  # fmt: skip
    return located, spent


def _without_end(engine: Engine, path: Path, stop: tuple[str, ...]) -> TokenIds:
    """A path's tokens up to where its text ends: neither an end-of-sequence token nor a stop string."""
    text, offsets = readable(engine.tokenizer, path.token_ids, stop)
    return tuple(
        token
        for token, (start, _) in zip(path.token_ids, offsets, strict=True)
        if start < len(text) and token not in engine.ends
    )


def _locate(engine: Engine, case: Case, path: Path, tail: Path, stop: tuple[str, ...]) -> Path:
    """The path with the answer that its continuation gives, Δ taken where the path itself spells that answer.

    Where it does not: a numeric path is dropped; others take Δ over the continuation's own answer tokens.
    """
    path = replace(path, continuation=CONTINUATION + tail.text, answer=None, span=None, confidence=None)
    said, said_offsets = readable(engine.tokenizer, tail.token_ids, (*stop, "\n"))
    found = extract(said, case.kind, case.options)
    if found is None:
        return replace(path, dropped="no answer")
    _, offsets = readable(engine.tokenizer, path.token_ids, stop)
    if again := find_again(said[found.start : found.end], path.text):
        span = tokens_of(offsets, again.start, again.end)
        return replace(path, answer=found.value, span=span, confidence=mean_gap(path.gaps, span))
    if case.kind == "number":
        return replace(path, answer=found.value, dropped="not aligned")
    over_tail = mean_gap(tail.gaps, tokens_of(said_offsets, found.start, found.end))
    return replace(path, answer=found.value, confidence=over_tail)


def choose_path(case: Case, paths: Sequence[Path], aggregate: bool) -> Outcome:
    """The surest usable path, or the surest one among those that give the heaviest answer.

    Where no path is usable the first one, which is greedy, stands for the case.
    """
    paths = [replace(p, dropped="no answer") if p.dropped is None and p.confidence is None else p for p in paths]
    usable = [i for i, p in enumerate(paths) if p.dropped is None]
    if not usable:
        return outcome(case, paths, chosen=0)
    sureness = {i: paths[i].confidence or 0.0 for i in usable}
    ballots = count_votes([p.answer if p.dropped is None else None for p in paths],
                          [sureness.get(i, 0.0) for i in range(len(paths))], case.kind)  # fmt: skip
    candidates = winner(ballots).voters if aggregate else usable
    chosen = max(candidates, key=lambda i: sureness[i])
    return outcome(case, paths, chosen, {b.answer: b.weight for b in ballots})


def dropped_counts(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many paths were left out, by reason."""
    return dict(sorted(Counter(p.dropped for o in outcomes for p in o.paths if p.dropped).items()))
