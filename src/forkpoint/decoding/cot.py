"""CoT-decoding (Wang & Zhou 2024, arXiv 2402.10200): branch at one token, keep the path whose answer is surest.

    1. take the top-k tokens at the branching position and continue each greedily;
    2. find the answer of each path and the tokens that spell it;
    3. Δ = mean over those tokens of p(top1) - p(top2), from the raw distribution;
    4. `max`: the path with the largest Δ; `aggregate`: the answer with the largest sum of Δ.

The top-1 branch is the greedy path, so k = 1 is greedy decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

from forkpoint.decoding.cot_continuation import Located, continue_with_answer
from forkpoint.decoding.cot_forks import continue_forks, find_forks, parse_position
from forkpoint.decoding.outcome import Case, Outcome, Path
from forkpoint.decoding.sampled import outcome, read_path
from forkpoint.decoding.voting import count_votes, winner
from forkpoint.decoding.yesno import label_mass_differences
from forkpoint.engines import Engine
from forkpoint.sampling.limits import validate
from forkpoint.tasks import encode
from forkpoint.types import AnswerKind, Sampling, UserError, check_texts


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
    number of the response or "entropy:m" for the m positions of the greedy path with the highest entropy.
    Raises UserError for an option out of range.
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
    """Raise UserError for a span or a position that CoT-decoding does not know."""
    if span not in ("extract", "continuation"):
        raise UserError(f"span of cot-decoding must be extract or continuation, but is {span!r}")
    parse_position(position)


def decode_cases(
    engine: Engine, cases: Sequence[Case], sampling: Sampling, *, k: int, aggregate: bool, span: str, position: str
) -> list[Outcome]:
    """CoT-decoding of prepared cases; of `sampling` only max_tokens and stop count."""
    greedy = replace(sampling, temperature=0.0)
    forks, to_find = find_forks(engine, cases, greedy, k, position)
    raw, to_continue = continue_forks(engine, cases, greedy, forks)
    paths = [
        [drop_unusable(read_path(engine, case, path, greedy.stop)) for path in its]
        for case, its in zip(cases, raw, strict=True)
    ]
    to_answer = [0] * len(cases)
    if span == "continuation":
        located, to_answer = continue_with_answer(engine, cases, paths, greedy.stop)
    else:
        located = [[_located(case, path) for path in its] for case, its in zip(cases, paths, strict=True)]
    sure = label_mass_differences(engine, cases, located)
    return [
        replace(choose_path(case, its, aggregate), tokens_generated=sum(spent))
        for case, its, *spent in zip(cases, sure, to_find, to_continue, to_answer, strict=True)
    ]


def _located(case: Case, path: Path) -> Located:
    return path, (*case.prompt, *path.token_ids[: path.span[0]]) if path.span else None


def drop_unusable(path: Path) -> Path:
    """Mark empty paths, paths cut off by the length limit, and paths that end in a question."""
    if not path.text.strip():
        return replace(path, dropped="empty")
    if path.finish_reason == "length":
        return replace(path, dropped="length")
    if path.text.rstrip().endswith("?"):
        return replace(path, dropped="question")
    return path


def choose_path(case: Case, paths: Sequence[Path], aggregate: bool) -> Outcome:
    """The surest usable path, or the surest one among those that give the heaviest answer.

    Where no path is usable the first one, which is greedy, stands for the case.
    """
    paths = [replace(p, dropped="no answer") if p.dropped is None and p.confidence is None else p for p in paths]
    usable = [i for i, p in enumerate(paths) if p.dropped is None]
    if not usable:
        return outcome(case, paths, chosen=0)
    sureness = [p.confidence or 0.0 for p in paths]
    ballots = count_votes([p.answer if p.dropped is None else None for p in paths], sureness, case.kind, case.question)
    candidates = winner(ballots).voters if aggregate else usable
    chosen = max(candidates, key=lambda i: sureness[i])
    return outcome(case, paths, chosen, {b.answer: b.weight for b in ballots})
