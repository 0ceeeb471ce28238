"""One spelling for the many ways to write the same mathematical answer, without computer algebra.

`normalise` takes away what carries no meaning in an answer (spacing, \\left and \\right, \\dfrac for \\frac,
thousands separators, currency, degree signs, units) and keeps what does (the percent sign, the kind of
brackets, number bases). Units are not compared: "5 cm", "5" and "5 m" are one answer. A unit that matters is
not told apart.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from forkpoint.tasks.numerals import parse_number

_UNICODE = str.maketrans(
    {
        "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": r"\div ", "π": r"\pi ", "∞": r"\infty ",
        "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
        "°": "", "²": "^2", "³": "^3", "½": r"\frac{1}{2}", "θ": r"\theta ", "\u00a0": " ", "\x00": "",
    }
)  # fmt: skip
_THOUSANDS = re.compile(r"(?<=[0-9])(?:,\s?\\!\s?|\{,\}|\\,)(?=[0-9]{3}(?![0-9]))")
_GROUPED = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9]|,[0-9])")
_SPACING = re.compile(r"\\(?:[,;:!>]|(?:quad|qquad|displaystyle|limits|hfill|thinspace)(?![A-Za-z]))|(?<!\\)\\ |~")
_SIZING = re.compile(r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])\.?")
_DELIMITERS = re.compile(r"\\[()]|(?<!\\)\\\[|(?<!\\)\\\](?!\s*\\)|\\?\$|\*\*|[€£₹]")
_DEGREES = re.compile(r"\s*\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degrees?(?![A-Za-z])")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mbox|mathrm|mathbf|mathit|operatorname|rm)\s*\{([^{}]*)\}")
_JOINER = re.compile(r"\s*,?\s*(?:\\text\{\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))\s*")
_PLAIN_SQRT = re.compile(r"(?<![\\A-Za-z])sqrt\(([^()]*)\)")
_PLAIN_PI = re.compile(r"(?<![\\A-Za-z])pi(?![A-Za-z])")
_UNIT_POWER = r"(?:\s*(?:\^\s*\{?\s*[0-9]\s*\}?))?"
_UNIT = re.compile(
    rf"(?<=[0-9}}])\s+(?!pi\b|sin|cos|tan|log|ln\b)[A-Za-z]{{2,}}(?:[ ./]+[A-Za-z]+){{0,4}}\.?{_UNIT_POWER}$"
)
_FRAC_ARGUMENTS = re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]*)\}|([0-9A-Za-z]))\s*(?:\{([^{}]*)\}|([0-9A-Za-z]))")
_PERCENT = re.compile(r"\\?%|\s(?:percent|per cent)$")
_RATIO = re.compile(r"(-?)\s*\\frac\{(-?[0-9]{1,200})\}\{(-?[0-9]{1,200})\}")
_MIXED = re.compile(r"(-?)\s*([0-9]{1,200})\s*\\frac\{([0-9]{1,200})\}\{([0-9]{1,200})\}")


MAX_NESTING = 30
"""Deepest nesting of brackets that algebra is asked about."""


class Normal(NamedTuple):
    """A normalised answer: its text without white space, whether it is words ("\\text{east}"), whether in
    percent.
    """

    text: str
    words: bool
    percent: bool


def normalise(answer: str) -> Normal:
    """The answer in its one spelling. Callers bound its length."""
    text = _SIZING.sub("", answer.translate(_UNICODE).strip())
    text = _SPACING.sub(" ", _THOUSANDS.sub("", text))
    text = _PLAIN_PI.sub(r"\\pi ", _PLAIN_SQRT.sub(r"\\sqrt{\1}", text))
    text = _DEGREES.sub("", _DELIMITERS.sub("", _JOINER.sub(", ", text)))
    wordy = _TEXT.sub("", text)
    words = not re.search(r"[0-9\\=]", wordy) and bool(re.search(r"[A-Za-z]", text)) and wordy != text
    words = words and not re.search(r"[A-Za-z]", wordy)
    if words:
        text = _TEXT.sub(r"\1", text)
        return Normal(_plain_words(text), True, False)
    text = _without_text(text)
    percent = bool(_PERCENT.search(text))
    text = _UNIT.sub("", _PERCENT.sub("", text).strip().rstrip(".,;: "))
    text = re.sub(r"\\(?:leq|leqslant)(?![A-Za-z])", r"\\le", text)
    text = re.sub(r"\\(?:geq|geqslant)(?![A-Za-z])", r"\\ge", text)
    text = _ungroup(_braced(text))
    return Normal(_tight(text), False, percent)


def _plain_words(text: str) -> str:
    words = " ".join(text.split()).rstrip(".").casefold()
    letter = re.fullmatch(r"\(\s*([a-z])\s*\)", words)
    return letter[1] if letter else words


def _without_text(text: str) -> str:
    """Units set as text are taken away with their exponent; other short text stays as the letters it is."""
    unit = re.compile(rf"(?:(?<=[0-9}}])|(?<=[0-9}}]\s))\s*{_TEXT.pattern}{_UNIT_POWER}")
    return _TEXT.sub(r"\1", unit.sub(_keep_percent, text))


def _keep_percent(match: re.Match[str]) -> str:
    return r"\%" if match[1].strip().lower() in ("percent", "%", r"\%") else ""


def _braced(text: str) -> str:
    """\\frac43 -> \\frac{4}{3}, \\sqrt2 -> \\sqrt{2}, x_8 -> x_{8}, x^2 -> x^{2}."""

    def fraction(match: re.Match[str]) -> str:
        return rf"\frac{{{match[1] or match[2]}}}{{{match[3] or match[4]}}}"

    text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text)
    text = _FRAC_ARGUMENTS.sub(fraction, text)
    text = re.sub(r"\\sqrt\s*([0-9A-Za-z])", r"\\sqrt{\1}", text)
    return re.sub(r"([_^])\s*([0-9A-Za-z])", r"\1{\2}", text)


def _ungroup(text: str) -> str:
    """1,234 -> 1234 outside of brackets, where a comma may also separate."""
    if any(bracket in text for bracket in "([") or r"\{" in text:
        return text
    return _GROUPED.sub(lambda match: match.group().replace(",", ""), text)


def _tight(text: str) -> str:
    """Without white space, but for the one space that ends a command's name before a letter."""
    text = re.sub(r"(\\[A-Za-z]+)\s+(?=[A-Za-z])", "\\1\x00", text)
    return re.sub(r"\s+", "", text).replace("\x00", " ")


def rational(text: str) -> Fraction | None:
    """The exact value of a normalised answer that is a number, a fraction or a mixed number, else None."""
    if len(text) > 1000:
        return None
    mixed = _MIXED.fullmatch(text)
    if mixed and int(mixed[4]):
        value = int(mixed[2]) + Fraction(int(mixed[3]), int(mixed[4]))
        return -value if mixed[1] else value
    ratio = _RATIO.fullmatch(text)
    if ratio and int(ratio[3]):
        value = Fraction(int(ratio[2]), int(ratio[3]))
        return -value if ratio[1] else value
    plain = re.fullmatch(r"\+?(-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:/[0-9]+)?)", text)
    return parse_number(plain[1].removesuffix(".")) if plain else None


def well_formed(text: str) -> bool:
    """Whether the braces pair off and brackets nest no deeper than any real answer's do."""
    braces = depth = 0
    for token in re.finditer(r"\\.|[()\[\]{}]", text):
        mark = token.group()
        braces += (mark == "{") - (mark == "}")
        depth += (mark in "([{") - (mark in ")]}")
        if braces < 0 or depth > MAX_NESTING:
            return False
    return braces == 0
