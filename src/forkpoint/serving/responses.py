"""Outcomes as OpenAI's responses, with what forkpoint knows beside them: confidence, answer, votes, paths."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from forkpoint.decoding.outcome import Outcome, Path
from forkpoint.serving.jobs import Job


@dataclass(frozen=True)
class CompletionShape:
    """What differs between the two kinds of completions."""

    prefix: str
    object: str
    chunk: str
    chat: bool


COMPLETION = CompletionShape("cmpl", "text_completion", "text_completion", False)
CHAT = CompletionShape("chatcmpl", "chat.completion", "chat.completion.chunk", True)


@dataclass(frozen=True)
class CompletionChoice:
    """One choice: the path that it shows, and the forkpoint extension."""

    index: int
    path: Path
    extension: dict[str, Any]


def choices_of(job: Job, outcomes: Sequence[Outcome], *, with_texts: bool) -> list[CompletionChoice]:
    """The choices of a job: the chosen path of each prompt, or every draw of `sample`."""
    single = [one for outcome in outcomes for one in (_draws(outcome) if job.strategy.name == "sample" else [outcome])]
    return [
        CompletionChoice(i, outcome.paths[outcome.chosen], _extension(job, outcome, with_texts))
        for i, outcome in enumerate(single)
    ]


def head(shape: CompletionShape, model: str, *, chunk: bool = False) -> dict[str, Any]:
    """The fields that every response, and every chunk of a stream, begins with."""
    kind = shape.chunk if chunk else shape.object
    return {"id": f"{shape.prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def whole(
    shape: CompletionShape, model: str, choices: Sequence[CompletionChoice], usage: dict[str, int]
) -> dict[str, Any]:
    """A response that is no stream."""
    return {**head(shape, model), "choices": [_choice(shape, c) for c in choices], "usage": usage}


def usage_of(job: Job, outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Tokens of the prompts, and all tokens generated, those of paths that were not chosen included."""
    generated = sum(outcome.tokens_generated for outcome in outcomes)
    return {
        "prompt_tokens": job.prompt_tokens,
        "completion_tokens": generated,
        "total_tokens": job.prompt_tokens + generated,
    }


def _choice(shape: CompletionShape, choice: CompletionChoice) -> dict[str, Any]:
    text = choice.path.text
    said = {"message": {"role": "assistant", "content": text, "refusal": None}} if shape.chat else {"text": text}
    return {
        "index": choice.index, **said, "logprobs": None, "finish_reason": choice.path.finish_reason,
        "forkpoint": choice.extension,
    }  # fmt: skip


def _draws(outcome: Outcome) -> list[Outcome]:
    return [replace(outcome, paths=(p,), chosen=0, tokens_generated=len(p.token_ids)) for p in outcome.paths]


def _extension(job: Job, outcome: Outcome, with_texts: bool) -> dict[str, Any]:
    chosen = outcome.paths[outcome.chosen]
    return {
        "strategy": job.strategy.spec,
        "answer": chosen.answer,
        "confidence": _finite(chosen.confidence),
        "chosen": outcome.chosen,
        "votes": {answer: _finite(weight) for answer, weight in outcome.votes.items()},
        "paths": [_path(path, with_texts) for path in outcome.paths],
        "cut_off": sum(path.finish_reason == "length" for path in outcome.paths),
        "chosen_tokens": len(chosen.token_ids),
        "generated_tokens": outcome.tokens_generated,
        "seed": job.strategy.sampling.seed,
    }


def _path(path: Path, with_text: bool) -> dict[str, Any]:
    short = {"answer": path.answer, "confidence": _finite(path.confidence), "dropped": path.dropped}
    if not with_text:
        return short
    return {**short, "text": path.text, "continuation": path.continuation, "finish_reason": path.finish_reason}


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None
