"""`forkpoint contrast`: which tokens are likely critical, by models tuned on right and on wrong responses."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from forkpoint.cli.options import EngineOptions, RunOptions, TaskOptions, parse
from forkpoint.files import to_json
from forkpoint.types import Problem, Sampling, Trajectory, UserError


@dataclass(frozen=True)
class ContrastOptions(RunOptions, TaskOptions, EngineOptions):
    """Score every token of given trajectories by contrastive estimation: a low s marks a likely critical token.

    Samples responses to training problems, tunes one LoRA adapter on right and one on wrong ones, and scores the
    trajectories with both. --task, --data, --split and --limit say which problems the trajectories to score are of;
    those problems are left out of the training ones. Writes samples.jsonl, positive/, negative/, scores.jsonl and
    summary.json; started again, the same command goes on where it stopped.
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
    """local JSON Lines file of the training problems (default: --data)"""
    train_limit: int | None = None
    """only the first N training problems"""
    n: int = 64
    """responses sampled for each training problem"""
    prompt: str = "cot"
    """plain (Q and A), cot (let's think step by step), few-shot, or chat (the tokenizer's template)"""
    temperature: float = 1.0
    """temperature of the samples, and of the policy whose probabilities are reported"""
    top_p: float = 1.0
    """nucleus of the samples and of the policy"""
    max_tokens: int | None = None
    """longest sampled response in tokens (default: by task)"""
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
    seed: int = 0
    """seed of every random draw"""


def run(argv: list[str]) -> None:
    """Parse the arguments, tune and score, print the figures."""
    options = parse("contrast", ContrastOptions, argv)
    from forkpoint.critical.adapters import Tuning, require_training

    require_training()  # before anything is loaded
    from forkpoint.cli.contrast_tables import print_contrast
    from forkpoint.cli.progress import progress_bar
    from forkpoint.critical.contrast import CRITICAL, Contrasting, estimate, read_references
    from forkpoint.critical.trajectories import load_trajectories
    from forkpoint.engines import load_engine

    tuning = Tuning(
        options.rank, options.alpha, options.learning_rate, options.epochs, options.batch_size,
        tuple(options.modules), options.seed,
    )  # fmt: skip
    settings = Contrasting(options.prompt, options.n, options.beta, _sampling(options), tuning)
    source = options.trajectories or options.against
    problems = [] if source is None else _problems(options, options.split, options.data, options.limit)
    references = None
    if options.against is not None:
        file = options.against / CRITICAL if options.against.is_dir() else options.against
        source = options.trajectories or file
        references = read_references(file, problems)
    engine = load_engine(
        options.model, device=options.device, dtype=options.dtype, attn_implementation=options.attn_implementation,
        revision=options.revision, trust_remote_code=options.trust_remote_code, memory_gib=options.memory_gib,
    )  # fmt: skip
    stop = settings.sampling.stop
    trajectories = None if source is None else load_trajectories(source, problems, engine, stop)
    training = _training_problems(options, trajectories)
    samples = None if options.samples is None else load_trajectories(options.samples, training, engine, stop)
    out = options.out or _default_directory(options)
    with progress_bar(options.quiet) as progress:
        summary = estimate(
            engine, training, settings, out, task=options.task, samples=samples, trajectories=trajectories,
            references=references, progress=progress,
        )  # fmt: skip
    print_contrast(summary)
    print(f"\n{out / 'scores.jsonl'}")


def _sampling(options: ContrastOptions) -> Sampling:
    from forkpoint.sampling.limits import validate
    from forkpoint.tasks import stop_strings, task_spec

    sampling = Sampling(
        temperature=options.temperature,
        top_p=options.top_p,
        max_tokens=task_spec(options.task).max_tokens if options.max_tokens is None else options.max_tokens,
        stop=stop_strings(options.prompt),
        seed=options.seed,
    )
    validate(sampling)
    return sampling


def _problems(options: ContrastOptions, split: str, data: str | None, limit: int | None) -> list[Problem]:
    from forkpoint.tasks import load_problems

    return load_problems(
        options.task, data=data, split=split, limit=limit, kind=options.kind,
        question_column=options.question_column, answer_column=options.answer_column,
        options_column=options.options_column,
    )  # fmt: skip


def _training_problems(options: ContrastOptions, scored: Sequence[Trajectory] | None) -> list[Problem]:
    """The first train_limit problems whose questions are not those of the trajectories to score."""
    questions = {t.problem.question for t in scored or ()}
    limit = options.train_limit and options.train_limit + len(questions)
    found = _problems(options, options.train_split, options.train_data or options.data, limit)
    others = [p for p in found if p.question not in questions][: options.train_limit]
    if not others:
        raise UserError(
            "every training problem is one of the problems to score; a model must not be tuned on their answers: "
            "name others with --train-data or --train-split"
        )
    return others


def _default_directory(options: ContrastOptions) -> Path:
    """runs/contrast-TASK-HASH: another configuration gets another directory, the same one is resumed."""
    settings = {k: str(v) for k, v in asdict(options).items() if k not in ("out", "quiet")}
    digest = hashlib.blake2b(to_json(settings).encode(), digest_size=4).hexdigest()
    return Path("runs") / f"contrast-{options.task}-{digest}"
