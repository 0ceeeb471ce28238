"""The forms of a row that holds a pair, and how each is read: prompt, chosen and rejected, all text or all messages.

`FORMS` is the whole list. Knows nothing of tokenizers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

from forkpoint.jsonl import column, shortened
from forkpoint.types import UserError

Row = Mapping[str, Any]
Part = str | list[dict[str, Any]]  # a text, or messages with role and content
SYSTEM = ("system", "system_prompt")
QUESTION = re.compile("question|instruct|query|problem|prompt|input|context|user")
MEDIA = ("image", "images", "video", "videos", "audio", "audios")
FOR_THE_TEMPLATE = ("tools", "chat_template_kwargs")  # as in TRL
ROLES = {"human": "user", "gpt": "assistant", "observation": "tool"}  # ShareGPT's names
CONTEXT = ("context", "history", "input", "passage", "document")  # what a question may be about
ALWAYS = ("chosen", "rejected", *SYSTEM, *FOR_THE_TEMPLATE)


@dataclass(frozen=True, slots=True)
class PairRow:
    """A pair as text or as messages, as TRL takes it. `more` is for the chat template, by TRL's names; `question` is
    the column of a question that was made a message of."""

    prompt: Part
    chosen: Part
    rejected: Part
    more: dict[str, Any] = field(default_factory=dict)
    question: str | None = None


@dataclass(frozen=True, slots=True)
class Form:
    """A form is recognised by the `columns` that it has beside or in place of chosen and rejected."""

    columns: tuple[str, ...]
    read: Callable[[Row, str], PairRow]
    example: Row


def read_pair(row: Row, where: str) -> PairRow:
    """The row by the first of FORMS whose columns hold something. Raises UserError, with its place, for any other."""
    if media := next((name for name in MEDIA if row.get(name)), None):
        raise UserError(f"{where}: the row holds {media}, and only text can be read")
    form = next(form for form in FORMS if all(row.get(name) is not None for name in form.columns))
    pair = form.read(row, where)
    more = {name: row[name] for name in FOR_THE_TEMPLATE if row.get(name)}
    if isinstance(more.get("tools"), str):
        more["tools"] = _parsed(more["tools"], f"{where}: tools")
    if not isinstance(more.get("chat_template_kwargs", {}), dict):
        raise UserError(
            f"{where}: chat_template_kwargs must be an object, but is {shortened(more[FOR_THE_TEMPLATE[1]])}"
        )
    _check_writable([pair.prompt, pair.chosen, pair.rejected, more], where)
    return replace(pair, more=more)


def with_prompt(row: Row, name: str | None, where: str) -> Row:
    """The row with the column of that name as its prompt, and without others that may hold one."""
    if name is None:
        return row
    prompt = column(row, name, where)
    if prompt is None:
        raise UserError(f"{where}: column {name!r} is null")
    return {key: value for key, value in row.items() if key in (*ALWAYS, *MEDIA)} | {"prompt": prompt}


def is_blank(part: Part) -> bool:
    """Whether a response says nothing."""
    if isinstance(part, str):
        return not part.strip()
    return not any(_said(message) or message.get("tool_calls") for message in part)


def shared(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Number of leading items that two sequences have in common."""
    return sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(one, other, strict=False)))


def _prompted(name: str, *, is_question: bool) -> Callable[[Row, str], PairRow]:
    """A reader of rows whose prompt is in the column of that name.

    Text with text stays text, unless it is a question, or there is a system message, which text has no place for.
    """

    def read(row: Row, where: str) -> PairRow:
        prompt, chosen, rejected = (_part(row, key, where) for key in (name, "chosen", "rejected"))
        if name == "instruction" and isinstance(row.get("input"), str) and row["input"].strip():
            prompt = f"{prompt}\n{row['input']}"
        _check_context(row, name, prompt, where)
        has_system = any(key in row for key in SYSTEM)
        if isinstance(prompt, str) and isinstance(chosen, str) and isinstance(rejected, str):
            if not (is_question or has_system):
                return PairRow(prompt, chosen, rejected)
            spoken = [_message("user", prompt)] if prompt.strip() else []
            return PairRow(_with_system(row, spoken, where), _spoken(chosen), _spoken(rejected), question=name)
        return _conversation(row, prompt, _spoken(chosen), _spoken(rejected), where)

    return read


def _conversation(row: Row, prompt: Part, chosen: Part, rejected: Part, where: str) -> PairRow:
    """A prompt with lists of messages, which may repeat it."""
    assert isinstance(chosen, list)
    assert isinstance(rejected, list)
    n = 0
    if isinstance(prompt, list):
        if prompt and chosen[: len(prompt)] == rejected[: len(prompt)] == prompt:
            n = len(prompt)
    elif any(responses and responses[0].get("role") != "assistant" for responses in (chosen, rejected)):
        n = _implicit(chosen, rejected)
        if not any(_said(message) == prompt.strip() for message in chosen[:n]):
            raise UserError(
                f"{where}: chosen and rejected do not begin with the same messages, one of them the prompt "
                f"{shortened(prompt)}"
            )
        prompt = chosen[:n]
    else:
        prompt = [_message("user", prompt)] if prompt.strip() else []
    return PairRow(_with_system(row, prompt, where), chosen[n:], rejected[n:])


def _without_prompt(row: Row, where: str) -> PairRow:
    """What chosen and rejected begin with is the prompt. UserError where it may stand in a column of another name."""
    chosen, rejected = (_part(row, key, where) for key in ("chosen", "rejected"))
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise UserError(f"{where}: chosen and rejected must be both text or both lists of messages; without a prompt "
                        "column it is what both begin with")  # fmt: skip
    n = _implicit(chosen, rejected)
    if not isinstance(chosen, str):
        return PairRow(_with_system(row, chosen[:n], where), chosen[n:], rejected[n:])
    if any(row.get(key) for key in SYSTEM):
        raise UserError(f"{where}: there is a system message, and text that begins with its prompt has no place for it")
    if "prompt" in row:
        raise UserError(f"{where}: column 'prompt' is null; name that of the prompt with --prompt-column")
    for name, value in row.items():
        if name not in FOR_THE_TEMPLATE and _may_be_prompt(name, value, chosen[:n]):
            raise UserError(
                f"{where}: there is no column 'prompt', and {name!r} may be it; name it with --prompt-column, or leave "
                "it out where chosen and rejected begin with their prompt"
            )
    return PairRow(chosen[:n], chosen[n:], rejected[n:])


def _may_be_prompt(name: str, value: Any, known: str) -> bool:
    """Whether a column holds words that are not in what is known of the prompt, or anything by a telling name."""
    if "chosen" in name or "rejected" in name or name.lower().endswith("id"):
        return False
    said = value.strip() if isinstance(value, str) else _said(value[0]) if _is_messages(value) else ""
    return bool(said) and said not in known and (" " in said or bool(QUESTION.search(name.lower())))


def _check_context(row: Row, name: str, prompt: Part, where: str) -> None:
    """Refuse what a question may be about and the prompt does not hold."""
    known = prompt if isinstance(prompt, str) else "\n".join(map(_said, prompt))
    for other in CONTEXT:
        value = row.get(other)
        if value and other != name and not (isinstance(value, str) and value.strip() in known):
            raise UserError(
                f"{where}: the prompt is read from {name!r}, and {other!r} is not in it; put both into one column, or "
                f"leave {other!r} out with --prompt-column {name}"
            )


def _of_outputs(row: Row, where: str) -> PairRow:
    """Alpaca's instruction with two outputs, the better one first."""
    outputs = row["output"]
    if "chosen" not in row and isinstance(outputs, list) and len(outputs) == 2:
        row = {**row, "chosen": outputs[0], "rejected": outputs[1]}
    return _prompted("instruction", is_question=True)(row, where)


def _part(row: Row, name: str, where: str) -> Part:
    """A column as text or as messages: a message alone is a list of one, and ShareGPT's keys are renamed."""
    value = column(row, name, where)
    if isinstance(value, str):
        return value
    messages = [value] if isinstance(value, dict) else value
    if messages == [] or _is_messages(messages):
        return [_renamed(message, name, where) for message in messages]
    raise UserError(f"{where}: {name} must be text or a list of messages with role and content, but is "
                    f"{'null' if value is None else shortened(value)}")  # fmt: skip


def _is_messages(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(message, dict) and isinstance(message.get("role") or message.get("from"), str)
            for message in value
        )
    )


def _renamed(message: Row, name: str, where: str) -> dict[str, Any]:
    """A message by TRL's keys; content in parts, which templates for text would write as they stand, becomes text."""
    content = message.get("content")
    if isinstance(content, list):
        media = next((p.get("type") for p in content if isinstance(p, dict) and p.get("type", "text") != "text"), None)
        if media:
            raise UserError(f"{where}: {name} holds {media}, and only text can be read")
        return {**message, "content": _said(message)}
    if message.get("role"):
        return dict(message)
    speaker: str = message["from"]
    return _message(ROLES.get(speaker, speaker), message.get("value"))


def _message(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def _spoken(part: Part) -> list[dict[str, Any]]:
    """A response as messages; what says nothing is none."""
    return part if isinstance(part, list) else [_message("assistant", part)]


def _said(message: Row) -> str:
    """What a message says, also in parts."""
    content = message.get("content") or ""
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    return str(content).strip()


def _with_system(row: Row, prompt: list[dict[str, Any]], where: str) -> list[dict[str, Any]]:
    """The prompt after the row's system message, where it has one."""
    system = next((row[name] for name in SYSTEM if row.get(name)), "")
    if not isinstance(system, str):
        raise UserError(f"{where}: the system message must be text, but is {shortened(system)}")
    if not prompt or not system.strip():
        return prompt
    if prompt[0].get("role") != "system":
        return [_message("system", system), *prompt]
    if _said(prompt[0]) != system.strip():
        raise UserError(f"{where}: the prompt begins with another system message than {shortened(system)}")
    return prompt


def _implicit(chosen: Part, rejected: Part) -> int:
    """How much of chosen and rejected is the prompt: what they share, but for a space at its end.

    TRL's `extract_prompt`: where one begins with the whole other, the shorter one keeps its last item.
    """
    n = shared(chosen, rejected)
    if n and n == min(len(chosen), len(rejected)):
        return n - 1
    return n - 1 if n and chosen[n - 1] == " " else n


def _parsed(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise UserError(f"{what} should be JSON, but is {shortened(text)}") from None


def _check_writable(values: Any, where: str) -> None:
    try:
        json.dumps(values, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: the pair holds half a character (an unpaired surrogate)") from None


ANSWERS = {"chosen": "4", "rejected": "5"}
FORMS = (
    # TRL: all text, or all messages; text with messages that repeat it (UltraFeedback); one of the two with the other
    Form(("prompt",), _prompted("prompt", is_question=False), {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"}),
    # ShareGPT: {"from": ..., "value": ...} in place of {"role": ..., "content": ...}
    Form(("conversations",), _prompted("conversations", is_question=False), {
        "conversations": [{"from": "human", "value": "2 + 2?"}], "chosen": {"from": "gpt", "value": "4"},
        "rejected": {"from": "gpt", "value": "5"},
    }),
    # Alpaca, with an `input` that may be empty; also with two responses in one column, the better one first
    Form(("instruction", "output"), _of_outputs, {"instruction": "Add.", "input": "2 + 2", "output": ["4", "5"]}),
    Form(("instruction",), _prompted("instruction", is_question=True), {"instruction": "Add 2 + 2.", **ANSWERS}),
    # Orca and others: a question, often with `system`
    *(Form((name,), _prompted(name, is_question=True), {"system": "Be brief.", name: "2 + 2?", **ANSWERS})
      for name in ("question", "query", "problem", "input")),
    # TRL without a prompt column: it is what both begin with (HH-RLHF)
    Form((), _without_prompt, {"chosen": "Human: 2 + 2? Assistant: 4", "rejected": "Human: 2 + 2? Assistant: 5"}),
)  # fmt: skip
