"""The statements of an answer in a response: where they stand, and by which evidence.

`MARKERS` lists what announces an answer; boxes and tags enclose one. Knows LaTeX delimiters and English phrases.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from operator import itemgetter
from typing import Literal, NamedTuple

from forkpoint.types import AnswerKind, Span

LONGEST = 2000  # characters of a statement; what is longer is no answer

Evidence = Literal["box", "tag", "marker", "postfix", "heading", "hash"]


class Statement(NamedTuple):
    """`text[start:end]` states an answer. `closed`: what follows cannot change it; `line_end`: where its line ends."""

    start: int
    end: int
    evidence: Evidence
    closed: bool
    line_end: int


_QUALIFIER = r"(?:\s(?:to|for|of|in)\s[^.,:;?!\n=0-9]{1,60}?|\s?\([^()\n]{1,40}\))?"
_EMPHASIS = r"[\"'*_`]{0,3}"
_VERB = (
    r"(?:(?:is|are|was|equals|(?:will|would|must|should|has\sto)\sbe|(?:comes|works)\sout\sto)(?![A-Za-z'])"
    r"|=|:|：|->|→|⇒|\s[-–—](?=\s))"
)
_NOUN = r"(?:answers?|ans\.?|(?:correct|right|best|final)\s(?:option|choice|answer|result|value|letter))"

MARKERS: dict[Evidence, str] = {
    # "the answer is 5", "**Final Answer:** 5", "Ans: 5", '{"answer": "B"}', "The answer to the question should be 5"
    "marker": rf"(?<![A-Za-z]){_NOUN}{_EMPHASIS}{_QUALIFIER}\s{{0,3}}{_VERB}{_EMPHASIS}(?:\s{{0,3}}:)?",
    # a line "Final Answer" or "## Answer" of its own
    "heading": r"(?<![^\n])[#*_>\ \t]*(?:the\s)?(?:final\s)?answers?[*_:\ \t]*(?=\n)",
    # "#### 5"
    "hash": r"(?<![^\n\ ])\#{4}(?!\#)",
    # "B is correct", "72 is the answer": the answer stands before it
    "postfix": r"\s(?:is|must\sbe|should\sbe|would\sbe)\s(?:the\s|my\s)?(?:(?:final\s|correct\s|right\s|best\s)*"
    r"(?:answer|option|choice)|correct|right)(?![A-Za-z])(?!\s(?:is|to|for\s[0-9]))",
}
_CHOSEN = (  # of options alone: "I choose", "My pick is", "Answer D" and "Thus A" at the end of a line, {"choice": "C"}
    r"\b(?:I(?:'d|'ll|\swill|\swould)?\s(?:choose|pick|select|go\swith|chose)|(?:my|the)\s(?:choice|pick)\s(?:is|:))"
    rf"|\b(?:{_NOUN}[.,]?|choose|(?:thus|hence|so|therefore),?)(?=\s?[(\[*]*[A-J][)\].*]*\s*(?:\n|\Z))"
    r'|"(?:choice|option)":'
)
_MARKER = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in MARKERS.items()), re.IGNORECASE)
_OPTION_MARKER = re.compile(f"{_MARKER.pattern}|(?P<chosen>{_CHOSEN})", re.IGNORECASE)
_BOX = re.compile(r"\\f?box(?:ed)?(?![A-Za-z])\s?(?P<brace>\{)?")
_BARE_BOX = re.compile(
    r"-?[0-9]+(?:[.,][0-9]+)*|-?\\[dt]?frac\s?(?:\{[^{}\n]*\}\s?\{[^{}\n]*\}|[0-9]{2})|[A-Za-z](?![A-Za-z])"
)
_TAG = re.compile(r"<(?P<tag>answer|final_answer|final)>(?P<content>.{0,2000}?)</(?P=tag)>", re.IGNORECASE | re.DOTALL)
_WORKED = re.compile(r"[#*\s]*(?:the\s)?answer[* \t]*[:\n][*\s]*(?=[a-z]+[ ,])", re.IGNORECASE)
_PLACEHOLDERS = {"", "answer", "your answer", "final answer", "...", r"\ldots", r"\dots", r"\cdot", "?"}
_SENTENCE_END = re.compile(
    r"(?<!\\)(?<!\bRs)(?<!\bapprox)(?<!\bNo)[.!?](?=[\s*\"'”’`)<}]|$)|\n|,?\s(?:because|since|which|where|i\.e)\b|[,;]\s(?:as|so)\s"
    r"|(?<=[0-9$)}])\sas\b|\s\((?:or|not|since|because)\b"
)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_MATH_TOKEN = re.compile(r"\\[()\[\]]|\\.|\$\$|\$|\n\s*\n", re.DOTALL)
_CLOSERS = {"$": "$", "$$": "$$", r"\(": r"\)", r"\[": r"\]"}
HYPOTHESIS = re.compile(
    r"(?i)\b(?:if|whether|suppose|assume|assuming|unless|check|checking|verify|verifying|confirm)\b[^.,;:!?\n]{0,25}$"
)
_DENIED_BEFORE = re.compile(r"\b(?:neither|nor|not|n't|if)\b[^.,;:!?\n]{0,25}$", re.IGNORECASE)
_NEGATED = re.compile(r"[\s*_\"']*(?:[a-z]+ly\s)?(?:not|never|neither)\b", re.IGNORECASE)
_JSON_VALUE = re.compile(r"""[\s"']*+(?P<value>(?:\\.|[^"\\\n])*?)(?=["\n]|'?\s?(?:,\s?["']|\}\s?(?:`|\Z)))""")
_DENIED = re.compile(r"\bnot\s[\s$\\(*]*$")
_CORRECTED = re.compile(r"\b(?:but|rather|instead)\b(?:\s(?:it\sis|is|it's))?", re.IGNORECASE)
_NO_VALUE = re.compile(
    r"(?i)[\s*_\"']*(?:correct|right|wrong|incorrect|reasonable|consistent|verified|valid|clear|unclear|unknown|based|expressed"
    r"|obtained|found|in|rounded|given|below|above|here|as\sfollows)\b(?!\s*(?:by|as|to\sbe|:)\b)"
)


def statements(text: str, kind: AnswerKind, formulas: Formulas) -> list[Statement]:
    """The statements in a response proper, in the order of their beginnings, a box behind the marker before it.

    Questions ("The answer is 5?"), hypotheses ("if the answer is 5"), plain negations and boxes that hold nothing or a
    placeholder are none. A box that never closes is one that is not closed.
    """
    separate: list[Statement] = []
    reach = 0
    for stated in sorted([*_boxes(text), *_tags(text), *_marked(text, kind, formulas)]):
        if stated.evidence == "box" or stated.start >= reach:  # "\boxed{\text{The answer is }7}" is one statement
            separate.append(stated)
        reach = stated.end if stated.evidence == "box" else reach
    return separate


def _boxes(text: str) -> Iterator[Statement]:
    closing = _closing_braces(text) if "box" in text else {}
    for box in _BOX.finditer(text):
        a = box.end()
        if _DENIED.search(text, max(0, box.start() - 12), box.start()):
            continue
        if box["brace"] and a - 1 not in closing:
            yield Statement(a, a, "box", False, a)
        elif box["brace"]:
            b = closing[a - 1]
            if b - a <= LONGEST and text[a:b].strip() not in _PLACEHOLDERS:
                yield Statement(a, b, "box", True, b)
        elif bare := _BARE_BOX.match(text, a):
            yield Statement(a, bare.end(), "box", bare.end() < len(text), bare.end())


def _closing_braces(text: str) -> dict[int, int]:
    """Where each brace closes. Escaped braces do not count, as in ``\\boxed{\\{1, 2\\}}``."""
    opened, closing = [], {}
    for brace in _BRACE.finditer(text):
        if brace[0] == "{":
            opened.append(brace.start())
        elif brace[0] == "}" and opened:
            closing[opened.pop()] = brace.start()
    return closing


def _tags(text: str) -> Iterator[Statement]:
    for tag in _TAG.finditer(text) if "</" in text else ():
        if tag["content"].strip().lower() not in _PLACEHOLDERS:
            yield Statement(*tag.span("content"), "tag", True, tag.end("content"))


def _marked(text: str, kind: AnswerKind, formulas: Formulas) -> Iterator[Statement]:
    markers = list((_OPTION_MARKER if kind == "option" else _MARKER).finditer(text))
    last_equals = text.rfind("=")
    for i, marker in enumerate(markers):
        limit = markers[i + 1].start() if i + 1 < len(markers) else len(text)
        evidence: Evidence = "marker" if marker.lastgroup == "chosen" else marker.lastgroup  # type: ignore[assignment]
        doubt = _DENIED_BEFORE if evidence == "postfix" else HYPOTHESIS
        if doubt.search(text, max(0, marker.start() - 40), marker.start()):
            continue
        if evidence == "postfix":
            yield _before(text, markers[i - 1].end() if i else 0, marker, formulas)
        elif re.search(r"""["']\s?:""", marker.group()):
            if value := _JSON_VALUE.match(text, marker.end(), min(limit, marker.end() + LONGEST)):
                yield Statement(*value.span("value"), "marker", value.end() < len(text), value.end("value"))
        elif (stated := _after(text, marker.end(), limit, evidence, formulas)) and (
            i > 0 or stated.end >= last_equals or not _WORKED.match(text, 0, stated.end)
        ):
            yield stated


def _before(text: str, floor: int, marker: re.Match[str], formulas: Formulas) -> Statement:
    """The sentence in front of a marker."""
    floor = max(floor, marker.start() - 200)
    stops = formulas.outside(_SENTENCE_END.finditer(text, floor, marker.start()))
    start = max((stop.end() for stop in stops), default=floor)
    return Statement(start, marker.start(), "postfix", True, marker.start())


def _after(text: str, at: int, limit: int, evidence: Evidence, formulas: Formulas) -> Statement | None:
    """The sentence behind a marker, None where it is a question or denies what it says."""
    limit = min(limit, at + LONGEST)
    rest = text[at:limit]
    begin = limit - len(rest.lstrip(" \t*_:\"'`" if evidence == "hash" else " \t\r\n*_:\"'`“”>"))
    if "\n" in text[at:begin] and text.startswith(("- ", "• "), begin):  # a bullet, no minus
        begin += 2
    stop = next(formulas.outside(_SENTENCE_END.finditer(text, begin, limit)), None)
    line_end = begin + len(text[begin:limit].partition("\n")[0])
    finish = stop.start() if stop else limit
    point = re.fullmatch(r"\d\.", text[finish - 1 : finish + 2])  # at the end of the text: "3." may go on as "3.5"
    if denied := _NEGATED.match(text, begin, finish):
        but = _CORRECTED.search(text, denied.end(), finish)
        if not but:
            return None
        begin = but.end()
    if (stop and stop.group() == "?") or _NO_VALUE.match(text, begin, finish):
        return None
    return Statement(begin, finish, evidence, stop is not None and not point, max(line_end, finish))


class Formulas:
    """The content of each ``$...$``, ``$$...$$``, ``\\(...\\)`` and ``\\[...\\]`` of a text, by position."""

    def __init__(self, text: str) -> None:
        self.spans = list(_formulas(text))

    def holds(self, position: int) -> bool:
        at = bisect_right(self.spans, position, key=itemgetter(0)) - 1
        return at >= 0 and position < self.spans[at][1]

    def outside(self, matches: Iterator[re.Match[str]]) -> Iterator[re.Match[str]]:
        """The matches that do not begin inside a formula."""
        return (match for match in matches if not self.holds(match.start()))

    def within(self, start: int, end: int) -> list[tuple[int, int]]:
        """The formulas that lie wholly in the stretch."""
        first, behind = (bisect_left(self.spans, at, key=itemgetter(0)) for at in (start, end))
        return [(a, b) for a, b in self.spans[first:behind] if b <= end]


def _formulas(text: str) -> Iterator[tuple[int, int]]:
    opener, begin = "", 0
    for token in _MATH_TOKEN.finditer(text):
        mark = token.group()
        if opener and mark == _CLOSERS[opener]:
            yield begin, token.start()
            opener = ""
        elif mark.startswith("\n"):  # no formula runs over a blank line: an unpaired $ ends here
            opener = ""
        elif not opener and mark in _CLOSERS:
            opener, begin = mark, token.end()


def trimmed(text: str, start: int, end: int) -> Span | None:
    """The span without surrounding white space, quotes and emphasis; None where nothing is left."""
    start = end - len(text[start:end].lstrip(" \t\r\n*`"))
    value = text[start:end].rstrip(" \t\r\n*`")
    return Span(start, start + len(value), value) if value else None
