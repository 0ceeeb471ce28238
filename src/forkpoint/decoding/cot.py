"""CoT-decoding (Wang & Zhou 2024, arXiv 2402.10200): branch at one token, keep the path whose answer is surest.

1. take the top-k tokens at the branching position and continue each greedily (the first is the greedy path);
2. find the answer of each path and the tokens that spell it;
3. Δ = mean over those tokens of p(top1) - p(top2), from the raw distribution;
4. `max`: the path with the largest Δ; `aggregate`: the answer with the largest sum of Δ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import numpy as np

from forkpoint.decoding.cot_answers import continue_with_answer, label_mass_differences
from forkpoint.decoding.outcome import Case, Outcome, Path, outcome, read_path
from forkpoint.decoding.voting import count_votes
from forkpoint.engines import Engine
from forkpoint.sampling.limits import validate
from forkpoint.tasks import encode
from forkpoint.text import cut_at_stop, decode
from forkpoint.types import AnswerKind, Request, Sampling, TokenIds, UserError, check_texts

Head = tuple[TokenIds, tuple[float, ...]]
"""The first tokens of a branch, its forced one last, and their gaps."""


def cot_decode(
    engine: Engine,
    prompts: Sequence[str],
    k: int = 10,
    *,
    kind: AnswerKind = "number",
    options: tuple[str, ...] = (),
    aggregate: bool = False,
    span: str = "extract",
    position: str | int = 0,
    max_tokens: int = 256,
    stop: tuple[str, ...] = ("\n\nQ:", "\nQ:"),
) -> list[Outcome]:
    """CoT-decoding of text prompts; one outcome a prompt, in order, with every path, its Δ and why it was dropped.

    Use the plain format `Q: {question}\\nA:` for base models. `span` is "extract" or "continuation", `position` a token
    number of the response or "entropy:m" for the m positions of the greedy path with the highest entropy. UserError
    for an option out of range.
    """
    check_texts("prompts", prompts)
    check_texts("options", options)
    if kind not in get_args(AnswerKind):
        raise UserError(f"kind must be one of {', '.join(get_args(AnswerKind))}, but is {kind!r}")
    if k < 1:
        raise UserError(f"k of cot-decoding must be at least 1, but is {k}")
    check_options(span, str(position))
    sampling = Sampling(temperature=0.0, max_tokens=max_tokens, stop=stop)
    validate(sampling)
    cases = [Case(f"prompt {i}", encode(prompt, engine.tokenizer), kind, options) for i, prompt in enumerate(prompts)]
    return decode_cases(engine, cases, sampling, k=k, aggregate=aggregate, span=span, position=str(position))


def check_options(span: str, position: str) -> None:
    """UserError for a span or a position that CoT-decoding does not know."""
    if span not in ("extract", "continuation"):
        raise UserError(f"span of cot-decoding must be extract or continuation, but is {span!r}")
    parse_position(position)


def parse_position(position: str) -> tuple[int, int]:
    """(position, 0) for a token number, (-1, m) for "entropy:m"; UserError for anything else."""
    name, colon, count = position.partition(":")
    if name == "entropy" and colon and count.isdecimal() and int(count) > 0:
        return -1, int(count)
    if position.isdecimal():
        return int(position), 0
    raise UserError(f"position of cot-decoding must be a token number or entropy:m, but is {position!r}")


def decode_cases(
    engine: Engine, cases: Sequence[Case], sampling: Sampling, *, k: int, aggregate: bool, span: str, position: str
) -> list[Outcome]:
    """CoT-decoding of prepared cases; of `sampling` only max_tokens and stop count."""
    greedy = replace(sampling, temperature=0.0)
    heads, to_branch = branch(engine, cases, greedy, k, position)
    paths = continue_branches(engine, cases, greedy, heads)
    if span == "continuation":
        paths = continue_with_answer(engine, cases, paths, greedy.stop)
    paths = label_mass_differences(engine, cases, paths)
    outcomes = [choose_path(case, row, aggregate) for case, row in zip(cases, paths, strict=True)]
    return [replace(o, tokens_generated=o.tokens_generated + n) for o, n in zip(outcomes, to_branch, strict=True)]


def branch(
    engine: Engine, cases: Sequence[Case], greedy: Sampling, k: int, position: str
) -> tuple[list[list[Head]], list[int]]:
    """The heads of each case's branches, and the tokens generated to find them (none for position 0).

    A position past the end of the greedy path is its last token. Of several positions only the first keeps the greedy
    token: after the others it would lead to the same path again.
    """
    at, most_uncertain = parse_position(position)
    starts = [len(case.prompt) for case in cases]
    done = engine.generate([Request(case.id, case.prompt) for case in cases], greedy) if at != 0 else ()
    written = {c.key: (c.token_ids, c.gaps) for c in done}
    responses = [written.get(case.id, ((), ())) for case in cases]
    sequences = [(*case.prompt, *tokens) for case, (tokens, _) in zip(cases, responses, strict=True)]
    heads = []
    for n, (tokens, gaps), s in zip(starts, responses, engine.score(sequences, top=k, starts=starts), strict=True):
        where = [min(at, max(0, len(tokens) - 1))]
        if most_uncertain:
            where = sorted(np.argsort(-s.entropy[n : n + len(tokens)], kind="stable")[:most_uncertain].tolist())
        row: list[Head] = []
        for i in where:
            top, before = s.top_ids[n + i].tolist(), (*gaps[:i], float(s.gaps[n + i]))
            row += [((*tokens[:i], token), before) for token in (top[1:] if row else top)]
        heads.append(row)
    return heads, [len(tokens) for tokens, _ in responses]


def continue_branches(
    engine: Engine, cases: Sequence[Case], greedy: Sampling, heads: Sequence[Sequence[Head]]
) -> list[list[Path]]:
    """Every branch, continued greedily from its head.

    A head that already ends the response, by an end-of-sequence token, a stop string or the length limit, stays alone.
    """
    paths: dict[str, Path] = {}
    requests = []
    for case, row in zip(cases, heads, strict=True):
        for i, (head, gaps) in enumerate(row):
            key, text = f"{case.id}#{i}", decode(engine.tokenizer, head)
            ended = head[-1] in engine.ends or any(stop in text for stop in greedy.stop)
            paths[key] = Path(head, gaps, cut_at_stop(text, greedy.stop), "stop" if ended else "length")
            if not ended and len(head) < greedy.max_tokens:
                requests.append(Request(key, (*case.prompt, *head), written=len(head)))
    for tail in engine.generate(requests, greedy):
        token_ids, gaps = (*paths[tail.key].token_ids, *tail.token_ids), (*paths[tail.key].gaps, *tail.gaps)
        paths[tail.key] = Path(token_ids, gaps, tail.text, tail.finish_reason, generated=len(tail.token_ids))
    return [
        [drop_unusable(read_path(engine.tokenizer, case, paths[f"{case.id}#{i}"])) for i in range(len(row))]
        for case, row in zip(cases, heads, strict=True)
    ]


def drop_unusable(path: Path) -> Path:
    """Mark empty paths, paths cut off by the length limit, and paths that end in a question."""
    text = path.text.strip()
    reasons = {"empty": not text, "length": path.finish_reason == "length", "question": text.endswith("?")}
    return replace(path, dropped=next((reason for reason, holds in reasons.items() if holds), None))


def choose_path(case: Case, paths: Sequence[Path], aggregate: bool) -> Outcome:
    """The surest usable path, or the surest one among those that give the heaviest answer.

    Where no path is usable the first one, which is greedy, stands for the case.
    """
    paths = [replace(p, dropped="no answer") if p.dropped is None and p.confidence is None else p for p in paths]
    usable = [i for i, p in enumerate(paths) if p.dropped is None]
    if not usable:
        return outcome(case, paths, chosen=0)
    sureness = [p.confidence or 0.0 for p in paths]
    answers = [p.answer if p.dropped is None else None for p in paths]
    votes, heaviest = count_votes(answers, sureness, case.kind, case.question)
    return outcome(case, paths, max(heaviest if aggregate else usable, key=sureness.__getitem__), votes)
