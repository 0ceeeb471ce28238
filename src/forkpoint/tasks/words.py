r"""Words in a mathematical answer: which letters are words, which words are units, what else they mean.

`without_units` writes every word as \text{...}, replaces the words that have a sign (and, or, percent, million), and
takes units away. Units are not compared: "5 cm", "5" and "5 m" are one answer. A word stays where a quantity follows
it ("3 hours 20 minutes"), so that nothing is glued, and so does every unit where an answer has several ("5 feet, 3
inches").
"""

from __future__ import annotations

import re

WORD_SPACE = r"\text{ }"
"""Stands where white space kept two numbers apart."""

_SHORT_WORDS = "out of one two six ten odd yes no not none all any the per lbs hrs USD"
_SHORT_UNITS = "cm|mm|km|kg|mg|ml|mL|ft|in|yd|lbs?|oz|hrs?|min|sec|mph|pts"
_PLAIN = re.compile(  # after what is no plain text: a word of the list, or four letters that are no product "abcd"
    rf"""
    \\text\{{[^{{}}]*\}} | \\(?:begin|end|mathbb|mathcal)\s*\{{\w+\}} | \\[A-Za-z]+
    | (?<![A-Za-z])(?P<word>(?:and|or|{_SHORT_WORDS.replace(" ", "|")})(?![A-Za-z])
      | (?:(?<=[0-9}}]\s)|(?<=\\pi\s)|(?<=\\pi\s\s))(?:{_SHORT_UNITS})(?![A-Za-z])
      | (?<=[0-9])(?:cm|mm|km|kg|mph)(?![A-Za-z])
      | (?=[A-Za-z]*[aeiouyAEIOUY])[A-Za-z]{{4,}})
    """,
    re.VERBOSE,
)
_ADJACENT = re.compile(r"\\text\{([^{}]*)\}\s*\\text\{([^{}]*)\}")
_SIGNS = [  # (text, sign)
    (r"percent(?:age)?|per cent|pct", r"\\%"),
    (r",?\s*or(?: else)?", r"\\lor "),
    (r",?\s*and", r"\\land "),
    (r"degrees?(?: (?:celsius|fahrenheit))?", " "),
    (r"approximately|about|approx\.?", r"\\approx "),
    (r"out of", "/"),
    (r"dozen", r"\\cdot 12"),
    (r"hundred", r"\\cdot 10^{2}"),
    (r"thousand", r"\\cdot 10^{3}"),
    (r"million", r"\\cdot 10^{6}"),
    (r"billion", r"\\cdot 10^{9}"),
    (r"trillion", r"\\cdot 10^{12}"),
    (r"all (?:real numbers|reals)|(?:the )?(?:set of )?(?:all )?real numbers", r"\\mathbb{R}"),
    (r"(?:no (?:real )?solutions?|(?:the )?empty set)", r"\\emptyset "),
]
_SIGN_PATTERNS = [(re.compile(rf"\\text\{{\s*(?i:{words})[\s,]*\}}"), sign) for words, sign in _SIGNS]
_UNIT = r"\\text\{[^{}0-9()]*(?:\^[0-9][^{}0-9()]*)?\}\s*(?:\^\s*(?:\{\s*-?[0-9]\s*\}|-?[0-9]))?"
_UNITS = re.compile(
    rf"(?:(?<=[0-9)}}!.])|(?<=[0-9][A-Za-z])|(?<=\\pi))\s*(?P<unit>{_UNIT}(?:\s*(?:/|\\cdot)?\s*{_UNIT})*)"
    r"\s*(?=$|[.,+\-=<>)\]&;]|\\(?:le|ge|ne|in|cup|cap|land|lor|approx|pm|mp|cdot|times)(?![A-Za-z])|\\\\|\\\})"
)
_NO_UNIT = re.compile(r"\b(?:to|than|least|most|not|if|mod|out|or|and|a\.?m|p\.?m)\b|^\\text\{\s*\}$", re.IGNORECASE)
_BETWEEN = re.compile(r"[0-9)}]\s*\\text\{")
_TEXT = re.compile(r"\\text\{\s*([^{}]*?)[\s.]*\}")


def without_units(text: str, percent: str) -> str:
    """The text with every word as \\text{...}, in lower case, and without its units."""
    text = _PLAIN.sub(lambda m: rf"\text{{{m['word']}}}" if m["word"] else m[0], text)
    text = re.sub(r"\\text\s*\{", r"\\text{", text)
    text = re.sub(r"^\s*\\text\{[^{}]*\b(?i:is|are|equals?|answer):?\s*\}", "", text)  # \text{The answer is } 7
    if re.fullmatch(r"\\text\{[^{}]*\}", text.strip()):
        text = re.sub(r",?\s*\b(?:and|or)\b|,", r"}\\land \\text{", text)  # \text{A, B and C} are three
    for pattern, sign in _SIGN_PATTERNS:
        text = pattern.sub(sign, text)
    while _ADJACENT.search(text):
        text = _ADJACENT.sub(r"\\text{\1 \2}", text)
    for pattern, sign in _SIGN_PATTERNS:
        text = pattern.sub(sign, text)
    text = re.sub(r",\s*(?=\\l(?:or|and)(?![A-Za-z]))", "", text)
    text = re.sub(r"\\text\{\s*%\s*\}|\\?%", lambda _: percent, text)
    units = {_unit_name(m["unit"]) for m in _UNITS.finditer(text)}
    if len(units) == 1 and not _NO_UNIT.search(units.pop()):
        bare = _UNITS.sub("", text)
        text = text if _BETWEEN.search(bare) else bare
    return _TEXT.sub(_one_spelling, text)


def spoken(text: str) -> str:
    """A cleaned answer as words: "\\text{east}" and "east" are one, "3\\text{ }20" and "320" are not."""
    return " ".join(re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text).split())


def _unit_name(unit: str) -> str:
    return re.sub(r"s?\s*\}", "}", re.sub(r"\s+", " ", unit)).strip().lower()


def _one_spelling(match: re.Match[str]) -> str:
    """\\text{East.} as \\text{east}; one letter as the letter, \\text{(c)} as \\text{(C)}."""
    words = " ".join(match[1].split())
    if re.fullmatch(r"[A-Za-z]", words):
        return words
    option = re.match(r"\(\s*([A-Za-z])\s*\)(.*)", words)
    return rf"\text{{({option[1].upper()}){option[2].casefold()}}}" if option else rf"\text{{{words.casefold()}}}"
