"""From a verb's options to what it works with: engine, problems, the way responses are sampled, directory."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forkpoint.cli.options import (
    EngineOptions,
    LoadingOptions,
    LocalOptions,
    ModelOptions,
    RunOptions,
    SamplingOptions,
    TaskOptions,
)
from forkpoint.files import CONFIG, to_json
from forkpoint.types import Problem, Request, Sampling

if TYPE_CHECKING:
    from forkpoint.engines import Engine


def max_tokens_of(task: str, asked: int | None) -> int:
    """The longest response: as asked for, or by task."""
    from forkpoint.tasks import task_spec

    return task_spec(task).max_tokens if asked is None else asked


# options that change nothing in a run
NO_CONFIGURATION = ("out", "quiet", "export", "push", "private", "part", "inspect", "batch_tokens")


def loading_settings(options: LoadingOptions) -> dict[str, Any]:
    """What `load_pretrained` takes beside a model's name, of no revision."""
    names = ("device", "dtype", "attn_implementation", "trust_remote_code")
    return {"revision": None, **{name: getattr(options, name) for name in names}}


def model_settings(options: ModelOptions) -> dict[str, Any]:
    """What `load_pretrained` takes."""
    return loading_settings(options) | {"name": options.model, "revision": options.revision}


def engine_of(options: EngineOptions) -> Engine:
    """The engine that the options name."""
    from forkpoint.cli.engines import load

    return load(options)


def local_engine_of(options: LocalOptions) -> Engine:
    """The transformers engine, in this process."""
    from forkpoint.engines import load_engine

    settings = model_settings(options)
    return load_engine(settings.pop("name"), memory_gib=options.memory_gib, **settings)


def problems_of(options: TaskOptions) -> list[Problem]:
    """The task's problems."""
    from forkpoint.tasks import load_problems

    return load_problems(
        options.task, data=options.data, split=options.split, limit=options.limit, kind=options.kind,
        question_column=options.question_column, answer_column=options.answer_column,
        options_column=options.options_column,
    )  # fmt: skip


def problems_apart(options: TaskOptions, questions: set[str]) -> list[Problem]:
    """The task's first problems, `limit` of them, with other questions than these."""
    more = options.limit and options.limit + len(questions)
    problems = problems_of(replace(options, limit=more))
    return [problem for problem in problems if problem.question not in questions][: options.limit]


def sampling_of(options: SamplingOptions, task: str) -> Sampling:
    """The policy of the options; `task` says how long a response may be where they do not."""
    from forkpoint.sampling.limits import validate
    from forkpoint.tasks import stop_strings

    sampling = Sampling(
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        min_p=options.min_p,
        top_n_sigma=options.top_n_sigma,
        max_tokens=max_tokens_of(task, options.max_tokens),
        stop=stop_strings(options.prompt),
        seed=options.seed,
    )
    validate(sampling)
    return sampling


LARGE = 5_000  # responses, beyond which sampling takes long on a small machine


def announce_sampling(
    verb: str, options: RunOptions, out: Path, n_problems: int, each: int, *, limit: str = "limit", rollouts: int = 0
) -> None:
    """Say on stderr what a new run in `out` is going to sample, if that is much and the option `limit` is not given.

    `each`: responses to a problem; `rollouts`: most of them from each wrong response.
    """
    count = n_problems * each
    if count * max(1, rollouts) <= LARGE or getattr(options, limit) is not None:
        return
    if options.quiet or (out / CONFIG).exists():
        return
    more = f", and up to {rollouts:,} rollouts from each wrong one" if rollouts else ""
    responses = f"{each:,} {'response' if each == 1 else 'responses'} to each of {n_problems:,} problems"
    print(
        f"forkpoint: {verb} is about to sample {responses}, {count:,} in all{more}; --{limit} N takes fewer problems",
        file=sys.stderr,
    )


PROBED, PROBE_TOKENS = 128, 16  # responses, and tokens of each, by which the time of sampling is estimated
LONG = 60  # seconds of sampling, below which nothing need be said


def announce_time(
    verb: str,
    options: RunOptions,
    out: Path,
    engine: Engine,
    problems: Sequence[Problem],
    prompt: str,
    sampling: Sampling,
    each: int,
) -> None:
    """Say on stderr how long a new run in `out` may sample, if that is long, by a probe of the first responses."""
    count = len(problems) * each
    if options.quiet or (out / CONFIG).exists() or count <= PROBED:
        return
    from forkpoint.tasks import render_prompt
    from forkpoint.trajectories.rows import check_prompts

    check_prompts(engine, problems, prompt, sampling.max_tokens)  # refused before it is tried
    first = [render_prompt(problem, prompt, engine.tokenizer) for problem in problems[:PROBED]]
    probe = [Request(f"probe/{i}", first[i // each]) for i in range(PROBED)]
    tokens, begun = 0, 0.0
    for length in (1, min(PROBE_TOKENS, sampling.max_tokens)):  # the first pass warms up
        begun = time.monotonic()
        tokens = sum(len(c.token_ids) for c in engine.generate(probe, replace(sampling, max_tokens=length)))
    seconds = (time.monotonic() - begun) * count * sampling.max_tokens / tokens
    if seconds > LONG:
        print(
            f"forkpoint: {verb} is about to sample {count:,} responses of at most {sampling.max_tokens:,} tokens: at "
            f"the pace of the first {PROBE_TOKENS} tokens of {PROBED}, {_duration(seconds)} at most",
            file=sys.stderr,
        )


def _duration(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:,.1f} hours" if hours >= 2 else f"{seconds / 60:.0f} minutes"


def default_directory(verb: str, options: RunOptions, more: Mapping[str, Any] | None = None) -> Path:
    """runs/VERB-TASK-HASH: another configuration gets another directory, the same one is resumed."""
    settings = {k: str(v) for k, v in {**asdict(options), **(more or {})}.items() if k not in NO_CONFIGURATION}
    digest = hashlib.blake2b(to_json(settings).encode(), digest_size=4).hexdigest()
    task = [options.task] if isinstance(options, TaskOptions) else []
    return Path("runs") / "-".join([*verb.split(), *task, digest])
