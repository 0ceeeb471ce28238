"""Outcomes as OpenAI's responses, whole or as server-sent events, with confidence, answer, votes and paths beside."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from forkpoint.decoding.outcome import Outcome, Path
from forkpoint.engines import Engine
from forkpoint.serving.errors import ApiError, failed
from forkpoint.serving.jobs import Job
from forkpoint.serving.requests import Body, ChatBody
from forkpoint.serving.work import Piece
from forkpoint.text import decode_with_offsets

log = logging.getLogger("forkpoint.serving")
KEEP_ALIVE = ": the strategy is at work\n\n"
DONE = "data: [DONE]\n\n"

Json = dict[str, Any]


@dataclass(frozen=True)
class CompletionChoice:
    """One choice: the path that it shows, and the forkpoint extension."""

    index: int
    path: Path
    extension: Json

    def part(self, **content: Any) -> Json:
        """A part of the choice that is not the last."""
        return {"index": self.index, **content, "logprobs": None, "finish_reason": None}

    def end(self, **content: Any) -> Json:
        """The last, or only, part."""
        return {**self.part(**content), "finish_reason": self.path.finish_reason, "forkpoint": self.extension}


def payload(engine: Engine, job: Job) -> list[Json]:
    """The job solved: a whole response as the only element, or the chunks of a stream."""
    body, outcomes = job.body, job.strategy.solve(engine, job.cases)
    prompted, generated = job.prompt_tokens, sum(outcome.tokens_generated for outcome in outcomes)
    usage = {"prompt_tokens": prompted, "completion_tokens": generated, "total_tokens": prompted + generated}
    if job.strategy.name == "sample":  # every draw is a choice
        outcomes = [
            replace(outcome, paths=(path,), chosen=0, tokens_generated=len(path.token_ids))
            for outcome in outcomes for path in outcome.paths
        ]  # fmt: skip
    choices = [CompletionChoice(i, o.paths[o.chosen], _extension(job, o)) for i, o in enumerate(outcomes)]
    if body.stream:
        wanted = body.stream_options is not None and body.stream_options.include_usage
        return list(_chunks(body, choices, usage if wanted else None, engine.tokenizer))
    if isinstance(body, ChatBody):
        message = {"role": "assistant", "refusal": None}
        whole = [choice.end(message={**message, "content": choice.path.text}) for choice in choices]
    else:
        whole = [choice.end(text=choice.path.text) for choice in choices]
    return [{**_head(body), "choices": whole, "usage": usage}]


async def events(piece: Piece, every: float) -> AsyncIterator[str]:
    """The events of a stream whose chunks are still being made; a comment every `every` seconds until they are.

    The status line is long sent when this fails, so a failure is an event, as OpenAI's servers write it.
    """
    try:
        while not (await asyncio.wait({piece.result}, timeout=every))[0]:
            yield KEEP_ALIVE
        for chunk in piece.result.result():
            yield _event(chunk)
    except ApiError as error:
        yield _event(error.body())
    except Exception:
        log.exception("a stream failed")
        yield _event(failed().body())
    finally:
        piece.abandon()
    yield DONE


def _chunks(body: Body, choices: Sequence[CompletionChoice], usage: Json | None, tokenizer: Any) -> Iterator[Json]:
    """The chunks of a finished response, choice after choice, and the usage in one of its own where it is wanted."""
    first, chat = _head(body, ".chunk"), isinstance(body, ChatBody)
    more = {} if usage is None else {"usage": None}
    for choice in choices:
        parts = [choice.part(delta={"role": "assistant", "content": ""})] if chat else []
        for piece in pieces_of(choice.path, tokenizer):
            parts.append(choice.part(delta={"content": piece}) if chat else choice.part(text=piece))
        parts.append(choice.end(delta={}) if chat else choice.end(text=""))
        yield from ({**first, "choices": [part], **more} for part in parts)
    if usage is not None:
        yield {**first, "choices": [], "usage": usage}


def pieces_of(path: Path, tokenizer: Any) -> Iterator[str]:
    """The text of a path, cut where the tokens are."""
    text, begin = path.text, 0
    for _, end in decode_with_offsets(tokenizer, path.token_ids)[1]:
        if piece := text[begin:end]:
            yield piece
            begin += len(piece)
    if begin < len(text):
        yield text[begin:]


def _head(body: Body, chunk: str = "") -> Json:
    """The fields that every response, and every chunk of a stream, begins with."""
    chat = isinstance(body, ChatBody)
    prefix, kind = ("chatcmpl", f"chat.completion{chunk}") if chat else ("cmpl", "text_completion")
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": body.model}


def _extension(job: Job, outcome: Outcome) -> Json:
    chosen = outcome.paths[outcome.chosen]
    return {
        "strategy": job.strategy.spec,
        "answer": chosen.answer,
        "confidence": _finite(chosen.confidence),
        "chosen": outcome.chosen,
        "votes": {answer: _finite(weight) for answer, weight in outcome.votes.items()},
        "paths": [_path(path, job.body.return_paths) for path in outcome.paths],
        "cut_off": sum(path.finish_reason == "length" for path in outcome.paths),
        "chosen_tokens": len(chosen.token_ids),
        "generated_tokens": outcome.tokens_generated,
        "seed": job.strategy.sampling.seed,
    }


def _path(path: Path, with_text: bool) -> Json:
    short = {"answer": path.answer, "confidence": _finite(path.confidence), "dropped": path.dropped}
    if not with_text:
        return short
    return {**short, "text": path.text, "continuation": path.continuation, "finish_reason": path.finish_reason}


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def _event(data: Json) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"
