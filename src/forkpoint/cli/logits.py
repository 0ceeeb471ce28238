"""`forkpoint logits`: what the logits of a model look like along a response, and what samplers keep of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from forkpoint.cli.option_groups import LocalOptions, RunOptions, TaskOptions, values_of
from forkpoint.cli.progress import progress_bar
from forkpoint.cli.setup import local_engine_of, max_tokens_of, problems_of
from forkpoint.cli.verb import Verb
from forkpoint.types import Sampling, UserError

if TYPE_CHECKING:
    from forkpoint.evaluation.logit_study import LogitsConfig

SAMPLERS = ["top_n_sigma=1", "min_p=0.1", "top_p=0.9", "top_k=50", "p_less=true", "min_k=3"]


@dataclass
class LogitsOptions(RunOptions, TaskOptions, LocalOptions):
    """Look at a model's logits along a response: a histogram, sorted probabilities, kept sets, the maximum's distance.

    Generates a response to --prompt_text, or to the first problems of a task. Writes figures as SVG and PNG, their data
    as CSV, summary.json and report.html; a finished run's figures are drawn again.
    """

    prompt_text: str | None = None
    """a text to continue, as it is, in place of a task's problems"""
    limit: int | None = 1
    """only the first N problems; histograms and sorted probabilities are those of the first"""
    prompt: str = "plain"
    """plain (Q and A), cot (let's think step by step), few-shot, or chat (the tokenizer's template)"""
    positions: str = "first,uncertain,certain"
    """tokens of the first response that get a histogram and sorted probabilities: first, uncertain (highest entropy),
    certain (lowest), or whole numbers from 0"""
    sampler: list[str] = field(default_factory=lambda: [*SAMPLERS])
    """a truncation whose kept sets are counted, NAME=VALUE: top_n_sigma=1, min_p=0.1, top_p=0.9, top_k=50, p_less=true,
    min_k=3, ..., or several with commas; repeatable (default: these six)"""
    temperatures: str = "0.5,1,1.5,2,3"
    """the temperatures at which kept sets are counted"""
    temperature: float = 0.0
    """temperature at which the response is generated (0: greedy)"""
    max_tokens: int | None = None
    """longest response in tokens (default: by task)"""
    seed: int = 0
    """seed of every random draw"""


def settings_of(options: LogitsOptions) -> LogitsConfig:
    """What is looked at, and how the response is drawn. UserError for what is wrong whatever the model."""
    from forkpoint.evaluation.logit_study import LogitsConfig, parse_positions
    from forkpoint.report.figures.logits_figure import check_drawable
    from forkpoint.sampling.analysis import parse_sampler, parse_temperatures
    from forkpoint.sampling.limits import validate
    from forkpoint.tasks import stop_strings
    from forkpoint.tasks.prompts import check_style

    is_own = options.prompt_text is not None  # a text without stop strings: nothing is known of its form
    if is_own and not str(options.prompt_text).strip():
        raise UserError("the prompt is empty: give --prompt_text a text to continue")
    check_style(options.prompt)
    if len({parse_sampler(spec) for spec in options.sampler}) < len(options.sampler):
        raise UserError(f"a sampler is given twice: {', '.join(options.sampler)}")
    check_drawable(options.sampler)
    longest = options.max_tokens
    if longest is None:
        longest = Sampling().max_tokens if is_own else max_tokens_of(options.task, None)
    stop = () if is_own else stop_strings(options.prompt)
    sampling = Sampling(**values_of(options, Sampling, max_tokens=longest, stop=stop))
    validate(sampling)
    temperatures, positions = parse_temperatures(options.temperatures), parse_positions(options.positions)
    return LogitsConfig(tuple(options.sampler), temperatures, positions, sampling)


def study(options: LogitsOptions, out: Path) -> list[Path]:
    """Generate, describe, draw."""
    from forkpoint.engines.local.transformers_engine import TransformersEngine
    from forkpoint.evaluation.logit_study import study_logits
    from forkpoint.report.figures.logits_figure import draw_logits
    from forkpoint.tasks import render_prompt
    from forkpoint.tasks.prompts import encode

    problems = problems_of(options) if options.prompt_text is None else []
    engine = local_engine_of(options)
    assert isinstance(engine, TransformersEngine)
    prompts = {p.id: render_prompt(p, options.prompt, engine.tokenizer) for p in problems}
    if options.prompt_text is not None:
        prompts = {"prompt": encode(options.prompt_text, engine.tokenizer)}
    task = options.task if options.prompt_text is None else "prompt"
    with progress_bar(options.quiet) as progress:
        study_logits(engine, prompts, settings_of(options), out, task=task, progress=progress)
    return [path for path in draw_logits(out) if path.suffix == ".svg"]


VERBS = (Verb("logits", LogitsOptions, study, settings_of),)
