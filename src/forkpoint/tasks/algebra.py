"""Two LaTeX expressions compared by math-verify. Imports sympy: only a grading worker imports this module.

The call may never return and may exhaust memory or the C stack; that is why it lives in a process of its own.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from latex2sympy2_extended import NormalizationConfig  # type: ignore[import-untyped]
from math_verify import LatexExtractionConfig, parse, verify

_CONFIG = LatexExtractionConfig(
    boxed_match_priority=-1,
    normalization_config=NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=False, nits=False, boxed="none", equations=False
    ),
)


def same_expression(gold: str, answer: str) -> bool:
    """Whether two single expressions are equal; False where one of them cannot be read.

    Floating-point comparison to 10 decimals: a rounded answer is not the exact one.
    """
    gold_parsed, answer_parsed = _parsed(gold), _parsed(answer)
    if not gold_parsed or not answer_parsed:
        return False
    return bool(
        verify(
            gold_parsed,
            answer_parsed,
            float_rounding=10,
            allow_set_relation_comp=True,
            timeout_seconds=None,
        )
    )


@lru_cache(maxsize=512)
def _parsed(expression: str) -> list[Any]:
    # Wrapped as a formula: bare LaTeX is only half read. No timeout of its own: it would need SIGALRM.
    return list(parse(f"${expression}$", [_CONFIG], fallback_mode="no_fallback", parsing_timeout=None))
