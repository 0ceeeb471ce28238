"""`forkpoint contrast`: which tokens are likely critical, by models tuned on right and on wrong responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from forkpoint.cli.finish import finish
from forkpoint.cli.options import LocalOptions, RunOptions, SamplingOptions, TaskOptions, parse
from forkpoint.cli.setup import (
    announce_sampling,
    announce_time,
    default_directory,
    local_engine_of,
    problems_of,
    sampling_of,
)
from forkpoint.cli.training import module_names
from forkpoint.types import Problem, Trajectory, UserError


@dataclass(frozen=True)
class ContrastOptions(RunOptions, SamplingOptions, TaskOptions, LocalOptions):
    """Score every token of given trajectories by contrastive estimation: a low s marks a likely critical token.

    Samples responses to training problems, tunes one LoRA adapter on right and one on wrong ones, and scores the
    trajectories with both. --task, --data, --split and --limit say which problems the trajectories to score are of;
    those problems are left out of the training ones. Writes samples.jsonl, positive/, negative/, scores.jsonl,
    summary.json and report.html; started again, the same command goes on where it stopped.
    """

    trajectories: Path | None = None
    """trajectories to score: an eval run or its samples.jsonl, critical.jsonl, or JSON Lines with problem_id,
    prompt_ids and token_ids (default: those of --against, else the wrong ones of the samples)"""
    against: Path | None = None
    """critical.jsonl of `forkpoint critical`: report how well the scores find its critical tokens"""
    samples: Path | None = None
    """responses to the training problems, several each, to tune on in place of sampling them"""
    train_split: str = "train"
    """the split of the training problems"""
    train_data: str | None = None
    """local file of the training problems (default: --data)"""
    train_limit: int | None = None
    """only the first N training problems"""
    n: int = 64
    """responses sampled for each training problem"""
    beta: float = 1.0
    """weight of the contrast: log s = (1+beta) log p+ - beta log p- - log Z"""
    rank: int = 8
    """rank of the adapters"""
    alpha: float = 16.0
    """scale of the adapters: alpha / rank"""
    learning_rate: float = 3e-4
    """highest learning rate; it falls to 0 along a cosine"""
    epochs: float = 1.0
    """passes over each set"""
    batch_size: int = 8
    """responses in one training step"""
    modules: list[str] = field(default_factory=list)
    """linear layers to adapt, by name, such as up_proj; repeatable (default: all within the MLPs)"""


OPTIONS = ContrastOptions  # a recipe checks its stages against it


def run(argv: list[str]) -> None:
    """Parse the arguments, tune and score, print the figures."""
    options = parse("contrast", ContrastOptions, argv)
    from forkpoint.training.models import require_training

    require_training()  # before anything is loaded
    from forkpoint.cli.progress import progress_bar
    from forkpoint.files import CRITICAL, SCORES
    from forkpoint.training.adapters import TuningConfig
    from forkpoint.training.contrast_run import ContrastConfig, estimate, read_references
    from forkpoint.trajectories.rows import load_trajectories

    tuning = TuningConfig(
        options.rank, options.alpha, options.learning_rate, options.epochs, options.batch_size,
        module_names(options.modules), options.seed,
    )  # fmt: skip
    settings = ContrastConfig(options.prompt, options.n, options.beta, sampling_of(options, options.task), tuning)
    source = options.trajectories or options.against
    problems = [] if source is None else problems_of(options)
    references = None
    if options.against is not None:
        file = options.against / CRITICAL if options.against.is_dir() else options.against
        source = options.trajectories or file
        references = read_references(file, problems)
    engine = local_engine_of(options)
    stop = settings.sampling.stop
    trajectories = None if source is None else load_trajectories(source, problems, engine, stop)
    training = _training_problems(options, trajectories)
    samples = None if options.samples is None else load_trajectories(options.samples, training, engine, stop)
    out = options.out or default_directory("contrast", options)
    if samples is None:
        announce_sampling("contrast", options, out, len(training), options.n, limit="train_limit")
        announce_time("contrast", options, out, engine, training, options.prompt, settings.sampling, options.n)
    with progress_bar(options.quiet, out) as progress:
        estimate(
            engine, training, settings, out, task=options.task, samples=samples, trajectories=trajectories,
            references=references, progress=progress,
        )  # fmt: skip
    finish("contrast", argv, out, out / SCORES)


def _training_problems(options: ContrastOptions, scored: Sequence[Trajectory] | None) -> list[Problem]:
    """The first train_limit problems whose questions are not those of the trajectories to score."""
    questions = {t.problem.question for t in scored or ()}
    limit = options.train_limit and options.train_limit + len(questions)
    data = options.train_data or options.data
    found = problems_of(replace(options, split=options.train_split, data=data, limit=limit))
    others = [p for p in found if p.question not in questions][: options.train_limit]
    if not others:
        raise UserError(
            "every training problem is one of the problems to score; a model must not be tuned on their answers: "
            "name others with --train-data or --train-split"
        )
    return others
