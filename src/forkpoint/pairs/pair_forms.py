"""The forms of a row that holds a pair, and how each is read: prompt, chosen and rejected, all text or all messages.

`FORMS` is the whole list. Knows nothing of tokenizers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

from forkpoint.jsonl import Row, column, shortened
from forkpoint.types import UserError

Message = dict[str, Any]
Part = str | list[Message]  # a text, or messages with role and content
ANSWERS = {"chosen": "4", "rejected": "5"}
FORMS: dict[str, Row] = {  # an example of each, by the column of the prompt; the first that holds something is read
    # TRL: all text, or all messages; text with messages that repeat it (UltraFeedback); one of the two with the other
    "prompt": {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"},
    # ShareGPT: {"from": ..., "value": ...} in place of {"role": ..., "content": ...}
    "conversations": {
        "conversations": [{"from": "human", "value": "2 + 2?"}], "chosen": {"from": "gpt", "value": "4"},
        "rejected": {"from": "gpt", "value": "5"},
    },
    # Alpaca, with an `input` that may be empty; also with two responses in one column, the better one first
    "instruction": {"instruction": "Add.", "input": "2 + 2", "output": ["4", "5"]},
    # Orca and others: a question, often with `system`
    **{name: {"system": "Be brief.", name: "2 + 2?", **ANSWERS} for name in ("question", "query", "problem", "input")},
    # TRL without a prompt column: it is what both begin with (HH-RLHF)
    "": {"chosen": "Human: 2 + 2? Assistant: 4", "rejected": "Human: 2 + 2? Assistant: 5"},
}  # fmt: skip
PLAIN = ("prompt", "conversations")  # whose text stays text; that of other columns is a question to an assistant
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


def read_pair(row: Row, where: str) -> PairRow:
    """The row by the first of FORMS whose column holds something. Raises UserError, with its place, for any other."""
    if media := next((name for name in MEDIA if row.get(name)), None):
        raise UserError(f"{where}: the row holds {media}, and only text can be read")
    name = next((name for name in FORMS if row.get(name) is not None), "")
    pair = _with_prompt_in(row, name, where) if name else _without_prompt(row, where)
    more = {name: row[name] for name in FOR_THE_TEMPLATE if row.get(name)}
    if isinstance(more.get("tools"), str):
        try:
            more["tools"] = json.loads(more["tools"])
        except ValueError:
            raise UserError(f"{where}: tools should be JSON, but is {shortened(more['tools'])}") from None
    if not isinstance(options := more.get("chat_template_kwargs", {}), dict):
        raise UserError(f"{where}: chat_template_kwargs must be an object, but is {shortened(options)}")
    try:
        json.dumps([pair.prompt, pair.chosen, pair.rejected, more], ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: the pair holds half a character (an unpaired surrogate)") from None
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
    return not any(_words(message) or message.get("tool_calls") for message in part)


def shared(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Number of leading items that two sequences have in common."""
    return sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(one, other, strict=False)))


def _with_prompt_in(row: Row, name: str, where: str) -> PairRow:
    """The pair of a row whose prompt is in the column of that name.

    Text with text stays text, unless it is a question, or there is a system message, which text has no place for.
    """
    outputs = row.get("output")
    if name == "instruction" and "chosen" not in row and isinstance(outputs, list) and len(outputs) == 2:
        row = {**row, "chosen": outputs[0], "rejected": outputs[1]}
    prompt, chosen, rejected = (_part(row, key, where) for key in (name, "chosen", "rejected"))
    if name == "instruction" and isinstance(row.get("input"), str) and row["input"].strip():
        prompt = f"{prompt}\n{row['input']}"
    _check_context(row, name, prompt, where)
    is_text = all(isinstance(part, str) for part in (prompt, chosen, rejected))
    if is_text and name in PLAIN and not any(key in row for key in SYSTEM):
        return PairRow(prompt, chosen, rejected)
    n, messages = _opening(prompt, _spoken("assistant", chosen), _spoken("assistant", rejected), where)
    chosen, rejected = (_spoken("assistant", part)[n:] for part in (chosen, rejected))
    return PairRow(_with_system(row, messages, where), chosen, rejected, question=name if is_text else None)


def _opening(prompt: Part, chosen: list[Message], rejected: list[Message], where: str) -> tuple[int, list[Message]]:
    """The prompt as messages, and how many messages of the responses repeat it."""
    if isinstance(prompt, list):
        repeated = prompt and chosen[: len(prompt)] == rejected[: len(prompt)] == prompt
        return len(prompt) if repeated else 0, prompt
    if all(not responses or responses[0].get("role") == "assistant" for responses in (chosen, rejected)):
        return 0, _spoken("user", prompt) if prompt.strip() else []
    n = _implicit(chosen, rejected)
    if not any(_words(message) == prompt.strip() for message in chosen[:n]):
        what = f"the same messages, one of them the prompt {shortened(prompt)}"
        raise UserError(f"{where}: chosen and rejected do not begin with {what}")
    return n, chosen[:n]


def _without_prompt(row: Row, where: str) -> PairRow:
    """What chosen and rejected begin with is the prompt. UserError where it may stand in a column of another name."""
    chosen, rejected = (_part(row, key, where) for key in ("chosen", "rejected"))
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise UserError(f"{where}: chosen and rejected must be both text or both lists of messages without a prompt")
    n = _implicit(chosen, rejected)
    if not isinstance(chosen, str):
        return PairRow(_with_system(row, chosen[:n], where), chosen[n:], rejected[n:])
    if any(row.get(key) for key in SYSTEM):
        raise UserError(f"{where}: there is a system message, and text that begins with its prompt has no place for it")
    if "prompt" in row:
        raise UserError(f"{where}: column 'prompt' is null; name that of the prompt with --prompt-column")
    for name, value in row.items():
        if name not in FOR_THE_TEMPLATE and _may_be_prompt(name, value, chosen[:n]):
            hint = "name it with --prompt-column, or leave it out where chosen and rejected begin with their prompt"
            raise UserError(f"{where}: there is no column 'prompt', and {name!r} may be it; {hint}")
    return PairRow(chosen[:n], chosen[n:], rejected[n:])


def _may_be_prompt(name: str, value: Any, known: str) -> bool:
    """Whether a column holds words that are not in what is known of the prompt, or anything by a telling name."""
    if "chosen" in name or "rejected" in name or name.lower().endswith("id"):
        return False
    words = value.strip() if isinstance(value, str) else _words(value[0]) if _is_messages(value) else ""
    return bool(words) and words not in known and (" " in words or bool(QUESTION.search(name.lower())))


def _check_context(row: Row, name: str, prompt: Part, where: str) -> None:
    """Refuse what a question may be about and the prompt does not hold."""
    known = prompt if isinstance(prompt, str) else "\n".join(map(_words, prompt))
    for other in CONTEXT:
        value = row.get(other)
        if value and other != name and not (isinstance(value, str) and value.strip() in known):
            hint = f"put both into one column, or leave {other!r} out with --prompt-column {name}"
            raise UserError(f"{where}: the prompt is read from {name!r}, and {other!r} is not in it; {hint}")


def _part(row: Row, name: str, where: str) -> Part:
    """A column as text or as messages: a message alone is a list of one, and ShareGPT's keys are renamed."""
    value = column(row, name, where)
    if isinstance(value, str):
        return value
    messages = [value] if isinstance(value, dict) else value
    if messages == [] or _is_messages(messages):
        return [_renamed(message, name, where) for message in messages]
    shown = "null" if value is None else shortened(value)
    raise UserError(f"{where}: {name} must be text or a list of messages with role and content, but is {shown}")


def _is_messages(value: Any) -> bool:
    roles = [isinstance(m, dict) and (m.get("role") or m.get("from")) for m in value] if isinstance(value, list) else []
    return bool(roles) and all(isinstance(role, str) for role in roles)


def _renamed(message: Message, name: str, where: str) -> Message:
    """A message by TRL's keys; content in parts, which templates for text would write as they stand, becomes text."""
    content = message.get("content")
    if isinstance(content, list):
        kinds = [part.get("type", "text") for part in content if isinstance(part, dict)]
        if media := next((kind for kind in kinds if kind != "text"), None):
            raise UserError(f"{where}: {name} holds {media}, and only text can be read")
        return {**message, "content": _words(message)}
    if message.get("role"):
        return dict(message)
    return {"role": ROLES.get(message["from"], message["from"]), "content": message.get("value")}


def _spoken(role: str, part: Part) -> list[Message]:
    """A part as messages; text is one of that role."""
    return part if isinstance(part, list) else [{"role": role, "content": part}]


def _words(message: Row) -> str:
    """What a message says, also in parts."""
    content = message.get("content") or ""
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    return str(content).strip()


def _with_system(row: Row, prompt: list[Message], where: str) -> list[Message]:
    """The prompt after the row's system message, where it has one."""
    system = next((row[name] for name in SYSTEM if row.get(name)), "")
    if not isinstance(system, str):
        raise UserError(f"{where}: the system message must be text, but is {shortened(system)}")
    if not prompt or not system.strip():
        return prompt
    if prompt[0].get("role") != "system":
        return [*_spoken("system", system), *prompt]
    if _words(prompt[0]) != system.strip():
        raise UserError(f"{where}: the prompt begins with another system message than {shortened(system)}")
    return prompt


def _implicit(chosen: Part, rejected: Part) -> int:
    """How much of chosen and rejected is the prompt: what they share, but for a space at its end.

    TRL's `extract_prompt`: where one begins with the whole other, the shorter one keeps its last item.
    """
    n = shared(chosen, rejected)
    is_whole = n == min(len(chosen), len(rejected))
    return n - 1 if n and (is_whole or chosen[n - 1] == " ") else n
