"""`forkpoint critical`: after which token a response is lost, and what it should have said there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from forkpoint.cli.finish import finish
from forkpoint.cli.options import EngineOptions, RunOptions, SamplingOptions, TaskOptions, parse
from forkpoint.cli.setup import announce_sampling, default_directory, engine_of, problems_of, sampling_of
from forkpoint.types import UserError


@dataclass(frozen=True)
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


OPTIONS = CriticalOptions  # a recipe checks its stages against it


def run(argv: list[str]) -> None:
    """Parse the arguments, label, print the figures, write the page."""
    options = parse("critical", CriticalOptions, argv)
    _check_export(options)
    from forkpoint.cli.progress import progress_bar
    from forkpoint.curves.critical_tokens import CriticalConfig, find_critical
    from forkpoint.trajectories.rows import load_trajectories

    search = CriticalConfig(
        options.protocol, sampling_of(options, options.task), options.prompt, options.n, options.which,
        options.budget, options.wave, options.until, options.replace,
    )  # fmt: skip
    problems = problems_of(options)
    out = options.out or default_directory("critical", options)
    if options.trajectories is None:
        announce_sampling("critical", options, out, len(problems), options.n, rollouts=options.budget)
    engine = engine_of(options)
    trajectories = None
    if options.trajectories is not None:
        trajectories = load_trajectories(options.trajectories, problems, engine, search.sampling.stop)
    with progress_bar(options.quiet, out) as progress:
        summary = find_critical(
            engine, problems, search, out, task=options.task, trajectories=trajectories, progress=progress
        )
    finish("critical", argv, out)
    if options.export is not None and summary["n_trajectories"]:
        _export(out, options.export, options.push, options.private)


def _check_export(options: CriticalOptions) -> None:
    if options.push and options.export is None:
        raise UserError("--push uploads what --export wrote; name a directory with --export")
    if options.private and not options.push:
        raise UserError("--private is about the upload; name the data set with --push")
    if options.export is not None:
        from forkpoint.curves.label_dataset import check_free

        check_free(options.export)


def _export(out: Path, directory: Path, name: str | None, private: bool) -> None:
    from forkpoint.curves.label_dataset import export_run, push_to_hub

    n = export_run(out, directory)
    print(f"{directory}: data set of {n:,} trajectories")
    if name:
        print(push_to_hub(directory, name, private=private))
