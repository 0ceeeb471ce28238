"""One numeric option over several values: `option=v1,v2,...` turns each strategy into one per value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forkpoint.decoding.strategies import Strategy
from forkpoint.types import UserError


@dataclass(frozen=True, slots=True)
class Sweep:
    """The swept option and its values, as written."""

    option: str
    values: tuple[str, ...]


def parse_sweep(text: str) -> Sweep:
    """A `Sweep` from "k=1,2,5,10". Raises UserError where it is not one option with at least two numbers."""
    option, equals, body = text.partition("=")
    values = tuple(v.strip() for v in body.split(",") if v.strip())
    if not option.strip() or not equals or len(values) < 2 or not all(map(_is_number, values)):
        raise UserError(f"a sweep is written OPTION=NUMBER,NUMBER,..., but is {text!r}")
    if len(set(map(float, values))) < len(values):
        raise UserError(f"the sweep {text!r} names a value twice")
    return Sweep(option.strip(), values)


def expand(strategies: Sequence[Strategy], sweep: Sweep) -> tuple[list[Strategy], list[dict[str, object]]]:
    """The strategies to run, and the lines of the plot: base strategy, values, and the specs that make it up.

    Strategies without the option are run once, as they are. Raises UserError where none has it.
    """
    run: list[Strategy] = []
    lines: list[dict[str, object]] = []
    for strategy in strategies:
        if not strategy.takes(sweep.option):
            run.append(strategy)
            continue
        variants = [strategy.with_option(sweep.option, value) for value in sweep.values]
        run += variants
        lines.append({
            "strategy": strategy.spec,
            "values": [float(v) for v in sweep.values],
            "specs": [v.spec for v in variants],
        })  # fmt: skip
    if not lines:
        raise UserError(f"no given strategy has the option {sweep.option!r} to sweep")
    return run, lines


def _is_number(text: str) -> bool:
    try:
        return float(text) == float(text)
    except ValueError:
        return False
