"""Strategies on the same problems: decode, grade, compare; resumable, unit by unit.

A unit is one strategy on a fixed run of problems, so that its batches, and with them its last bits, do not depend on
where a run was interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from forkpoint.decoding.outcome import Case
from forkpoint.decoding.strategies import Strategy, parse_strategy
from forkpoint.engines import Engine
from forkpoint.evaluation.results import StrategyTally, summarize
from forkpoint.evaluation.samples import Row, sample_row
from forkpoint.evaluation.sweep import expand, parse_sweep
from forkpoint.files import (
    JOURNAL,
    Journal,
    claimed,
    fingerprint,
    read_json,
    to_json,
    write_whole,
)
from forkpoint.tasks import render_prompt, stop_strings
from forkpoint.types import Problem, Results, UserError, check_texts

UNIT_PATHS = 640  # paths of one unit: enough to keep an engine busy, little to lose
RESULTS, SAMPLES = "results.json", "samples.jsonl"
Progress = Callable[[str, int, int, int], None]
"""Called after each unit with the strategy, problems done, problems in all, tokens generated so far."""


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
    cases = _cases(engine, problems, prompt, planned)
    run: dict[str, Any] = {"verb": "eval", "model": engine.name, "task": task, "prompt": prompt, "seed": seed}
    run["max_tokens"] = max_tokens
    identity = run | {
        "engine": dict(engine.settings),
        "strategies": [s.spec for s in planned],
        "sweep": sweep,
    }
    if sweep is not None:
        run["sweep"] = {"option": parse_sweep(sweep).option, "lines": lines}

    def finish(journal: Journal) -> Results:
        _run_units(engine, problems, cases, planned, journal, progress)
        return Results(summarize(run, _tallies(planned, journal)))

    if out is None:
        return finish(Journal(None))
    with claimed(out, identity | {"problems": fingerprint([asdict(p) for p in problems])}):
        if not (out / RESULTS).exists():
            journal = Journal(out / JOURNAL)
            results = finish(journal)
            write_whole(out / SAMPLES, (to_json(row) + "\n" for entry in journal for row in entry["samples"]))
            write_whole(out / RESULTS, to_json(results, indent=2) + "\n")
        (out / JOURNAL).unlink(missing_ok=True)
    return Results(read_json(out / RESULTS))


def _cases(engine: Engine, problems: Sequence[Problem], prompt: str, planned: Sequence[Strategy]) -> list[Case]:
    """The problems as prompts, all checked before anything is decoded or written."""
    if not problems:
        raise UserError("there are no problems to evaluate")
    if len({p.id for p in problems}) < len(problems):
        raise UserError("two problems have the same id; each needs its own")
    cases = [Case(p.id, render_prompt(p, prompt, engine.tokenizer), p.kind, p.options, p.question) for p in problems]
    room = max(s.sampling.max_tokens for s in planned)
    for case in cases:
        if engine.context and len(case.prompt) + room > engine.context:
            raise UserError(
                f"the prompt of {case.id} has {len(case.prompt)} tokens and a response may have {room}, "
                f"but {engine.name} reads at most {engine.context}"
            )
    return cases


def plan(
    specs: Sequence[str], sweep: str | None = None, **defaults: Any
) -> tuple[list[Strategy], list[dict[str, object]]]:
    """The strategies to run and the lines of the sweep's plot; `defaults` are sampling fields that specs leave open.

    Raises UserError as `evaluate` does.
    """
    check_texts("strategies", specs)
    strategies = [parse_strategy(spec) for spec in specs]
    lines: list[dict[str, object]] = []
    if not strategies:
        raise UserError("name at least one strategy, for example greedy")
    if sweep is not None:
        strategies, lines = expand(strategies, parse_sweep(sweep))
    twice = [s.spec for i, s in enumerate(strategies) if s.spec in {t.spec for t in strategies[:i]}]
    if twice:
        raise UserError(f"the strategy {twice[0]} is given twice")
    return [s.with_defaults(**defaults) for s in strategies], lines


def _units(strategies: Sequence[Strategy], n_problems: int) -> Iterator[tuple[int, slice]]:
    """(strategy, problems) in the order in which they run."""
    for s, strategy in enumerate(strategies):
        size = max(1, UNIT_PATHS // strategy.n_paths())
        for start in range(0, n_problems, size):
            yield s, slice(start, min(start + size, n_problems))


def _run_units(
    engine: Engine,
    problems: Sequence[Problem],
    cases: Sequence[Case],
    strategies: Sequence[Strategy],
    journal: Journal,
    progress: Progress | None,
) -> None:
    """Do and journal every unit that is not in the journal yet."""
    finished = {tuple(entry["unit"]) for entry in journal}
    units = list(_units(strategies, len(problems)))
    todo = [(strategies[s], problems[part], cases[part]) for s, part in units if (s, part.start) not in finished]
    tokens, started = 0, time.monotonic()
    results = engine.map(_solve_unit, todo)
    for s, part in units:
        if (s, part.start) not in finished:
            rows = next(results)
            seconds, started = time.monotonic() - started, time.monotonic()
            journal.append({"unit": [s, part.start], "seconds": seconds, "samples": rows})
            tokens += sum(row["tokens_generated"] for row in rows)
        if progress:
            progress(strategies[s].spec, s * len(problems) + part.stop, len(problems) * len(strategies), tokens)


def _solve_unit(engine: Engine, unit: tuple[Strategy, Sequence[Problem], Sequence[Case]]) -> list[Row]:
    """The rows of samples.jsonl of one strategy on a few problems."""
    strategy, problems, cases = unit
    outcomes = strategy.solve(engine, cases)
    return [
        sample_row(engine.tokenizer, problem, case.prompt, strategy, outcome)
        for problem, case, outcome in zip(problems, cases, outcomes, strict=True)
    ]


def _tallies(strategies: Sequence[Strategy], journal: Journal) -> list[StrategyTally]:
    tallies = [StrategyTally(strategy.spec, [], strategy.tries()) for strategy in strategies]
    for entry in journal:
        tally = tallies[entry["unit"][0]]
        tally.seconds += entry["seconds"]
        for row in entry["samples"]:
            tally.add(row, strategies[entry["unit"][0]].graded_paths())
    return tallies
