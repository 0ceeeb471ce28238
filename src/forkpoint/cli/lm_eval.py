"""`forkpoint lm-eval`: strategies on the tasks of lm-eval, EleutherAI's evaluation harness."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from forkpoint.cli.finish import finish
from forkpoint.cli.options import EngineOptions, RunOptions, parse
from forkpoint.cli.setup import default_directory, engine_of
from forkpoint.types import AnswerKind, UserError

if TYPE_CHECKING:
    from forkpoint.evaluation.lm_eval_tasks import Tasks


@dataclass(frozen=True)
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
    strategy: list[str] = field(default_factory=list)
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


OPTIONS = LmEvalOptions


def run(argv: list[str]) -> None:
    """Check strategies and tasks, load the model, let lm-eval evaluate, print the figures."""
    options = parse("lm-eval", LmEvalOptions, argv)
    options = replace(
        options,
        strategy=options.strategy or ["greedy", "cot-decoding:k=10"],
        tasks=[name.strip() for names in options.tasks for name in names.split(",") if name.strip()],
    )
    _one_progress_bar()
    try:
        from forkpoint.evaluation.lm_eval import one_response_strategy
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("forkpoint"):
            raise
        raise UserError(f"lm-eval needs the package {error.name}: pip install 'forkpoint[lm-eval]'") from None
    from forkpoint.cli.progress import progress_bar
    from forkpoint.evaluation.lm_eval_tasks import RESULTS, directory_of, evaluate_tasks

    names = [directory_of(one_response_strategy(spec).spec) for spec in options.strategy]
    if twice := [spec for spec, name in zip(options.strategy, names, strict=True) if names.count(name) > 1]:
        raise UserError(f"the strategy {twice[0]} is given twice")
    tasks = _tasks(options)
    out = options.out or default_directory("lm-eval", options)
    engine = engine_of(options)
    with progress_bar(options.quiet, out) as progress:
        evaluate_tasks(
            engine, options.strategy, tasks, out, answer_kind=options.answer_kind, seed=options.seed, progress=progress
        )
    finish("lm-eval", argv, out, out / RESULTS)


def _tasks(options: LmEvalOptions) -> Tasks:
    from forkpoint.evaluation.lm_eval_tasks import TaskChoice, Tasks

    return Tasks(TaskChoice(
        tuple(options.tasks), options.include_path, options.data, options.fewshot_data, options.num_fewshot,
        options.limit, options.apply_chat_template,
    ))  # fmt: skip


def _one_progress_bar() -> None:
    """Keep lm-eval's and datasets' bars off: ours is shown in their place, and none where nobody looks."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if "datasets" in sys.modules:
        from datasets import disable_progress_bars

        disable_progress_bars()
