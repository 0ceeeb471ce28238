"""`forkpoint eval` and `forkpoint lm-eval`: decoding strategies on a task of ours, or on those of lm-eval."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from forkpoint.cli.option_groups import EngineOptions, RunOptions, TaskOptions, values_of
from forkpoint.cli.progress import progress_bar
from forkpoint.cli.setup import engine_of, max_tokens_of, problems_of
from forkpoint.cli.verb import Verb
from forkpoint.types import AnswerKind, UserError

DEFAULT = ("greedy", "cot-decoding:k=10")


@dataclass
class EvalOptions(RunOptions, TaskOptions, EngineOptions):
    """Compare decoding strategies on the same problems.

    Each --strategy is NAME or NAME:KEY=VALUE,KEY=VALUE; the others are compared with the first, problem by problem.
    Writes results.json, samples.jsonl and report.html; started again, the same command goes on where it stopped.
    """

    strategy: list[str] = field(default_factory=lambda: [*DEFAULT])
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


@dataclass
class LmEvalOptions(RunOptions, EngineOptions):
    """Run tasks of lm-eval (EleutherAI's evaluation harness) with decoding strategies.

    Each --strategy answers the same tasks apart from the others. Writes lm-eval's results and samples, and
    report.html, a page about them; started again, the same command goes on where it stopped.
    """

    tasks: list[str] = field(default_factory=list)
    """tasks, groups or tags of lm-eval, or task files; repeatable, or separated by commas"""
    include_path: str | None = None
    """directory with more task files"""
    data: str | None = None
    """local JSON Lines file, in the columns of the task's data set, to read in place of the Hub"""
    fewshot_data: str | None = None
    """the same for the examples of few-shot prompts (default: --data, without the question at hand)"""
    strategy: list[str] = field(default_factory=lambda: [*DEFAULT])
    """greedy, sample, beam, self-consistency or cot-decoding, with options as in forkpoint eval; repeatable (default:
    greedy and cot-decoding:k=10)"""
    answer_kind: AnswerKind = "number"
    """how cot-decoding and self-consistency read answers: number, math, option or yesno"""
    num_fewshot: int | None = None
    """examples in each prompt (default: the task's own number)"""
    apply_chat_template: bool = False
    """prompts in the tokenizer's chat template"""
    limit: int | None = None
    """only the first N questions of each task"""
    seed: int = 0
    """seed of the strategies' draws; lm-eval keeps its own for the choice of examples"""


def evaluate_strategies(options: EvalOptions, out: Path) -> list[Path]:
    """Answer the problems by each strategy."""
    problems = problems_of(options)
    max_tokens = max_tokens_of(options.task, options.max_tokens)
    from forkpoint.evaluation.evaluate import evaluate, plan

    plan(options.strategy, options.sweep, max_tokens=max_tokens)  # before the model is loaded
    engine = engine_of(options)
    with progress_bar(options.quiet) as progress:
        evaluate(
            engine, problems, options.strategy, task=options.task, prompt=options.prompt, max_tokens=max_tokens,
            seed=options.seed, sweep=options.sweep, out=out, progress=progress,
        )  # fmt: skip
    return []


def evaluate_by_lm_eval(options: LmEvalOptions, out: Path) -> list[Path]:
    """Let lm-eval ask and grade, and answer by each strategy."""
    _keep_other_bars_off()
    try:
        from forkpoint.evaluation.lm_eval import one_response_strategy
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("forkpoint"):
            raise
        raise UserError(f"lm-eval needs the package {error.name}: pip install 'forkpoint[lm-eval]'") from None
    from forkpoint.evaluation.lm_eval_tasks import RESULTS, TaskChoice, Tasks, directory_of, evaluate_tasks

    names = [directory_of(one_response_strategy(spec).spec) for spec in options.strategy]
    if twice := [spec for spec, name in zip(options.strategy, names, strict=True) if names.count(name) > 1]:
        raise UserError(f"the strategy {twice[0]} is given twice")
    tasks = [name.strip() for names in options.tasks for name in names.split(",") if name.strip()]
    prepared = Tasks(TaskChoice(**values_of(options, TaskChoice, names=tuple(tasks))))
    engine = engine_of(options)
    with progress_bar(options.quiet) as progress:
        evaluate_tasks(
            engine, options.strategy, prepared, out, answer_kind=options.answer_kind, seed=options.seed,
            progress=progress,
        )  # fmt: skip
    return [out / RESULTS]


def _keep_other_bars_off() -> None:
    """Our progress bar stands in place of lm-eval's and datasets'."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if "datasets" in sys.modules:
        from datasets import disable_progress_bars

        disable_progress_bars()


VERBS = (
    Verb("eval", EvalOptions, evaluate_strategies),
    Verb("lm-eval", LmEvalOptions, evaluate_by_lm_eval),
)
