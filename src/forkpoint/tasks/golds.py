"""Gold answers: from what a data set has in its column to the short form that a response is compared with."""

from __future__ import annotations

import re
from typing import Any

from forkpoint.tasks.answers import answer_key
from forkpoint.tasks.extract import extract
from forkpoint.tasks.numerals import canonical_number
from forkpoint.types import AnswerKind, UserError

MOST_WORDS = 8
"""Words of a bare mathematical answer, such as "no real solutions"; a longer text is a worked solution."""

_SOLUTION = re.compile(
    r"\\f?box(?:ed)?\s?\{|####|\banswers?\b.{0,3}\b(?:is|are)\b|\A(?!.*\\begin\{).*\n", re.IGNORECASE | re.DOTALL
)
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")


def gold_value(answer: str, kind: AnswerKind) -> str | None:
    """The gold answer in short form, None where it is not an answer of this kind.

    A worked solution counts as the answer that it states: "... #### 18", a box, or "the answer is 18".
    """
    if kind == "number" and canonical_number(answer) is not None:
        return canonical_number(answer)
    if kind == "math" and not _SOLUTION.search(answer) and len(_WORD.findall(answer)) <= MOST_WORDS:
        return answer.strip() or None
    key = answer_key(answer, kind)
    if (kind == "option" and len(key) == 1 and key.isalpha()) or (kind == "yesno" and key in ("yes", "no")):
        return key
    # A text's last number is no gold answer: it has to be stated, and the end of the text ends the statement.
    span = extract(answer + "\n", kind, cut_off=True)
    return span.value if span else None


def option_letter(gold: Any, options: tuple[str, ...], place: str) -> str:
    """The gold option's letter, given as the letter, as the option's text, or as its index from 0 (an integer, as MMLU
    has it). UserError where it is none of these, or an integer that is the text of another option.
    """
    last = chr(ord("A") + (len(options) or 26) - 1)
    shown = str(gold).strip()
    letter = shown.strip("().").upper()
    if len(letter) == 1 and "A" <= letter <= last:
        return letter
    by_text = options.index(shown) if options.count(shown) == 1 else None
    by_index = gold if isinstance(gold, int) and not isinstance(gold, bool) and 0 <= gold < len(options) else None
    if None not in (by_text, by_index) and by_text != by_index:
        raise UserError(f"{place}: {gold} is the text of one option and the index of another; give the letter")
    found = by_index if by_text is None else by_text
    if found is None:
        raise UserError(
            f"{place}: the right option should be a letter from A to {last}, an option's text or its index from 0, "
            f"got {shown[:60]!r}"
        )
    return chr(ord("A") + found)
