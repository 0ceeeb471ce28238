"""Numbers as people and models write them, read exactly: `FORMS` lists how, and what they are then worth.

Every function is linear in the length of its input: a number of a million digits is compared as text, never turned into
an integer. Offsets are those of the original text, since `plain` changes characters one for one.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache

from forkpoint.types import Span

MAX_DIGITS = 400  # of a number for exact arithmetic; a longer one equals only another one with the same digits

_SEPARATOR = r"(?:,\\!\s?|\{,\}|\\[, ]|[,'’_ ])"
_DIGITS = rf"""(?:
    [0-9]{{1,3}}(?:{_SEPARATOR}[0-9]{{3}})+(?![0-9])    # 1,000  1{{,}}000  70 000  70'000
  | [0-9]{{1,2}}(?:,[0-9]{{2}}){{1,6}},[0-9]{{3}}(?![0-9])  # 1,00,000
  | [0-9]{{1,3}}(?:\.[0-9]{{3}}){{2,6}}(?![0-9.])      # 1.234.567
  | [0-9]++
)""".replace("[,'’_ ]", "[,'’_\\ ]")  # the pattern is verbose: a blank of its own needs its backslash
_DECIMAL = rf"(?:{_DIGITS}(?:\.[0-9]++)?|(?<![0-9])\.[0-9]++)"
_NOT_ZERO = r"(?=[0-9,]*[1-9])"
_NOT_LONG = rf"(?![0-9]{{{MAX_DIGITS}}})"  # no use in trying a number of a million digits in every form
_FRAC = rf"""\\[dt]?frac\s?(?:\{{\s?(-?{_DECIMAL})\s?\}}|([0-9]))\s?
             (?:\{{\s?{_NOT_ZERO}({_DECIMAL})\s?\}}|([1-9]))"""
_RAISED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
_EXPONENT = r"(?:\s?(?:\^|\*\*)\s?(?:\{\s?(-?[0-9]{1,4})\s?\}|(-?[0-9]{1,4}))|(⁻?[⁰¹²³⁴⁵⁶⁷⁸⁹]{1,4}))(?![0-9])"
SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}


def _power(base: str, exponent: str) -> Fraction:
    if len(base) * abs(_whole(exponent)) > MAX_DIGITS:
        raise OverflowError
    return _exact(base) ** _whole(exponent)


def _ratio(top: str, bottom: str) -> Fraction:
    return _exact(top) / _exact(bottom)


def vulgar(character: str) -> Fraction:
    """The value of ½ and its kin."""
    return Fraction(unicodedata.numeric(character)).limit_denominator(10)


FORMS: dict[str, tuple[str, Callable[..., Fraction]]] = {  # the first that fits a place is taken; its groups give it
    # 2 1/2, 2 and 1/2, 2\frac{1}{2}
    "mixed": (
        rf"{_NOT_LONG}([0-9]++)(?:\s(?:and\s)?([0-9]++)/{_NOT_ZERO}([0-9]++)"
        rf"|\s?\\[dt]?frac\s?(?:\{{([0-9]++)\}}|([0-9]))\s?(?:\{{{_NOT_ZERO}([0-9]++)\}}|([1-9])))",
        lambda whole, top, bottom: _exact(whole) + _ratio(top, bottom),
    ),
    # 2½
    "vulgar": (
        rf"{_NOT_LONG}([0-9]*+)\s?([¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞])",
        lambda *digits: sum(map(_exact, digits[:-1]), start=vulgar(digits[-1])),
    ),
    # \frac{1}{2}, \frac12
    "fraction": (_FRAC, _ratio),
    # 1.5 \times 10^6
    "scientific": (
        rf"{_NOT_LONG}({_DECIMAL})\s?(?:\\times|\\cdot|[x×*·⋅])\s?10{_EXPONENT}",
        lambda digits, exponent: _exact(digits) * Fraction(10) ** _whole(exponent),
    ),
    # 2^{10}, 10^-5, 10⁶
    "power": (rf"([0-9]{{1,6}}+){_EXPONENT}", _power),
    # 3/4
    "ratio": (rf"{_NOT_LONG}({_DECIMAL})\s?/\s?{_NOT_ZERO}({_DECIMAL})", _ratio),
    # 1,000.50, 1e6, 2 million
    "decimal": (
        rf"({_DECIMAL})(?:[eE]([+-]?[0-9]{{1,3}})(?![0-9A-Za-z])"
        rf"|(?:\s|\\[,\ ]|~){{1,3}}(?:\\text\{{\s?)?((?i:{'|'.join(SCALES)}))(?![A-Za-z]))?",
        lambda digits, scale: _exact(digits) * Fraction(10) ** (SCALES.get(scale.lower()) or int(scale)),
    ),
}
# Not in a name (x2), an exponent or a subscript; but right after a command: \approx5.
_BEFORE = (
    r"(?=[0-9.\\¼½¾⅐-⅞])(?:(?<=\\approx)|(?<=\\boxed)|(?<=\\times)|(?<=\\cdot)|(?<![0-9A-Za-z^])(?<![0-9A-Za-z)}\]]_))(?<!\^\{)"
    r"(?<!_\{)(?<!\^-)(?<!\^\{-)"
)
_READERS = {name: (re.compile(pattern, re.VERBOSE), value) for name, (pattern, value) in FORMS.items()}
NUMBER = re.compile(
    _BEFORE + "(?:" + "|".join(f"(?P<{name}>{pattern})" for name, (pattern, _) in FORMS.items()) + ")", re.VERBOSE
)
"""One number without its sign, wherever it stands in `plain` text."""

_SIGN = re.compile(
    r"(?:(?P<minus>-)(?P<gap>\s*)|(?P<word>\b(?:negative|minus)\s+))(?:\\?[$€£₹¥]\s?|\\text\{)?$", re.IGNORECASE
)
_SIGNED_AFTER = re.compile(r"(?:[=:({\[$≈]|\b(?:is|are|be|of|equals|to)|\\approx)$")
_SEPARATORS = re.compile(r",\\!\s?|\{,\}|\\[, ]|[,'’_ ]")
_DECORATION = re.compile(r"^(?:[\s$€£₹¥*+]|\\\$)+|(?:[\s%*.\\$]|percent)+$")


@cache
def _plain_table() -> dict[int, str]:
    table = {c: str(d) for c in range(128, sys.maxunicode) if (d := unicodedata.decimal(chr(c), None)) is not None}
    dashes = dict.fromkeys(map(ord, "−–﹣－"), "-")
    blanks = dict.fromkeys((0xA0, 0x2007, 0x2009, 0x200A, 0x202F, 0x3000), " ")
    return table | dashes | blanks | {ord(a): b for a, b in zip("．，％＋／：（）＝", ".,%+/:()=", strict=True)}


def plain(text: str) -> str:
    """The text with ASCII digits, minus signs and blanks, character for character."""
    return text if text.isascii() else text.translate(_plain_table())


def numerals(text: str, start: int = 0, end: int = sys.maxsize) -> Iterator[re.Match[str]]:
    """The matches of NUMBER in text[start:end], which should be `plain`."""
    return NUMBER.finditer(text, start, end)


def number_span(number: re.Match[str], floor: int = 0, *, leading: bool = False) -> Span:
    """A match of NUMBER with its sign and its value in short form: "1,000.50" -> "1000.5", "- 2/4" -> "-1/2".

    A minus that a blank parts from its number is a sign only where nothing can be subtracted from: after "=", "is", an
    opening bracket, or, if `leading`, at `floor`, where an answer begins. The 3 of "10-3" and "10 - 3" has no sign.
    """
    text, start = number.string, number.start()
    sign = _SIGN.search(text, max(floor, start - 24), start)
    if sign and _is_sign(text, sign, floor, leading):
        return Span(sign.start(), number.end(), _short_form(number, negative=True))
    return Span(start, number.end(), _short_form(number, negative=False))


def _is_sign(text: str, sign: re.Match[str], floor: int, leading: bool) -> bool:
    at = sign.start()
    if sign["minus"] and not sign["gap"]:
        return at == floor or not re.match(r"[0-9A-Za-z)\]}%]", text[at - 1])
    before = text[max(floor, at - 12) : at].rstrip(" ")
    negative = (sign["word"] or "").lower().startswith("negative")
    return negative or bool(_SIGNED_AFTER.search(before)) or (leading and not before and at - floor < 12)


def canonical_number(text: str) -> str | None:
    """The short form, without currency and percent: "$1,000.50" -> "1000.5", "2/4" -> "1/2"; None for what is none."""
    bare = _DECORATION.sub("", plain(text.strip()))
    number = next(numerals(bare), None)
    if number is None or number.end() != len(bare):
        return None
    span = number_span(number, leading=True)
    return span.value if span.start == 0 else None


def parse_number(text: str) -> Fraction | None:
    """The exact value; None where `text` is not one number, or one of more than MAX_DIGITS digits."""
    short = canonical_number(text)
    if short is None or len(short) > 2 * MAX_DIGITS:
        return None
    try:
        return Fraction(short)
    except ValueError:  # a fraction whose parts were too long to reduce
        return None


def number_key(text: str) -> str:
    """A string that is equal for equal numbers: "1,000" and "1000.0" -> "1000", "0.5" and "1/2" -> "1/2"."""
    value = parse_number(text)
    return str(value) if value is not None else (canonical_number(text) or text.strip())


def _short_form(number: re.Match[str], negative: bool) -> str:
    sign = "-" if negative else ""
    name = number.lastgroup or ""
    pattern, value_of = _READERS[name]
    form = pattern.fullmatch(number[name])
    if form is None:  # the 1/0 of "1/0,5": a look-ahead saw more
        return sign + number[name]
    groups = [group for group in form.groups() if group]
    if name == "decimal" and len(groups) == 1:  # exact however long, and 0.50 stays a decimal
        return _plain(sign + groups[0])
    try:
        return str(value_of(*groups) * (-1 if negative else 1))
    except (OverflowError, ZeroDivisionError):
        return sign + number[name]


def _whole(exponent: str) -> int:
    value = int(exponent.translate(_RAISED))
    if abs(value) > MAX_DIGITS:
        raise OverflowError
    return value


def _plain(digits: str) -> str:
    """A decimal without separators, leading and trailing zeros."""
    sign, digits = ("-", digits[1:]) if digits.startswith("-") else ("", digits)
    if digits.count(".") > 1:  # 1.234.567
        digits = digits.replace(".", "")
    whole, _, part = _SEPARATORS.sub("", digits).partition(".")
    short = f"{whole.lstrip('0') or '0'}.{part.rstrip('0')}".removesuffix(".")
    return sign + short if short != "0" else short


def _exact(digits: str) -> Fraction:
    """The value of a decimal; OverflowError where it is too long to reckon with."""
    short = _plain(digits)
    if len(short) > MAX_DIGITS:
        raise OverflowError
    return Fraction(short)
