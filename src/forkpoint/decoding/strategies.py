"""Strategies by name: `name:key=value,key=value`, parsed and checked before anything runs.

    greedy
    sample:n=1,<sampling>             the mean over n responses is the score of a problem
    beam:beams=4
    self-consistency:n=10,<sampling>
    cot-decoding:k=10,aggregate=false,span=extract,position=0
    pass@k:k=8,n=16,<sampling>        unbiased pass@k from n responses

`<sampling>` stands for any field of `Sampling`: temperature, top_n_sigma, min_p, ... (max_tokens too, everywhere).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from forkpoint.decoding import cot, sampled
from forkpoint.decoding.outcome import Case, Outcome
from forkpoint.engines import Engine
from forkpoint.sampling.limits import parse_value, validate
from forkpoint.types import Sampling, UserError, nearest, sampling_fields

Value = bool | int | float | str

STRATEGIES: dict[str, tuple[Callable[..., list[Outcome]], dict[str, Value]]] = {
    "greedy": (sampled.greedy, {}),
    "sample": (sampled.sample, {"n": 1}),
    "beam": (sampled.beam, {"beams": 4}),
    "self-consistency": (sampled.self_consistency, {"n": 10}),
    "cot-decoding": (cot.decode_cases, {"k": 10, "aggregate": False, "span": "extract", "position": "0"}),
    "pass@k": (lambda *of, k, n: sampled.sample(*of, n=n), {"k": 8, "n": 16}),
}
"""A function of engine, cases, sampling and its own options; these with their defaults, which show their types."""

DRAWS = {"sample", "self-consistency", "pass@k"}  # take the sampling fields


@dataclass(frozen=True)
class Strategy:
    """A parsed strategy: its name, the text it came from, its own options, and its sampling, `fixed` by the text."""

    name: str
    spec: str
    options: dict[str, Value]
    sampling: Sampling = field(default_factory=Sampling)
    fixed: frozenset[str] = frozenset()

    def with_defaults(self, **fields: Any) -> Strategy:
        """The strategy with sampling fields set where its text left them open."""
        left_open = {k: v for k, v in fields.items() if k not in self.fixed}
        filled = replace(self, sampling=replace(self.sampling, **left_open))
        _check(filled)
        return filled

    def with_option(self, key: str, value: str) -> Strategy:
        """The strategy of the same text with one option set to another value."""
        name, _, body = self.spec.partition(":")
        kept = [part for part in body.split(",") if part and part.partition("=")[0].strip() != key]
        return parse_strategy(f"{name}:{','.join([*kept, f'{key}={value}'])}")

    def takes(self, key: str) -> bool:
        """Whether the strategy has an option of that name."""
        return key in _known_options(self.name)

    def n_paths(self) -> int:
        """How many responses a problem takes, roughly: it sizes the unit of work."""
        return int(max(self.options.get(key, 1) for key in ("n", "k", "beams")))

    def graded_paths(self) -> bool:
        """Whether each path counts towards the score, not only the chosen one."""
        return self.name in ("sample", "pass@k")

    def tries(self) -> int:
        """How many graded paths make one try: k of pass@k."""
        return int(self.options["k"]) if self.name == "pass@k" else 1

    def solve(self, engine: Engine, cases: Sequence[Case]) -> list[Outcome]:
        """One outcome a case, in order."""
        return STRATEGIES[self.name][0](engine, cases, self.sampling, **self.options)


def parse_strategy(spec: str) -> Strategy:
    """The strategy that a text describes. Raises UserError, in one sentence, for anything unknown or out of range."""
    name, _, body = spec.strip().partition(":")
    if name not in STRATEGIES:
        first, _, rest = name.partition(",")
        if rest and first in STRATEGIES:
            raise UserError(f"the options of a strategy follow a colon: {first}:{rest}, not {name}")
        near = nearest(name, STRATEGIES, " ({})")
        raise UserError(f"unknown strategy {name!r}{near}; there are {', '.join(STRATEGIES)}")
    known, values = _known_options(name), dict[str, Any]()
    for part in filter(None, (p.strip() for p in body.split(","))):
        key, equals, text = (s.strip() for s in part.partition("="))
        if not equals or not text:
            raise UserError(f"option {part!r} of {name} has no value; write {key}=VALUE")
        if key not in known:
            raise UserError(f"{name} has no option {key!r}{nearest(key, known, ' ({})')}; it takes {', '.join(known)}")
        if key in values:
            raise UserError(f"{name} is given the option {key!r} twice")
        values[key] = parse_value(text, type(known[key]), f"option {key} of {name}")
    options = {key: values.pop(key, default) for key, default in STRATEGIES[name][1].items()}
    strategy = Strategy(name, spec.strip(), options, Sampling(**values), frozenset(values))
    _check(strategy)
    return strategy


def _known_options(name: str) -> dict[str, Value]:
    """The options of a strategy, each with a default that shows its type."""
    taken = [f for f in sampling_fields() if f not in ("seed", "stop")] if name in DRAWS else ["max_tokens"]
    return STRATEGIES[name][1] | {f: getattr(Sampling(), f) for f in taken}


def _check(strategy: Strategy) -> None:
    validate(strategy.sampling)
    for key, value in strategy.options.items():
        if key in ("n", "k", "beams") and int(value) < 1:
            raise UserError(f"option {key} of {strategy.name} must be at least 1, but is {value}")
    if strategy.name == "pass@k" and strategy.tries() > int(strategy.options["n"]):
        raise UserError(f"pass@k needs k of at most n, but k={strategy.options['k']} and n={strategy.options['n']}")
    if strategy.name == "cot-decoding":
        cot.check_options(str(strategy.options["span"]), str(strategy.options["position"]))
    if strategy.name in DRAWS and strategy.sampling.temperature == 0 and strategy.n_paths() > 1:
        raise UserError(f"{strategy.spec} draws equal responses at temperature 0; use greedy or a temperature above 0")
