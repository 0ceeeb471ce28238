"""A response as server-sent events: comments while the strategy works, the chosen path token by token, [DONE]."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from forkpoint.serving.errors import ApiError, failed
from forkpoint.serving.responses import CompletionChoice, CompletionShape, head
from forkpoint.text import decode_with_offsets

log = logging.getLogger("forkpoint.serving")
KEEP_ALIVE = ": the strategy is at work\n\n"
DONE = "data: [DONE]\n\n"


async def events(answer: asyncio.Future[list[dict[str, Any]]], every: float) -> AsyncIterator[str]:
    """The events of a stream whose chunks are still being made; a comment every `every` seconds until they are.

    The status line is long sent when this fails, so a failure is an event, as OpenAI's servers write it.
    """
    while not (await asyncio.wait({answer}, timeout=every))[0]:
        yield KEEP_ALIVE
    try:
        for chunk in answer.result():
            yield _event(chunk)
    except ApiError as error:
        yield _event(error.body())
    except Exception:
        log.exception("a stream failed")
        yield _event(failed().body())
    yield DONE


def chunks(
    shape: CompletionShape,
    model: str,
    choices: Sequence[CompletionChoice],
    usage: dict[str, int] | None,
    tokenizer: Any,
) -> Iterator[dict[str, Any]]:
    """The chunks of a finished response, choice after choice, and the usage in one of its own where it is wanted.

    A choice's last chunk has its finish reason and its extension.
    """
    first = head(shape, model, chunk=True)

    def chunk(*its: dict[str, Any]) -> dict[str, Any]:
        return {**first, "choices": list(its), **({} if usage is None else {"usage": None})}

    for choice in choices:
        if shape.chat:
            yield chunk(_part(choice, delta={"role": "assistant", "content": ""}))
        for piece in pieces_of(choice, tokenizer):
            yield chunk(_part(choice, delta={"content": piece}) if shape.chat else _part(choice, text=piece))
        end = _part(choice, delta={}) if shape.chat else _part(choice, text="")
        yield chunk({**end, "finish_reason": choice.path.finish_reason, "forkpoint": choice.extension})
    if usage is not None:
        yield {**first, "choices": [], "usage": usage}


def pieces_of(choice: CompletionChoice, tokenizer: Any) -> Iterator[str]:
    """The text of a choice, cut where its tokens are."""
    text, begin = choice.path.text, 0
    for _, end in decode_with_offsets(tokenizer, choice.path.token_ids)[1]:
        if piece := text[begin:end]:
            yield piece
            begin += len(piece)
    if begin < len(text):
        yield text[begin:]


def _part(choice: CompletionChoice, **said: Any) -> dict[str, Any]:
    return {"index": choice.index, **said, "logprobs": None, "finish_reason": None}


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"
