"""`forkpoint eval`: several decoding strategies on the same problems, with paired statistics."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from forkpoint.cli.finish import finish
from forkpoint.cli.options import EngineOptions, RunOptions, TaskOptions, parse
from forkpoint.cli.setup import default_directory, engine_of, max_tokens_of, problems_of


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


OPTIONS = EvalOptions  # a recipe checks its stages against it


def run(argv: list[str]) -> None:
    """Parse the arguments, evaluate, print the table, write the page."""
    options = parse("eval", EvalOptions, argv)
    strategies = options.strategy or ["greedy", "cot-decoding:k=10"]
    problems = problems_of(options)
    max_tokens = max_tokens_of(options.task, options.max_tokens)
    from forkpoint.evaluation.evaluate import evaluate, plan

    plan(strategies, options.sweep, max_tokens=max_tokens)  # a wrong strategy is an error before the model is loaded
    out = options.out or default_directory("eval", replace(options, strategy=strategies))
    from forkpoint.cli.progress import progress_bar

    engine = engine_of(options)
    with progress_bar(options.quiet, out) as progress:
        evaluate(
            engine, problems, strategies, task=options.task, prompt=options.prompt, max_tokens=max_tokens,
            seed=options.seed, sweep=options.sweep, out=out, progress=progress,
        )  # fmt: skip
    finish("eval", argv, out)
