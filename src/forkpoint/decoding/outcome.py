"""What a strategy is given and what it returns: a case in, an outcome with all its paths out."""

from __future__ import annotations

from dataclasses import dataclass, field

from forkpoint.types import AnswerKind, FinishReason, TokenIds


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
    """One decoded path, forced tokens included.

    `gaps[i]` is the raw p(top1) - p(top2) where token i was chosen. `answer` is the answer read from the path, `span`
    the [start, end) tokens that spell it, `confidence` Δ, the mean gap over them. `continuation` is an appended "So the
    answer is" with what followed, where it was asked for; it then gives the answer, and `span` is None where the path
    itself does not spell that; `continuation_ended`: before its length limit. `dropped` says why a path was left out of
    the choice; None if it was not.
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

    @property
    def cut_off(self) -> bool:
        """Whether the text that gives the answer, the continuation where there is one, hit its length limit."""
        return self.finish_reason == "length" if self.continuation is None else not self.continuation_ended


@dataclass(frozen=True, slots=True)
class Outcome:
    """All paths of a case and the chosen one.

    `response` is the text that stands for the case and is graded. `votes` maps each distinct answer to its weight
    where the strategy votes. `tokens_generated` counts every token the engine wrote, dropped paths included.
    """

    case_id: str
    paths: tuple[Path, ...]
    chosen: int
    response: str
    tokens_generated: int
    votes: dict[str, float] = field(default_factory=dict)
