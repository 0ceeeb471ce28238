r"""Two single expressions or equations compared: read by math-verify's parser, refuted or confirmed by numbers.

Guards what math-verify 0.9.0 (with latex2sympy2_extended 1.11.0) gets wrong: it takes differences below 1e-16 for zero,
upper and lower case for one letter, gamma and I for constants, i for a variable, and adds what stands side by side
("2(3)" is 5). So letters go in as named variables, products with their sign, decimals as exact numbers. Two expressions
are equal where their values agree to 50 digits at random points (to 1e-9 where one is a decimal); math-verify's own
verdict counts only where no value exists. For grading workers alone: a call may never return, or exhaust memory.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy  # type: ignore[import-untyped]
from math_verify import verify

DIGITS = 60
EXACT = sympy.Rational(1, 10**50)
ROUNDED = sympy.Rational(1, 10**9)  # relative difference of equal numbers, one of them written with a decimal point
POINTS = 8

_CONFIG = ConversionConfig(interpret_as_mixed_fractions=False, lowercase_symbols=False)
_GREEK = (
    "alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|vartheta|kappa|lambda|mu|nu|xi|rho|sigma|tau|phi"
    "|varphi|chi|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Sigma|Phi|Psi|Omega|ell"
)
_LETTER = re.compile(
    rf"""
    \\(?:hat|vec|bar|overline|tilde|widehat|overrightarrow|dot|ddot|mathcal)\{{\\?\w+\}}
    | (?<=\{{)d[t-z](?=\}})                                         # \frac{{dy}}{{dx}}
    | (?:\\(?:{_GREEK})(?![A-Za-z])\s? | [A-Za-z])'*(?:_\{{[^{{}}]*\}})?
    | \\[A-Za-z]+
    """,
    re.VERBOSE,
)
_MIXED = re.compile(r"(?<![0-9.])([0-9]+)\\frac\{([0-9]+)\}\{([0-9]+)\}")
_OPENING = r"(?=\(|\\(?:frac|sqrt|binom|lfloor|lceil)(?![A-Za-z]))"
_DOUBLE = re.compile(r"\(\(([^()]*)\)\)")
_SUM_OVER_I = re.compile(r"_\{i=")


def same_expression(gold: str, answer: str) -> bool:
    """Whether two single expressions are equal; False where one of them cannot be read."""
    first, second = parse_both(gold, answer)
    if first is None or second is None:
        return False
    rounded = "." in gold + answer and not _symbols(first, second) and not (first.is_rational and second.is_rational)
    same = same_value(first, second, ROUNDED if rounded else EXACT)
    if same is None:  # math-verify's verdict is not symmetric
        pairs = ((first, second), (second, first))
        return any(verify(*pair, float_rounding=10, timeout_seconds=None) for pair in pairs)
    return same


def same_equation(gold: Sequence[str], answer: Sequence[str], *, positive: bool = False) -> bool:
    """Whether lhs - rhs of two relations are the same up to a constant factor, not zero (`positive`: above zero)."""
    left, right = map(parse_both, gold, answer)
    if not all(isinstance(side, sympy.Expr) for side in left + right):
        return False
    first, second = left[0] - right[0], left[1] - right[1]
    symbols = _symbols(first)
    if not symbols or symbols != _symbols(second):
        return False
    values = [(_value(first, point), _value(second, point)) for point in _points(symbols)]
    quotients = [u / v for u, v in values if u and v]
    if len(quotients) < 2 or (positive and sympy.re(quotients[0]) < 0):
        return False
    return all(_close(quotient, quotients[0], EXACT) for quotient in quotients)


def same_value(first: Any, second: Any, tolerance: Any = EXACT) -> bool | None:
    """Whether two expressions have the same value wherever both have one; None where no point gives any."""
    symbols = _symbols(first, second)
    everywhere = not symbols or first.has(sympy.I) or second.has(sympy.I)
    real, unreal = list[bool](), list[bool]()
    for point in _points(symbols, first, second):
        u, v = _value(first, point), _value(second, point)
        if u is not None and v is not None:
            # \ln x^2 is 2\ln x where both are real
            verdicts = real if everywhere or not (sympy.im(u) or sympy.im(v)) else unreal
            verdicts.append(_close(u, v, tolerance))
        if not all(real):
            return False
    if not symbols and real and tolerance == EXACT and first.is_rational and second.is_rational:
        return bool(first.doit() == second.doit())  # 100! is not 100! + 1
    return True if real else all(unreal) if unreal else None


def parse_both(gold: str, answer: str) -> tuple[Any, Any]:
    """Both as sympy expressions, i the imaginary unit in both or in neither; None for what cannot be read."""
    imaginary = not _SUM_OVER_I.search(gold + answer)
    return parse(gold, imaginary), parse(answer, imaginary)


@lru_cache(maxsize=512)
def parse(text: str, imaginary: bool = True) -> Any:
    """A cleaned answer as a sympy expression, None where it cannot be read."""
    try:
        parsed = latex2sympy(_engine_text(text), is_real=True, normalization_config=None, conversion_config=_CONFIG)
    except Exception:  # the parser's own, and whatever sympy raises on nonsense
        return None
    if isinstance(parsed, sympy.Expr):
        parsed = parsed.replace(lambda e: e.is_Float, lambda e: sympy.Rational(str(e)))
        if imaginary:
            parsed = parsed.subs({s: sympy.I for s in parsed.free_symbols if s.name == "i"})
    return parsed


def _engine_text(text: str) -> str:
    """The text as math-verify's parser reads it right, and soon: its time doubles with each bracket in a bracket."""
    while (plainer := _DOUBLE.sub(r"(\1)", text)) != text:
        text = plainer
    text = _MIXED.sub(lambda m: rf"({m[1]}+\frac{{{m[2]}}}{{{m[3]}}})" if int(m[2]) < int(m[3]) else m[0], text)
    text = re.sub(r"(?<![0-9.)}/])([0-9]+)/([0-9]+)(?=[A-Za-z\\(])", r"\\frac{\1}{\2}", text)  # 1/2x is x/2
    if r"\int" not in text:
        text = _LETTER.sub(_variable, text)
    text = re.sub(rf"(?<=[0-9)]){_OPENING}|(?<=\))(?=[0-9])", r"\\cdot ", text)
    return re.sub(r"(\\(?:frac|binom)\{[^{}]*\}\{[^{}]*\})(?=[0-9(]|\\(?:frac|sqrt|binom))", r"\1\\cdot ", text)


def _variable(match: re.Match[str]) -> str:
    token = match[0]
    if token in ("e", "i") or (token in ("f", "g") and match.string[match.end() : match.end() + 1] == "("):
        return token
    if re.fullmatch(rf"\\(?!(?:{_GREEK})(?![A-Za-z]))[A-Za-z]+", token):
        return token  # a command
    return rf"\variable{{{re.sub(r'[^A-Za-z0-9]', '', token.replace(chr(39), 'prime'))}}}"


def _points(symbols: list[Any], *expressions: Any) -> list[dict[Any, Any]]:
    """Points to compare at; small and large, positive and negative. A constant needs one, a sum whole numbers."""
    rng = random.Random(1)
    if symbols and any(e.has(sympy.Sum, sympy.Product) for e in expressions):
        return [{s: sympy.Integer(rng.randint(1, 12)) for s in symbols} for _ in range(POINTS)]
    return [  # never where a denominator such as 2x - 3 is zero
        {s: rng.choice((-3, -2, -1, 0, 0, 1, 7)) + sympy.Rational(rng.randrange(1, 997), 997) for s in symbols}
        for _ in range(POINTS if symbols else 1)
    ]


def _value(expression: Any, point: dict[Any, Any]) -> Any:
    """The value to DIGITS digits, None where there is none."""
    try:
        value = expression.evalf(DIGITS, subs=point, maxn=5 * DIGITS)
        parts = value.as_real_imag()
    except (ValueError, TypeError, ArithmeticError, NotImplementedError, AttributeError):
        return None
    if not all((part.is_Rational or part.is_Float) and part.is_finite for part in parts):
        return None
    # What cancels to fewer digits than a float has is zero: evalf looked at 5 * DIGITS of them.
    real, imaginary = (0 if part.is_Float and part._prec < 50 else part for part in parts)
    return real + imaginary * sympy.I


def _close(first: Any, second: Any, tolerance: Any) -> bool:
    size = max(abs(sympy.N(first, DIGITS)), abs(sympy.N(second, DIGITS)))
    return bool(abs(sympy.N(first - second, DIGITS)) <= tolerance * size)


def _symbols(*expressions: Any) -> list[Any]:
    return sorted(set().union(*(e.free_symbols for e in expressions)), key=str)
