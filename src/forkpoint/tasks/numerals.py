"""Numbers as people and models write them, read exactly.

Knows digits, signs, thousands separators, decimals, fractions and mixed numbers; knows nothing of where in a
text an answer stands. Every function is linear in the length of its input: a number of a million digits is
compared as text, never turned into an integer.
"""

from __future__ import annotations

import re
from fractions import Fraction

MAX_DIGITS = 400
"""Longest number that exact arithmetic is done on; a longer one equals only another one with the same digits.
"""

_SEPARATOR = r"(?:,\\!\s?|\{,\}|\\,|,)"
_DIGITS = rf"(?:[0-9]{{1,3}}(?:{_SEPARATOR}[0-9]{{3}})+(?![0-9])|[0-9]++)"
_NOT_ZERO = r"(?=[0-9,]*[1-9])"

NUMBER = re.compile(
    rf"""
    (?<![0-9A-Za-z_^])(?<!\^\{{)(?<!_\{{)(?<!\^-)(?<!\^\{{-)    # not in a name (x2), an exponent, a subscript
    (?:(?P<sign>(?<![)\]}}%])[-−–](?:\s?\\?[$€£₹])?)|(?<==\ )(?P<far_sign>[-−–])\ )?
    (?P<body>
        \\[dt]?frac\{{(?P<top>-?[0-9]++)\}}\{{{_NOT_ZERO}(?P<bottom>[0-9]++)\}}
      | (?P<whole>[0-9]++)\ (?P<part>[0-9]++)/{_NOT_ZERO}(?P<parts>[0-9]++)
      | (?P<number>{_DIGITS}(?:\.[0-9]++)?|(?<![0-9])\.[0-9]++)
        (?:[eE](?P<exponent>[+-]?[0-9]{{1,3}})(?![0-9A-Za-z])|\s?/\s?{_NOT_ZERO}(?P<denominator>{_DIGITS}))?
    )
    """,
    re.VERBOSE,
)
"""One number, wherever it stands. `sign` takes part in it, a currency mark before it and a percent sign after
it do not. The 3 of "10-3" has no sign.
"""

_SEPARATORS = re.compile(_SEPARATOR)
_DECORATION = re.compile(r"^[\s$€£₹*\\]+|(?:[\s%*.\\$]|percent)+$")


def canonical_number(text: str) -> str | None:
    """The short form of a number: "1,000.50" -> "1000.5", "2/4" -> "1/2"; None where it is not one number.

    A currency mark before it and a percent sign or full stop after it are left out.
    """
    text = text.strip()
    match = NUMBER.fullmatch(text) or NUMBER.fullmatch(_DECORATION.sub("", text))
    return canonical_match(match) if match else None


def canonical_match(match: re.Match[str]) -> str:
    """The short form of a match of NUMBER."""
    minus = bool(match["sign"] or match["far_sign"])
    numerator, denominator = match["number"] or match["top"], match["denominator"] or match["bottom"]
    if match["whole"]:
        value = _exact(match["whole"]), _exact(match["part"]), _exact(match["parts"])
        if any(v is None for v in value):
            return ("-" if minus else "") + match["body"]
        total = value[0] + value[1] / value[2]  # type: ignore[operator]
        return str(-total if minus else total)
    plain = _plain(numerator)
    if denominator is None and match["exponent"] is None:
        return "-" + plain if minus and plain != "0" else plain
    top, bottom = _exact(numerator), _exact(denominator or "1")
    if top is None or bottom is None:
        return ("-" if minus else "") + match["body"]
    fraction = top / bottom * Fraction(10) ** int(match["exponent"] or 0)
    return str(-fraction if minus else fraction)


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


def _plain(digits: str) -> str:
    """A decimal without separators, leading and trailing zeros."""
    sign, digits = ("-", digits[1:]) if digits.startswith("-") else ("", digits)
    whole, _, part = _SEPARATORS.sub("", digits).partition(".")
    whole, part = whole.lstrip("0") or "0", part.rstrip("0")
    short = f"{whole}.{part}" if part else whole
    return sign + short if short != "0" else short


def _exact(digits: str) -> Fraction | None:
    plain = _plain(digits)
    return Fraction(plain) if len(plain) <= MAX_DIGITS else None
