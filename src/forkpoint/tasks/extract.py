"""How an answer is read from a response: a pipeline of four steps.

1. `response_proper`: what of the text is said to the reader (no thinking, no run-on after the answer);
2. `statements`: where it states an answer, and by which evidence: a box, a tag, a marker ("the answer is"), "####";
3. the last statement that holds an answer of the wanted kind wins. One whose answer cannot be read, such as a box that
   never closes or two numbers at once ("3 hours 20 minutes"), ends the search;
4. its value. Without any statement: the last answer of the wanted kind in the response, the bare one.

Knows nothing of gold answers; every function is linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from forkpoint.tasks.numerals import plain
from forkpoint.tasks.statements import Formulas, statements
from forkpoint.tasks.values import BARE, STATED, UNREADABLE
from forkpoint.types import AnswerKind, Span, check_texts

MOST_READ = 100_000  # characters of a response proper that are read: the last ones

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
_EXPLAINED = re.compile(r"(\s*[^\n]{1,60}\n\s*)(?:\*\*)?(?:Explanation|Reason(?:ing)?|Justification)\b", re.IGNORECASE)


def extract(text: str, kind: AnswerKind, options: Sequence[str] = (), *, cut_off: bool = False) -> Span | None:
    """The answer of a response, None where there is none.

    `options` are the texts of a multiple-choice question: each counts as its letter, and no other letters count.
    `value` is the short form: "1000" for "1,000", the capital letter of an option, "yes" or "no", the LaTeX of a
    mathematical answer. `cut_off`: the response ended at its length limit; an answer counts only if its statement was
    over before.
    """
    check_texts("options", options)
    start, end = response_proper(text, kind)
    start = max(start, end - MOST_READ)
    cut_off = cut_off and end == len(text)  # a response proper that runs on into the next question was over
    span = _read(plain(text[start:end]), kind, options, cut_off)
    return span and Span(start + span.start, start + span.end, span.value)


def response_proper(text: str, kind: AnswerKind) -> tuple[int, int]:
    """Start and end of what follows thinking and precedes the next question or turn; empty where thinking never ends.

    After a prompt that ends in "A:" a model may go on with "B:".
    """
    start = _after_thinking(text)
    ends = (mark.start() for mark in _RUN_ON.finditer(text, start) if text[start : mark.start()].strip())
    end = next(ends, len(text))
    letter = _NEXT_LETTER.search(text, start, end) if kind != "option" else None
    if letter and letter["letter"] == "B" and text[start : letter.start()].strip():
        end = letter.start()
    return start, end


def _after_thinking(text: str) -> int:
    """Where thinking ends: 0 where there is none, the end of a text that breaks off in it."""
    if channels := list(_CHANNEL.finditer(text)):
        return channels[-1].end() if channels[-1][1] == "final" else len(text)
    if finals := list(_SPOKEN_CHANNEL.finditer(text)):
        return finals[-1].end()
    if _SPOKEN_ANALYSIS.match(text):
        return len(text)
    if marks := list(_THINKING.finditer(text)):
        return marks[-1].end() if marks[-1]["close"] or marks[-1]["mark"] == "end" else len(text)
    return 0


def _read(text: str, kind: AnswerKind, options: Sequence[str], cut_off: bool) -> Span | None:
    formulas = Formulas(text)
    words: Span | None = None
    for statement in reversed(statements(text, kind, formulas)):
        if statement.evidence == "box" and statement.start == statement.end:  # it never closes
            return None
        if cut_off and not statement.closed:
            continue
        span = STATED[kind](text, statement, formulas, options)
        if span is UNREADABLE:
            return None
        if span is None:
            continue
        if kind != "math" or statement.evidence in ("box", "tag") or not span.value.replace(" ", "").isalpha():
            return span
        words = words or span  # "the answer is in dollars": only where nothing better is stated
    if words or cut_off:
        return words
    answer_first = _EXPLAINED.match(text)
    if answer_first and (span := BARE[kind](answer_first[1], Formulas(answer_first[1]), options)):
        return span
    return BARE[kind](text, formulas, options)
