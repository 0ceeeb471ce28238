"""The response proper: what of a text is said to the reader, as a stretch of characters.

Thinking is left out before it, and what a model runs on with after its answer behind it. Knows nothing of answers.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator

from forkpoint.types import AnswerKind

_THINKING = re.compile(  # <think> … </think>, [THINK] … [/THINK], ◁think▷ … ◁/think▷
    r"[<\[◁](?P<close>/?)(?:seed:)?(?:think|thinking|thought|reasoning|reflection)[>\]▷]"
    r"|<\|(?P<mark>begin|end)_of_thought\|>",
    re.IGNORECASE,
)
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]*<\|message\|>")
# The same channels where the special tokens are left out of the text: "analysisWe need …assistantfinal72"
_SPOKEN_CHANNEL = re.compile(r"assistantfinal(?:json)?|\A\s*final(?=[A-Z0-9\\$*(-])")
_SPOKEN_ANALYSIS = re.compile(r"\A\s*analysis(?=[A-Z0-9\"'(])")

_RUN_ON = re.compile(
    r"""
    <\|(?:im_end|im_start|eot_id|endoftext|end_of_text|end|return|user|start_header_id)\|>
    | </s> | <eos> | <end_of_turn>
    | \n[ \t]*(?:\#{1,4}[ ]*|\*\*)?(?:Q|Question|Problem|Exercise|Instruction|Human|User)(?:[ ]\#?[0-9]+)?(?:\*\*)?:
    | \n\#{2,4}[ ](?:Instruction|Input|Question|Problem|Human|User)\b
    """,
    re.VERBOSE,
)
_NEXT_LETTER = re.compile(r"\n[ \t]*(?P<letter>[AB])[:.)]\s")


def response_proper(text: str, kind: AnswerKind) -> tuple[int, int]:
    """Start and end of the response proper in `text`; an empty stretch where the text ends while thinking.

    Thinking is what stands before the last "</think>" (or its kin), or outside the final channel. The response ends
    where the model writes the next question or turn, or, after a prompt that ends in "A:", goes on with "B:".
    """
    start = _after_thinking(text)
    if start is None:
        return len(text), len(text)
    end = next((found.start() for found in _RUN_ON.finditer(text, start) if text[start : found.start()].strip()), None)
    end = len(text) if end is None else end
    if kind != "option":
        letter = _NEXT_LETTER.search(text, start, end)
        if letter and letter["letter"] == "B" and text[start : letter.start()].strip():
            end = letter.start()
    return start, end


def last_of(matches: Iterator[re.Match[str]]) -> re.Match[str] | None:
    """The last of some matches, None of none."""
    return next(iter(deque(matches, maxlen=1)), None)


def _after_thinking(text: str) -> int | None:
    """Where thinking ends, 0 where there is none, None where the text breaks off in it."""
    channels = list(_CHANNEL.finditer(text))
    if channels:
        return channels[-1].end() if channels[-1][1] == "final" else None
    final = last_of(_SPOKEN_CHANNEL.finditer(text))
    if final is not None:
        return final.end()
    if _SPOKEN_ANALYSIS.match(text):
        return None
    mark = last_of(_THINKING.finditer(text))
    if mark is None:
        return 0
    return mark.end() if mark["close"] or mark["mark"] == "end" else None
