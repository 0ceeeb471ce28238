"""Numbers as people and models write them, read exactly.

`FORMS` lists how a number may be written and how its value is found. Knows nothing of where in a text an answer stands.
Every function is linear in the length of its input: a number of a million digits is compared as text, never turned into
an integer. Offsets are those of the text given, since `plain` changes characters one for one.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache

from forkpoint.types import Span

MAX_DIGITS = 400
"""Longest number that exact arithmetic is done on; a longer one equals only another one with the same digits."""

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

Groups = tuple[str | None, ...]


def _mixed(groups: Groups) -> Fraction | None:
    whole, part, parts, *latex = groups
    top, bottom = (part, parts) if part else (latex[0] or latex[1], latex[2] or latex[3])
    return _sum(_exact(whole), _ratio(top, bottom))


def _vulgar(groups: Groups) -> Fraction | None:
    part = Fraction(unicodedata.numeric(groups[1] or "")).limit_denominator(10)
    return _sum(_exact(groups[0] or "0"), part)


def _power(groups: Groups) -> Fraction | None:
    base, exponent = _exact(groups[0]), _exponent(groups[1:])
    if base is None or (base == 0 and exponent < 0) or len(groups[0] or "") * abs(exponent) > MAX_DIGITS:
        return None
    return base**exponent


def _scientific(groups: Groups) -> Fraction | None:
    value, exponent = _exact(groups[0]), _exponent(groups[1:])
    return value * Fraction(10) ** exponent if value is not None and abs(exponent) <= MAX_DIGITS else None


def _scaled(groups: Groups) -> Fraction | None:
    value, exponent, scale = _exact(groups[0]), groups[1], groups[2]
    return None if value is None else value * Fraction(10) ** (SCALES[scale.lower()] if scale else int(exponent or 0))


FORMS: dict[str, tuple[str, Callable[[Groups], Fraction | None]]] = {  # the first that fits a place is taken
    # 2 1/2, 2 and 1/2, 2\frac{1}{2}
    "mixed": (
        rf"{_NOT_LONG}([0-9]++)(?:\s(?:and\s)?([0-9]++)/{_NOT_ZERO}([0-9]++)"
        rf"|\s?\\[dt]?frac\s?(?:\{{([0-9]++)\}}|([0-9]))\s?(?:\{{{_NOT_ZERO}([0-9]++)\}}|([1-9])))",
        _mixed,
    ),
    "vulgar": (rf"{_NOT_LONG}([0-9]*+)\s?([¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞])", _vulgar),  # 2½
    "fraction": (_FRAC, lambda groups: _ratio(groups[0] or groups[1], groups[2] or groups[3])),  # \frac{1}{2}, \frac12
    "scientific": (
        rf"{_NOT_LONG}({_DECIMAL})\s?(?:\\times|\\cdot|[x×*·⋅])\s?10{_EXPONENT}",
        _scientific,
    ),  # 1.5 \times 10^6
    "power": (rf"([0-9]{{1,6}}+){_EXPONENT}", _power),  # 2^{10}, 10^-5, 10⁶
    "ratio": (rf"{_NOT_LONG}({_DECIMAL})\s?/\s?{_NOT_ZERO}({_DECIMAL})", lambda groups: _ratio(*groups)),  # 3/4
    # 1,000.50, 1e6, 2 million
    "decimal": (
        rf"({_DECIMAL})(?:[eE]([+-]?[0-9]{{1,3}})(?![0-9A-Za-z])"
        rf"|(?:\s|\\[,\ ]|~){{1,3}}(?:\\text\{{\s?)?((?i:{'|'.join(SCALES)}))(?![A-Za-z]))?",
        _scaled,
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


def numerals(text: str, start: int = 0, end: int | None = None) -> Iterator[re.Match[str]]:
    """The matches of NUMBER in text[start:end], which should be `plain`."""
    return NUMBER.finditer(text, start, len(text) if end is None else end)


def number_span(found: re.Match[str], floor: int = 0, *, leading: bool = False) -> Span:
    """A match of NUMBER with its sign and its value in short form: "1,000.50" -> "1000.5", "- 2/4" -> "-1/2".

    A minus that a blank parts from its number is a sign only where nothing can be subtracted from: after "=", "is", an
    opening bracket, or at `floor`, where the text of an answer begins, if `leading`. (At the start of a line it is a
    bullet; the 3 of "10-3" and of "10 - 3" has no sign.)
    """
    text, start = found.string, found.start()
    sign = _SIGN.search(text, max(floor, start - 24), start)
    negative = sign is not None and _is_sign(text, sign, floor, leading)
    if negative and sign is not None:
        start = sign.start()
    return Span(start, found.end(), _short_form(found, negative))


def _is_sign(text: str, sign: re.Match[str], floor: int, leading: bool) -> bool:
    at = sign.start()
    if sign["minus"] and not sign["gap"]:
        return at == floor or not re.match(r"[0-9A-Za-z)\]}%]", text[at - 1])
    before = text[max(floor, at - 12) : at].rstrip(" ")
    if sign["word"] and sign["word"].lower().startswith("negative"):
        return True
    return bool(_SIGNED_AFTER.search(before)) or (leading and not before and at - floor < 12)


def canonical_number(text: str) -> str | None:
    """The short form of a number: "1,000.50" -> "1000.5", "2/4" -> "1/2"; None where it is not one number.

    A currency mark before it and a percent sign or full stop after it are left out.
    """
    bare = _DECORATION.sub("", plain(text.strip()))
    found = next(numerals(bare), None)
    if found is None or found.end() != len(bare):
        return None
    span = number_span(found, leading=True)
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


def _short_form(found: re.Match[str], negative: bool) -> str:
    sign = "-" if negative else ""
    name = found.lastgroup or ""
    pattern, value_of = _READERS[name]
    groups = (pattern.fullmatch(found[name]) or found).groups()
    if name == "decimal" and groups[1] is None and groups[2] is None:  # exact however long, and 0.50 stays a decimal
        short = _plain(groups[0] or "")
        return sign + short if short != "0" else short
    value = value_of(groups)
    return sign + found[name] if value is None else str(-value if negative else value)


def _exponent(groups: Groups) -> int:
    digits = groups[0] or groups[1] or (groups[2] or "0").translate(_RAISED)
    return int(digits)


def _sum(a: Fraction | None, b: Fraction | None) -> Fraction | None:
    return None if a is None or b is None else a + b


def _ratio(top: str | None, bottom: str | None) -> Fraction | None:
    a, b = _exact(top), _exact(bottom)
    return None if a is None or not b else a / b


def _plain(digits: str) -> str:
    """A decimal without separators, leading and trailing zeros."""
    sign, digits = ("-", digits[1:]) if digits.startswith("-") else ("", digits)
    if digits.count(".") > 1:  # 1.234.567
        digits = digits.replace(".", "")
    whole, _, part = _SEPARATORS.sub("", digits).partition(".")
    whole, part = whole.lstrip("0") or "0", part.rstrip("0")
    short = f"{whole}.{part}" if part else whole
    return sign + short if short != "0" else short


def _exact(digits: str | None) -> Fraction | None:
    short = _plain(digits or "")
    return Fraction(short) if len(short) <= MAX_DIGITS else None
