"""The plain data that travels between the rooms; importing it imports neither torch nor transformers.

Knows nothing of models, files or the command line. Token ids are the truth: text is made from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np  # at run time, where numpy is broken, `forkpoint doctor` must still start

TokenIds = tuple[int, ...]
Progress = Callable[[str, int, int, int], None]
"""Called with a stage of the work, how many of how many are done, and the stage's tokens so far."""
AnswerKind = Literal["number", "math", "option", "yesno"]
FinishReason = Literal["stop", "length"]


class UserError(Exception):
    """Bad input or wrong usage: one clear sentence for the user, who sees it without a traceback (exit code 2)."""


class FailedError(Exception):
    """What a run rests on failed, though nothing was asked wrongly: one sentence without a traceback (exit code 1)."""


def nearest(name: str, known: Iterable[str], form: str = "{}", otherwise: str = "", cutoff: float = 0.5) -> str:
    """ "did you mean 'N'?" in `form`, with the known name that is nearest; `otherwise` where none is near."""
    near = get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return form.format(f"did you mean {near[0]!r}?") if near else otherwise


def check_texts(name: str, texts: Iterable[object]) -> None:
    """UserError for a bare text where a list of texts is wanted, and for items that are no text."""
    if isinstance(texts, str):
        raise UserError(f"{name} must be a list of texts, but is one text, {texts[:40]!r}: put it into a list")
    if wrong := [item for item in texts if not isinstance(item, str)]:
        raise UserError(f"{name} must be a list of texts, but holds {str(wrong[0])[:40]!r}")


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with its bare gold answer ("18", "\\frac{14}{3}", "B", "yes").

    `id` is unique within its task and stable between runs; `kind` says how answers are read and compared; `options` are
    the texts of a multiple-choice question without their letters (the first is A). `wordings` name what a question
    of the lab asks by ("boxes", "more than"), to which causes of errors are tied.
    """

    id: str
    question: str
    answer: str
    kind: AnswerKind
    options: tuple[str, ...] = ()
    wordings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_texts("options", self.options)


@dataclass(frozen=True, slots=True)
class Span:
    """An answer found in a text: `text[start:end]` are its characters, `value` what they mean ("1,000" -> "1000")."""

    start: int
    end: int
    value: str


@dataclass(frozen=True, slots=True)
class Grade:
    """The verdict on one response, and the answer that was read from it, None where none was found.

    `method` says how the verdict was reached ("number", "math-verify", "string", "option", "yesno", "none"); `error` is
    set where grading itself failed, for instance at its deadline, and then `correct` is False.
    """

    correct: bool
    extracted: str | None
    method: str
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen: a policy over logits, the end of a response, and a seed.

    `temperature=0` is greedy and takes no truncation. Each truncation is off at its default. They apply in the one
    order that `forkpoint.sampling.processors` documents, whatever order they are given in.
    """

    temperature: float = 1.0
    top_n_sigma: float = 0.0
    min_p_first: float = 0.0
    p_less: bool = False
    min_k: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    top_h: float = 0.0
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        check_texts("stop", self.stop)


@dataclass(frozen=True, slots=True)
class Request:
    """One response wanted after `prefix`; its randomness depends on (seed, key, step) alone.

    The last `written` tokens of the prefix already belong to the response, for max_tokens and stop strings.
    """

    key: str
    prefix: TokenIds
    written: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine generated after a request's prefix: every token, the end-of-sequence token included.

    `text` is that of the whole response, its already written tokens included, without special tokens and without
    anything from the stop string on. `logprobs[i]` (natural log) and `gaps[i]` = p(top1) - p(top2) come from the raw
    distribution, before temperature and truncation.
    """

    key: str
    token_ids: TokenIds
    logprobs: tuple[float, ...]
    gaps: tuple[float, ...]
    text: str
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One graded response to a problem, as token ids.

    `id` names it within a run. `token_ids` hold the end-of-sequence token where the response ended with one; `answer`
    is what was read from the response, None where nothing was found.
    """

    id: str
    problem: Problem
    prompt_ids: TokenIds
    token_ids: TokenIds
    answer: str | None
    correct: bool
    finish_reason: FinishReason


HTML: dict[type, Callable[[Any], str]] = {}
"""How a notebook shows a type; `report.notebook` fills it."""


def _html(value: Any) -> str | None:
    return HTML[type(value)](value) if type(value) in HTML else None


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Named columns of one number a token, aligned to a trajectory's token ids. NaN where a token has no score.

    `tokens` are the texts of the ids, which a notebook shows shaded by the scores; empty where nobody asked for them.
    """

    trajectory: Trajectory
    columns: dict[str, np.ndarray]
    tokens: tuple[str, ...] = ()

    def _repr_html_(self) -> str | None:
        return _html(self)


class Results(dict[str, Any]):
    """The results of a run, as plain data; a notebook shows them as sentences, tables and charts."""

    def _repr_html_(self) -> str | None:
        return _html(self)


@dataclass(frozen=True, slots=True)
class Scored:
    """What a model says about a given sequence of n tokens.

    Row i of every array describes the distribution that predicts position i from the tokens before it; row n predicts
    the token after the last. Row 0 has no context and is NaN (top_ids: -1), as are rows before the asked-for start.
    `logprobs` and `policy` concern the sequence's own token, so their row n is NaN. `policy` is its probability under
    the sampling asked for (after temperature and truncation), and `top_policy` that of each of the `top_ids`; all NaN
    when no sampling was given.

    Shapes: logprobs, entropy, gaps, policy [n+1]; top_ids, top_logprobs, top_policy [n+1, top]. Entropy in nats.
    """

    logprobs: np.ndarray
    entropy: np.ndarray
    gaps: np.ndarray
    policy: np.ndarray
    top_ids: np.ndarray
    top_logprobs: np.ndarray
    top_policy: np.ndarray


def sampling_fields() -> dict[str, type]:
    """The names of `Sampling`'s fields with the type of each default."""
    return {f.name: type(f.default) for f in fields(Sampling)}
