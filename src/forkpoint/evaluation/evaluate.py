"""Strategies on the same problems: decode, grade, compare; resumable, unit by unit.

A unit is one strategy on a fixed run of problems, so that its batches, and with them its last bits, do not depend on
where a run was interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from forkpoint.decoding.outcome import Case
from forkpoint.decoding.strategies import Strategy, parse_strategy
from forkpoint.engines import Engine
from forkpoint.engines.checks import check_room
from forkpoint.evaluation.results import StrategyTally, sample_row, summarize
from forkpoint.files import RESULTS, SAMPLES, Journal, fingerprint, resumed, write_rows
from forkpoint.tasks import render_prompt, stop_strings
from forkpoint.trajectories.rows import Row
from forkpoint.types import Problem, Progress, Results, UserError, check_texts

UNIT_PATHS = 640  # paths of one unit: enough to keep an engine busy, little to lose
Asked = tuple[Problem, Case]
Line = dict[str, object]  # of a sweep's plot: the strategy as given, the values, and the specs that make it up


def evaluate(
    engine: Engine,
    problems: Sequence[Problem],
    strategies: Sequence[str],
    *,
    task: str = "custom",
    prompt: str = "plain",
    max_tokens: int = 256,
    seed: int = 0,
    sweep: str | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Accuracy of each strategy on the problems, and each compared with the first one, in a sweep at the same value.

    `strategies` are specs such as "cot-decoding:k=10" (see `forkpoint.decoding.strategies`); `prompt` is a style of
    `forkpoint.tasks.prompts`; `sweep` is "option=v1,v2,...". With `out`, finished units are journalled there, a
    repeated call goes on where the last one stopped, and results.json and samples.jsonl are written at the end.

    Returns the content of results.json. Raises UserError for no problems, repeated ids, unknown or repeated
    strategies.
    """
    planned, lines = plan(strategies, sweep, max_tokens=max_tokens, stop=stop_strings(prompt), seed=seed)
    asked = _asked(engine, problems, prompt, planned)
    run: dict[str, Any] = {
        "verb": "eval", "model": engine.name, "task": task, "prompt": prompt, "seed": seed, "max_tokens": max_tokens,
    }  # fmt: skip
    identity = run | {"engine": dict(engine.settings), "strategies": [s.spec for s in planned], "sweep": sweep}
    if sweep is not None:
        run["sweep"] = {"option": _parse_sweep(sweep)[0], "lines": lines}

    def work(journal: Journal) -> Results:
        _run_units(engine, asked, planned, journal, progress)
        if out is not None:
            write_rows(out / SAMPLES, (row for entry in journal for row in entry["samples"]))
        return Results(summarize(run, _tallies(planned, journal)))

    if out is None:
        return work(Journal(None))
    return resumed(out, identity | {"problems": fingerprint([asdict(p) for p in problems])}, RESULTS, work)


def plan(specs: Sequence[str], sweep: str | None = None, **defaults: Any) -> tuple[list[Strategy], list[Line]]:
    """The strategies to run and the lines of the sweep's plot; `defaults` are sampling fields that specs leave open.

    A strategy without the sweep's option is run once. Raises UserError as `evaluate` does, and where none has it.
    """
    check_texts("strategies", specs)
    strategies = [parse_strategy(spec) for spec in specs]
    lines: list[Line] = []
    if not strategies:
        raise UserError("name at least one strategy, for example greedy")
    if sweep is not None:
        option, values = _parse_sweep(sweep)
        variants = [[s.with_option(option, v) for v in values] if s.takes(option) else [s] for s in strategies]
        lines = [
            {"strategy": s.spec, "values": [*map(float, values)], "specs": [variant.spec for variant in own]}
            for s, own in zip(strategies, variants, strict=True)
            if s.takes(option)
        ]
        if not lines:
            raise UserError(f"no given strategy has the option {option!r} to sweep")
        strategies = [variant for own in variants for variant in own]
    names = [s.spec for s in strategies]
    if twice := [spec for i, spec in enumerate(names) if spec in names[:i]]:
        raise UserError(f"the strategy {twice[0]} is given twice")
    return [s.with_defaults(**defaults) for s in strategies], lines


def _parse_sweep(text: str) -> tuple[str, list[str]]:
    """The option and the values, as written, of "k=1,2,5,10". UserError where that is not it."""
    option, _, body = text.partition("=")
    values = [v.strip() for v in body.split(",") if v.strip()]
    try:
        numbers = set(map(float, values))
    except ValueError:
        numbers = set()
    if not option.strip() or len(values) < 2 or not numbers or any(map(math.isnan, numbers)):
        raise UserError(f"a sweep is written OPTION=NUMBER,NUMBER,..., but is {text!r}")
    if len(numbers) < len(values):
        raise UserError(f"the sweep {text!r} names a value twice")
    return option.strip(), values


def _asked(engine: Engine, problems: Sequence[Problem], prompt: str, planned: Sequence[Strategy]) -> list[Asked]:
    """The problems with their prompts, all checked before anything is decoded or written."""
    if not problems:
        raise UserError("there are no problems to evaluate")
    if len({p.id for p in problems}) < len(problems):
        raise UserError("two problems have the same id; each needs its own")
    cases = [Case(p.id, render_prompt(p, prompt, engine.tokenizer), p.kind, p.options, p.question) for p in problems]
    room = max(s.sampling.max_tokens for s in planned)
    what = f"and a response of {room} tokens"
    check_room(engine, ((f"the prompt of {case.id} {what}", len(case.prompt) + room) for case in cases))
    return list(zip(problems, cases, strict=True))


def _run_units(
    engine: Engine, asked: Sequence[Asked], strategies: Sequence[Strategy], journal: Journal, progress: Progress | None
) -> None:
    """Do and journal every unit that is not in the journal yet."""
    n = len(asked)
    sizes = [max(1, UNIT_PATHS // strategy.n_paths()) for strategy in strategies]
    units = [(s, slice(start, start + size)) for s, size in enumerate(sizes) for start in range(0, n, size)]
    finished = {tuple(entry["unit"]) for entry in journal}
    todo = [(strategies[s], asked[part]) for s, part in units if (s, part.start) not in finished]
    tokens, started = 0, time.monotonic()
    results = engine.map(_solve_unit, todo)
    for s, part in units:
        if (s, part.start) not in finished:
            rows = next(results)
            seconds, started = time.monotonic() - started, time.monotonic()
            journal.append({"unit": [s, part.start], "seconds": seconds, "samples": rows})
            tokens += sum(row["tokens_generated"] for row in rows)
        if progress:
            progress(strategies[s].spec, s * n + min(part.stop, n), n * len(strategies), tokens)


def _solve_unit(engine: Engine, unit: tuple[Strategy, Sequence[Asked]]) -> list[Row]:
    """The rows of samples.jsonl of one strategy on a few problems."""
    strategy, asked = unit
    outcomes = strategy.solve(engine, [case for _, case in asked])
    return [sample_row(*one, strategy, outcome) for one, outcome in zip(asked, outcomes, strict=True)]


def _tallies(strategies: Sequence[Strategy], journal: Journal) -> list[StrategyTally]:
    tallies = [StrategyTally(strategy) for strategy in strategies]
    for entry in journal:
        tally = tallies[entry["unit"][0]]
        tally.seconds += entry["seconds"]
        for row in entry["samples"]:
            tally.add(row)
    return tallies
