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

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from forkpoint.decoding import cot, sampled
from forkpoint.decoding.outcome import Case, Outcome
from forkpoint.engines import Engine
from forkpoint.types import Sampling, UserError, sampling_fields

Value = bool | int | float | str

_OPTIONS: dict[str, dict[str, Value]] = {
    "greedy": {},
    "sample": {"n": 1},
    "beam": {"beams": 4},
    "self-consistency": {"n": 10},
    "cot-decoding": {"k": 10, "aggregate": False, "span": "extract", "position": "0"},
    "pass@k": {"k": 8, "n": 16},
}
_DRAWS = {"sample", "self-consistency", "pass@k"}
_NOT_IN_SPECS = {"seed", "stop"}
_LEAST_ONE = {"n", "k", "beams"}


@dataclass(frozen=True)
class Strategy:
    """A parsed strategy: its name, the text it came from, its own options, and its sampling.

    `fixed` are the sampling fields that the text set; the others may be filled in by the caller.
    """

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
        """How many responses a problem takes, roughly; used to size the unit of work."""
        return int(max(self.options.get(key, 1) for key in ("n", "k", "beams")))

    def graded_paths(self) -> bool:
        """Whether each path counts towards the score, not only the chosen one."""
        return self.name in ("sample", "pass@k")

    def tries(self) -> int:
        """How many graded paths make one try: k of pass@k."""
        return int(self.options["k"]) if self.name == "pass@k" else 1

    def solve(self, engine: Engine, cases: Sequence[Case]) -> list[Outcome]:
        """One outcome a case, in order."""
        return _SOLVERS[self.name](engine, cases, self.sampling, self.options)


_SOLVERS: dict[str, Callable[[Engine, Sequence[Case], Sampling, dict[str, Any]], list[Outcome]]] = {
    "greedy": lambda engine, cases, sampling, o: sampled.greedy(engine, cases, sampling),
    "sample": lambda engine, cases, sampling, o: sampled.sample(engine, cases, sampling, n=o["n"]),
    "beam": lambda engine, cases, sampling, o: sampled.beam(engine, cases, sampling, beams=o["beams"]),
    "self-consistency": lambda engine, cases, sampling, o: sampled.self_consistency(engine, cases, sampling, n=o["n"]),
    "cot-decoding": lambda engine, cases, sampling, o: cot.decode_cases(engine, cases, sampling, **o),
    "pass@k": lambda engine, cases, sampling, o: sampled.sample(engine, cases, sampling, n=o["n"]),
}


def parse_strategy(spec: str) -> Strategy:
    """The strategy that a text describes. Raises UserError, in one sentence, for anything unknown or out of range."""
    name, _, body = spec.strip().partition(":")
    if name not in _OPTIONS:
        first, _, rest = name.partition(",")
        if rest and first in _OPTIONS:
            raise UserError(f"the options of a strategy follow a colon: {first}:{rest}, not {name}")
        raise UserError(f"unknown strategy {name!r}{_nearest(name, _OPTIONS)}; there are {', '.join(_OPTIONS)}")
    known = _known_options(name)
    given: dict[str, Value] = {}
    for part in filter(None, (p.strip() for p in body.split(","))):
        key, equals, text = (s.strip() for s in part.partition("="))
        if not equals or not text:
            raise UserError(f"option {part!r} of {name} has no value; write {key}=VALUE")
        if key not in known:
            raise UserError(f"{name} has no option {key!r}{_nearest(key, known)}; it takes {', '.join(known)}")
        if key in given:
            raise UserError(f"{name} is given the option {key!r} twice")
        given[key] = _convert(name, key, text, known[key])
    options = {key: given.get(key, default) for key, default in _OPTIONS[name].items()}
    fields: dict[str, Any] = {key: value for key, value in given.items() if key not in options}
    strategy = Strategy(name, spec.strip(), options, Sampling(**fields), frozenset(fields))
    _check(strategy)
    return strategy


def _known_options(name: str) -> dict[str, Value]:
    """The options a strategy takes, each with a default that shows its type."""
    sampling = {f: getattr(Sampling(), f) for f in sampling_fields() if f not in _NOT_IN_SPECS}
    if name not in _DRAWS:
        sampling = {"max_tokens": sampling["max_tokens"]}
    return _OPTIONS[name] | sampling


def _convert(name: str, key: str, text: str, like: Value) -> Value:
    kind = type(like)
    if kind is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise UserError(f"option {key} of {name} must be true or false, but is {text!r}")
    try:
        return kind(text)
    except ValueError:
        wanted = {int: "a whole number", float: "a number"}[kind]
        raise UserError(f"option {key} of {name} must be {wanted}, but is {text!r}") from None


def _check(strategy: Strategy) -> None:
    from forkpoint.sampling.limits import validate

    validate(strategy.sampling)
    for key, value in strategy.options.items():
        if key in _LEAST_ONE and int(value) < 1:
            raise UserError(f"option {key} of {strategy.name} must be at least 1, but is {value}")
    if strategy.name == "pass@k" and strategy.options["k"] > strategy.options["n"]:  # type: ignore[operator]
        raise UserError(f"pass@k needs k of at most n, but k={strategy.options['k']} and n={strategy.options['n']}")
    if strategy.name == "cot-decoding":
        cot.check_options(str(strategy.options["span"]), str(strategy.options["position"]))
    if strategy.name in _DRAWS and strategy.sampling.temperature == 0 and strategy.n_paths() > 1:
        raise UserError(f"{strategy.spec} draws equal responses at temperature 0; use greedy or a temperature above 0")


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
