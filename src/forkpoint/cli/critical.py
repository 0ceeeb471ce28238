"""`forkpoint critical` and `forkpoint contrast`: the tokens after which a response is lost, by rollouts or cheaply."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from forkpoint.cli.option_groups import EngineOptions, LocalOptions, RunOptions, SamplingOptions, TaskOptions, values_of
from forkpoint.cli.progress import progress_bar
from forkpoint.cli.setup import (
    announce_sampling,
    announce_time,
    engine_of,
    local_engine_of,
    problems_apart,
    problems_of,
    sampling_of,
    trajectories_of,
)
from forkpoint.cli.train import module_names
from forkpoint.cli.verb import Verb
from forkpoint.types import UserError


@dataclass
class CriticalOptions(RunOptions, SamplingOptions, TaskOptions, EngineOptions):
    """Find the critical token of wrong responses: the first token after which the model cannot recover.

    Samples responses to a task's problems, or takes --trajectories, and estimates by rollouts how likely the model is
    to end up right after each token. The sampling options hold for responses and rollouts alike. Writes critical.jsonl,
    summary.json and report.html; started again, the same command goes on where it stopped.
    """

    trajectories: Path | None = None
    """responses to label in place of sampling some: an eval run or its samples.jsonl, a critical.jsonl, or JSON Lines
    with problem_id, prompt_ids and token_ids; --task, --data, --split and --limit say which problems they answer"""
    n: int = 1
    """responses sampled for each problem"""
    which: Literal["wrong", "correct", "all"] = "wrong"
    """the responses to label"""
    protocol: Literal["forks", "paper"] = "forks"
    """forks: the fork estimator, a whole success curve with intervals; paper: 64 rollouts from every prefix, as in
    arXiv 2411.19943"""
    budget: int = 1024
    """forks: most rollouts for one response"""
    wave: int = 64
    """forks: rollouts for one response at a time"""
    until: Literal["decided", "budget"] = "decided"
    """forks: stop when the label is decided, or spend the whole budget for narrower intervals"""
    replace: bool = False
    """add the replacement experiment: pass@k with another token at the critical one, and without"""
    export: Path | None = None
    """also write the labelled responses as a data set for `datasets`, with its card, in this directory"""
    push: str | None = None
    """also upload that data set to the Hugging Face Hub under this name, USER/NAME (needs --export)"""
    private: bool = False
    """upload it as a private data set"""


@dataclass
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
    contrast_beta: float = 1.0
    """weight of the contrast: log s = (1+beta) log p+ - beta log p- - log Z"""
    lora_r: int = 8
    """rank of the adapters"""
    lora_alpha: float = 16.0
    """scale of the adapters: lora_alpha / lora_r"""
    lora_target_modules: list[str] = field(default_factory=list)
    """linear layers that get adapters, by name, such as up_proj; repeatable (default: all within the MLPs)"""
    learning_rate: float = 3e-4
    """highest learning rate; it falls to 0 along a cosine"""
    num_train_epochs: float = 1.0
    """passes over each set"""
    per_device_train_batch_size: int = 8
    """responses in one training step"""


def check_critical(options: CriticalOptions) -> None:
    """UserError where the options of the export do not go together."""
    if options.push and options.export is None:
        raise UserError("--push uploads what --export wrote; name a directory with --export")
    if options.private and not options.push:
        raise UserError("--private is about the upload; name the data set with --push")
    if options.export is not None:
        from forkpoint.curves.label_dataset import check_free

        check_free(options.export)


def label(options: CriticalOptions, out: Path) -> list[Path]:
    """Label the responses, sampled now or given."""
    from forkpoint.curves.critical_tokens import CriticalConfig, find_critical

    search = CriticalConfig(**values_of(options, CriticalConfig, sampling=sampling_of(options)))
    problems = problems_of(options)
    if options.trajectories is None:
        announce_sampling("critical", options, out, len(problems), options.n, rollouts=options.budget)
    engine = engine_of(options)
    trajectories = trajectories_of(options.trajectories, problems, engine, search.sampling)
    with progress_bar(options.quiet) as progress:
        find_critical(engine, problems, search, out, task=options.task, trajectories=trajectories, progress=progress)
    return []


def export(options: CriticalOptions, out: Path) -> None:
    """Write the labelled responses as a data set, and upload it, where that is asked for and there are any."""
    from forkpoint.curves.label_dataset import export_run, push_to_hub
    from forkpoint.files import SUMMARY, read_json

    if options.export is not None and read_json(out / SUMMARY)["n_trajectories"]:
        print(f"{options.export}: data set of {export_run(out, options.export):,} trajectories")
        if options.push:
            print(push_to_hub(options.export, options.push, private=options.private))


def contrast(options: ContrastOptions, out: Path) -> list[Path]:
    """Tune and score."""
    from forkpoint.training.models import require_training

    require_training()  # before anything is loaded
    from forkpoint.files import CRITICAL, SCORES
    from forkpoint.training.adapters import TuningConfig
    from forkpoint.training.contrast_run import ContrastConfig, estimate, read_references

    modules, sampling = module_names(options.lora_target_modules), sampling_of(options)
    tuning = TuningConfig(**values_of(options, TuningConfig, lora_target_modules=modules))
    settings = ContrastConfig(**values_of(options, ContrastConfig, sampling=sampling, tuning=tuning))
    against = options.against
    if against is not None and against.is_dir():
        against /= CRITICAL
    source = options.trajectories or against
    problems = [] if source is None else problems_of(options)
    references = None if against is None else read_references(against, problems)
    engine = local_engine_of(options)
    trajectories = trajectories_of(source, problems, engine, sampling)
    data = options.train_data or options.data
    training = problems_apart(  # from those to score
        replace(options, split=options.train_split, data=data, limit=options.train_limit),
        {t.problem.question for t in trajectories or ()},
    )
    if not training:
        raise UserError(
            "every training problem is one of the problems to score; a model must not be tuned on their answers: "
            "name others with --train_data or --train_split"
        )
    samples = trajectories_of(options.samples, training, engine, sampling)
    if samples is None:
        announce_sampling("contrast", options, out, len(training), options.n, limit="train_limit")
        announce_time("contrast", options, out, engine, training, sampling)
    with progress_bar(options.quiet) as progress:
        estimate(
            engine, training, settings, out, task=options.task, samples=samples, trajectories=trajectories,
            references=references, progress=progress,
        )  # fmt: skip
    return [out / SCORES]


VERBS = (
    Verb("critical", CriticalOptions, label, check_critical, export),
    Verb("contrast", ContrastOptions, contrast),
)
