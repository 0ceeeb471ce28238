"""`forkpoint eval`: several decoding strategies on the same problems, with paired statistics."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from forkpoint.cli.options import EngineOptions, RunOptions, TaskOptions, parse
from forkpoint.files import to_json
from forkpoint.types import Problem


@dataclass(frozen=True)
class EvalOptions(RunOptions, TaskOptions, EngineOptions):
    """Compare decoding strategies on the same problems.

    Each --strategy is NAME or NAME:KEY=VALUE,KEY=VALUE; the others are compared with the first, problem by problem.
    Writes results.json, samples.jsonl and report.html; started again, the same command goes on where it stopped.
    """

    strategy: list[str] = field(default_factory=list)
    """greedy, sample:temperature=1.5,top_n_sigma=1, beam:beams=4, self-consistency:n=10, cot-decoding:k=10,
    pass@k:k=8,n=16; repeatable (default: greedy and cot-decoding:k=10)"""
    sweep: str | None = None
    """one numeric option over several values, OPTION=V1,V2,...: each strategy that has it runs once per value"""
    prompt: str = "plain"
    """plain (Q and A), cot (let's think step by step), few-shot, or chat (the tokenizer's template)"""
    max_tokens: int | None = None
    """longest response in tokens (default: by task)"""
    seed: int = 0
    """seed of every random draw"""


def run(argv: list[str]) -> None:
    """Parse the arguments, evaluate, print the table, write the page."""
    options = parse("eval", EvalOptions, argv)
    strategies = options.strategy or ["greedy", "cot-decoding:k=10"]
    problems, max_tokens = _problems(options)
    from forkpoint.evaluation.evaluate import evaluate, plan

    plan(strategies, options.sweep, max_tokens=max_tokens)  # a wrong strategy is an error before the model is loaded
    out = options.out or _default_directory(options, strategies)
    from forkpoint.cli.progress import progress_bar
    from forkpoint.cli.tables import print_evaluation
    from forkpoint.engines import load_engine
    from forkpoint.report import write_report

    engine = load_engine(
        options.model, device=options.device, dtype=options.dtype, attn_implementation=options.attn_implementation,
        revision=options.revision, trust_remote_code=options.trust_remote_code, memory_gib=options.memory_gib,
    )  # fmt: skip
    with progress_bar(options.quiet) as progress:
        results = evaluate(
            engine, problems, strategies, task=options.task, prompt=options.prompt, max_tokens=max_tokens,
            seed=options.seed, sweep=options.sweep, out=out, progress=progress,
        )  # fmt: skip
    page = write_report(out)
    print_evaluation(results)
    print(f"\n{page}")


def _problems(options: EvalOptions) -> tuple[list[Problem], int]:
    """The problems, and the longest response: as asked for, or by task."""
    from forkpoint.tasks import TASKS, load_problems

    problems = load_problems(
        options.task, data=options.data, split=options.split, limit=options.limit, kind=options.kind,
        question_column=options.question_column, answer_column=options.answer_column,
        options_column=options.options_column,
    )  # fmt: skip
    return problems, TASKS[options.task].max_tokens if options.max_tokens is None else options.max_tokens


def _default_directory(options: EvalOptions, strategies: list[str]) -> Path:
    """runs/eval-TASK-HASH: another configuration gets another directory, the same one is resumed."""
    settings: dict[str, Any] = {k: v for k, v in asdict(options).items() if k not in ("out", "quiet")}
    digest = hashlib.blake2b(to_json(settings | {"strategy": strategies}).encode(), digest_size=4).hexdigest()
    return Path("runs") / f"eval-{options.task}-{digest}"
