"""What clients may ask: the bodies of OpenAI's completions and chat completions, and forkpoint's own fields.

A field that would change the answer and is not honoured here is refused, never ignored, unless its value is the
neutral one. Knows the shapes only: neither strategies nor prompts.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError
from pydantic_core import from_json

from forkpoint.serving.errors import bad
from forkpoint.types import AnswerKind, TokenIds

B = TypeVar("B", bound="Body")

# fields that are taken at these values alone; there they change nothing
NEUTRAL: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("frequency_penalty", "presence_penalty", "top_logprobs"), (0,)),
    **dict.fromkeys(("repetition_penalty", "best_of"), (1,)),
    **dict.fromkeys(("logprobs", "echo"), (False,)),
    **dict.fromkeys(("tools", "functions"), ([],)),
    **dict.fromkeys(("tool_choice", "function_call"), ("none", "auto")),
    "logit_bias": ({},), "suffix": ("",), "parallel_tool_calls": (True, False), "modalities": (["text"],),
    "response_format": ({"type": "text"},),
}  # fmt: skip
IGNORED = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}  # for books and caches


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(i) is int for i in value)


def _prompts(value: Any) -> list[str | TokenIds]:
    prompts = value if isinstance(value, list) and not _is_ids(value) else [value]
    if prompts and (all(isinstance(prompt, str) for prompt in prompts) or all(map(_is_ids, prompts))):
        return [prompt if isinstance(prompt, str) else tuple(prompt) for prompt in prompts]
    raise ValueError("must be a text, a list of texts, a list of token ids, or a list of such lists, and not empty")


def _stops(value: Any) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > 16 or not all(isinstance(s, str) and s for s in stops):
        raise ValueError("must be a text or a list of at most 16 texts, none of them empty")
    return tuple(stops)


def _content(value: Any) -> str:
    parts = [{"type": "text", "text": value}] if isinstance(value, str) else value
    if not isinstance(parts, list):
        raise ValueError("must be a text or a list of text parts")
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise ValueError(f"takes parts of type text only, but one is {str(kind)[:40]!r}")
    return "".join(part["text"] for part in parts)


def _none(value: Any) -> None:
    if value:
        raise ValueError("is not supported here")


class StreamOptions(BaseModel):
    """How a stream ends."""

    model_config = ConfigDict(extra="ignore", strict=True)
    include_usage: bool = False


class Body(BaseModel):
    """What both kinds of completions take. `None` means: not given."""

    model_config = ConfigDict(extra="forbid", strict=True)
    model: str
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    top_n_sigma: float | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Annotated[tuple[str, ...], PlainValidator(_stops)] = ()
    n: int | None = Field(None, ge=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    answer_kind: AnswerKind = "number"
    options: list[str] = Field(default_factory=list, max_length=26)
    return_paths: bool = False

    def length(self) -> int | None:
        """The longest response asked for."""
        return self.max_tokens

    def policy(self) -> dict[str, float | int]:
        """The sampling fields that were given."""
        names = ("temperature", "top_p", "top_k", "min_p", "top_n_sigma")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class CompletionBody(Body):
    """POST /v1/completions."""

    prompt: Annotated[list[str | TokenIds], PlainValidator(_prompts)]


class Message(BaseModel):
    """One message of a conversation; what a client sends back of an answer of ours is taken, too."""

    model_config = ConfigDict(extra="ignore", strict=True)
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, PlainValidator(_content)]
    tool_calls: Annotated[None, PlainValidator(_none)] = None
    function_call: Annotated[None, PlainValidator(_none)] = None
    audio: Annotated[None, PlainValidator(_none)] = None


class ChatBody(Body):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)

    def length(self) -> int | None:
        """The longest response asked for, under its newer name or its older one."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


def read_body(kind: type[B], raw: bytes) -> B:
    """The body of a request. Raises a 400 that says in one sentence what is wrong, and where."""
    try:
        data = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise bad(f"the body is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise bad(f"the body must be a JSON object, but is {json.dumps(data)[:40]}")
    for name, neutral in NEUTRAL.items():
        value = data.pop(name, None)
        # 0 and 0.0 are equal, 0 and false are not
        if value is not None and not any(
            value == v and isinstance(value, bool) == isinstance(v, bool) for v in neutral
        ):
            allowed = " or ".join(["absent", *(json.dumps(v) for v in neutral)])
            raise bad(f"{name} is not supported here; it must be {allowed}", name, "unsupported_parameter")
    try:
        return kind.model_validate({k: v for k, v in data.items() if k not in IGNORED and v is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where, message = ".".join(map(str, first["loc"]))[:100], first["msg"]
        sentences = {
            "missing": f"the field {where} is missing",
            "extra_forbidden": f"there is no field {where} here",
            "value_error": f"{where} {message.removeprefix('Value error, ')}",
        }
        sentence = sentences.get(first["type"], f"{where}: {message[:1].lower()}{message[1:]}")
        raise bad(sentence, where or None) from None
