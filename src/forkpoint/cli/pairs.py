"""`forkpoint pairs`: what to prefer to what, as token ids, for `forkpoint train`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forkpoint.cli.option_groups import EngineOptions, RunOptions, SamplingOptions, TaskOptions, at_least
from forkpoint.cli.progress import progress_bar
from forkpoint.cli.setup import (
    announce_sampling,
    announce_time,
    engine_of,
    problems_of,
    sampling_of,
    trajectories_of,
)
from forkpoint.cli.verb import Verb
from forkpoint.types import UserError


@dataclass
class PairsOptions(RunOptions, SamplingOptions, TaskOptions, EngineOptions):
    """Make preference pairs: a right and a wrong response a question, or single tokens at forks, or TRL's own data.

    Samples responses to training problems, or takes --samples, and pairs of each question one right response with one
    wrong one; --scores adds a weight to each rejected token. With --forks a pair is another token and the response's
    own after the same tokens; with --trl it is a row of a preference data set. Writes pairs.jsonl, summary.json
    and report.html (and samples.jsonl); started again, the same command goes on where it stopped.
    """

    split: str = "train"
    """the Hub data set's split; for the lab, test or train; with --trl, the split of that data set"""
    limit: int | None = at_least(1, default=None)
    """only the first N problems; with --forks trajectories, with --trl rows"""
    samples: Path | None = None
    """responses, several a problem, in place of sampling them: a run or the samples.jsonl of contrast, critical or
    eval, or JSON Lines with problem_id, prompt_ids and token_ids"""
    scores: Path | None = None
    """run of contrast, or its scores.jsonl: weight each rejected token by 1 - s; of a run that holds samples.jsonl,
    these are also the --samples"""
    forks: Path | None = None
    """run of critical, or its critical.jsonl: pairs of single tokens where another one is better than the response's"""
    any_alternative: bool = False
    """with --forks: also tokens that the model finds less likely than the response's own"""
    trl: str | None = None
    """preference data to tokenise, in TRL's formats or other common ones: a file (JSON, Parquet, CSV, ...), a
    directory, or a Hub id"""
    subset: str | None = None
    """with --trl: the Hub data set's configuration"""
    prompt_column: str | None = None
    """with --trl: the column of the prompt (default: prompt, or that of a known form)"""
    skip_bad: bool = False
    """with --trl: leave out and count rows that cannot be read, where the first one would end the run"""
    without_end: bool = False
    """with --trl: responses are parts of texts, and get no end of sequence"""
    n: int = 64
    """responses sampled for each problem"""


def check_sources(options: PairsOptions) -> None:
    """Refuse sources that exclude each other."""
    sources = [name for name in ("samples", "scores", "forks", "trl") if getattr(options, name) is not None]
    for name, what in (("forks", "makes its pairs of a response's own tokens"), ("trl", "takes its pairs as they are")):
        if name in sources and len(sources) > 1:
            rest = " and ".join(f"--{source}" for source in sources if source != name)
            raise UserError(f"--{name} {what}, so it does not go with {rest}")
    for name in ("subset", "prompt_column", "skip_bad", "without_end"):
        if getattr(options, name) and options.trl is None:
            raise UserError(f"--{name} is about the rows of --trl")


def make_pairs(options: PairsOptions, out: Path) -> list[Path]:
    """Make the pairs of what the options name."""
    from forkpoint.pairs.pair_files import PAIRS

    make = _pair_forks if options.forks else _pair_imported if options.trl else _pair_responses
    make(options, out)
    return [out / PAIRS]


def _pair_forks(options: PairsOptions, out: Path) -> None:
    from forkpoint.pairs.pair_building import pair_forks
    from forkpoint.pairs.pair_sources import read_forks

    assert options.forks is not None
    model = _vocabulary(options)
    trajectories = read_forks(options.forks, model)[: options.limit]
    pair_forks(model, trajectories, out, any_alternative=options.any_alternative)


def _pair_imported(options: PairsOptions, out: Path) -> None:
    from forkpoint.pairs.pair_building import pair_imported
    from forkpoint.pairs.trl_files import read_preferences

    assert options.trl is not None
    bad: list[str] | None = [] if options.skip_bad else None
    rows = read_preferences(
        options.trl, options.split, subset=options.subset, limit=options.limit,
        prompt_column=options.prompt_column, bad=bad,
    )  # fmt: skip
    model = _vocabulary(options)
    with progress_bar(options.quiet) as progress:
        pair_imported(model, rows, out, without_end=options.without_end, bad=bad, progress=progress)
    if bad:
        print(f"forkpoint: {len(bad):,} rows are left out; the first: {bad[0]}", file=sys.stderr)


def _pair_responses(options: PairsOptions, out: Path) -> None:
    from forkpoint.files import SAMPLES
    from forkpoint.pairs.pair_building import PairConfig, pair_responses
    from forkpoint.pairs.pair_sources import read_weights

    settings = PairConfig(options.prompt, options.n, sampling_of(options))
    source = options.samples
    if source is None and options.scores is not None and (options.scores / SAMPLES).is_file():
        source = options.scores
    problems = problems_of(options)
    if source is None:
        announce_sampling("pairs", options, out, len(problems), options.n)
    model = engine_of(options) if source is None else _vocabulary(options)
    samples = trajectories_of(source, problems, model, settings.sampling)
    weights = None if options.scores is None else read_weights(options.scores, model)
    if source is None:
        announce_time("pairs", options, out, model, problems, settings.sampling)
    with progress_bar(options.quiet) as progress:
        pair_responses(
            model, problems, settings, out, task=options.task, samples=samples, weights=weights, progress=progress
        )


def _vocabulary(options: PairsOptions) -> Any:
    from forkpoint.engines.loading import load_vocabulary

    return load_vocabulary(options.model, revision=options.revision, trust_remote_code=options.trust_remote_code)


VERBS = (Verb("pairs", PairsOptions, make_pairs, check_sources),)
