"""Which values a sampler's parameters may take."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from forkpoint.types import Sampling, UserError

LEAST_TEMPERATURE = 1e-3
"""Under it, logits divided by the temperature near the end of float32; 0 says greedy exactly."""

_FRACTION = (lambda v: 0 <= v <= 1, "between 0 (off) and 1")
_MASS = (lambda v: 0 < v <= 1, "above 0 and at most 1 (off)")
_CUTOFF = (lambda v: 0 <= v < 1, "at least 0 (off) and below 1")

_NOUNS = {bool: "true or false", int: "a whole number", float: "a number"}

LIMITS: dict[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (
        lambda v: v == 0 or LEAST_TEMPERATURE <= v < math.inf,
        f"0 (greedy) or at least {LEAST_TEMPERATURE}",
    ),
    "top_n_sigma": (lambda v: -math.inf < v < math.inf, "a finite number (0 or less is off)"),
    "min_k": (lambda v: 0 <= v < math.inf, "0 (off) or a positive number (the paper's is 3.0)"),
    "min_p_first": _FRACTION,
    "top_h": _FRACTION,
    "top_k": (lambda v: v >= 0 and isinstance(v, int), "0 (off) or a positive whole number"),
    "top_p": _MASS,
    "min_p": _FRACTION,
    "typical_p": _MASS,
    "epsilon_cutoff": _CUTOFF,
    "eta_cutoff": _CUTOFF,
    "max_tokens": (lambda v: v >= 1 and isinstance(v, int), "a positive whole number"),
}


def check(name: str, value: float) -> None:
    """Raise UserError if `value` is out of range, or NaN, for the field `name` of `Sampling`."""
    allowed, meaning = LIMITS[name]
    if not allowed(value):
        raise UserError(f"{name} must be {meaning}, but is {value}")


def parse_value(text: str, kind: type, what: str) -> Any:
    """The value of a type that a text gives; UserError naming `what` it is of."""
    try:
        return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise UserError(f"{what} must be {_NOUNS[kind]}, but is {text!r}") from None


def validate(sampling: Sampling) -> None:
    """Raise UserError, naming the field, for the first value out of range or NaN; truncations also when greedy."""
    for name in LIMITS:
        check(name, getattr(sampling, name))
    if "" in sampling.stop:
        raise UserError("a stop string must not be empty")
