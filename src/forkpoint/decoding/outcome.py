"""What goes into a strategy and what comes out: a case in, an outcome with all its paths out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any

from forkpoint.tasks import extract
from forkpoint.text import pieces
from forkpoint.types import AnswerKind, FinishReason, Span, TokenIds


@dataclass(frozen=True, slots=True)
class Case:
    """A prompt to be answered. `id` names it and seeds its randomness; the rest says how to read and merge answers."""

    id: str
    prompt: TokenIds
    kind: AnswerKind = "number"
    options: tuple[str, ...] = ()
    question: str = ""


@dataclass(frozen=True, slots=True)
class Path:
    """One decoded path, forced tokens included; `generated` counts the tokens that the engine wrote for it.

    `gaps[i]` is the raw p(top1) - p(top2) where token i was chosen, `tokens[i]` its text. `stated` is where `response`
    states an answer, `answer` the answer, `span` the [start, end) tokens that spell it, `before` the context of their
    first, `confidence` Δ, the mean gap over them. `continuation` is an appended "So the answer is" with what followed,
    where it was asked for; it then gives the answer, and `span` is None where the path itself does not spell that.
    `dropped` says why a path was left out of the choice.
    """

    token_ids: TokenIds
    gaps: tuple[float, ...]
    text: str
    finish_reason: FinishReason
    answer: str | None = None
    span: tuple[int, int] | None = None
    confidence: float | None = None
    continuation: str | None = None
    continuation_ended: bool = True
    dropped: str | None = None
    tokens: tuple[str, ...] = ()
    stated: Span | None = None
    before: TokenIds | None = None
    generated: int = 0

    @property
    def response(self) -> str:
        """The text that gives the answer: the continuation, where there is one."""
        return self.text if self.continuation is None else self.continuation

    @property
    def cut_off(self) -> bool:
        """Whether the response hit its length limit."""
        return self.finish_reason == "length" if self.continuation is None else not self.continuation_ended


@dataclass(frozen=True, slots=True)
class Outcome:
    """All paths of a case and the chosen one, whose response stands for the case and is graded.

    `votes` maps each distinct answer to its weight where the strategy votes. `tokens_generated` counts every token the
    engine wrote, dropped paths included.
    """

    case_id: str
    paths: tuple[Path, ...]
    chosen: int
    tokens_generated: int
    votes: dict[str, float] = field(default_factory=dict)

    @property
    def response(self) -> str:
        return self.paths[self.chosen].response


def outcome(case: Case, paths: Sequence[Path], chosen: int, votes: dict[str, float] | None = None) -> Outcome:
    return Outcome(case.id, tuple(paths), chosen, sum(path.generated for path in paths), votes or {})


def read_path(tokenizer: Any, case: Case, path: Path) -> Path:
    """The path with its tokens' texts and its answer."""
    stated = extract(path.text, case.kind, case.options, cut_off=path.cut_off)
    path = replace(path, tokens=tuple(pieces(tokenizer, path.token_ids)), stated=stated)
    return with_answer(path, case, stated) if stated else path


def with_answer(path: Path, case: Case, answer: Span) -> Path:
    """The path with an answer of its text, the answer's tokens, and Δ over them."""
    span = token_span(path.tokens, answer.start, answer.end)
    before = (*case.prompt, *path.token_ids[: span[0]])
    return replace(path, answer=answer.value, span=span, before=before, confidence=mean_gap(path.gaps, span))


def token_span(tokens: Sequence[str], start: int, end: int) -> tuple[int, int]:
    """The [first, last) of these texts that hold any of the characters [start, end) of all."""
    offsets = pairwise(accumulate(map(len, tokens), initial=0))
    touching = [i for i, (a, b) in enumerate(offsets) if a < end and b > start]
    return touching[0], touching[-1] + 1


def mean_gap(gaps: Sequence[float], span: tuple[int, int]) -> float:
    """Δ of Wang & Zhou 2024: the mean of p(top1) - p(top2) over the answer's tokens, from the raw distribution."""
    return sum(gaps[span[0] : span[1]]) / (span[1] - span[0])
