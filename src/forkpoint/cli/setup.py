"""From a verb's options to what it works with: engine, problems, the way responses are sampled."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forkpoint.cli.option_groups import (
    EngineOptions,
    LoadingOptions,
    LocalOptions,
    ModelOptions,
    RunOptions,
    SamplingOptions,
    TaskOptions,
    values_of,
)
from forkpoint.files import CONFIG
from forkpoint.types import Problem, Request, Sampling, Trajectory, UserError

if TYPE_CHECKING:
    from forkpoint.engines import Engine
    from forkpoint.engines.loading import Vocabulary

# which engines an option is for, where that is not all of them
TAKEN_BY = {
    **dict.fromkeys(("device", "attn_implementation"), ("transformers",)),
    **dict.fromkeys(("dtype", "memory_gib"), ("transformers", "vllm")),
    **dict.fromkeys(("tensor_parallel_size", "engine_args"), ("vllm",)),
    **dict.fromkeys(("base_url", "served_model", "concurrency"), ("openai",)),
    **dict.fromkeys(("replicas", "inner"), ("ray",)),
}
LARGE = 5_000  # responses, beyond which sampling takes long on a small machine
PROBED, PROBE_TOKENS = 128, 16  # responses, and tokens of each, by which the time of sampling is estimated
LONG = 60  # seconds of sampling, below which nothing need be said


def model_settings(options: ModelOptions) -> dict[str, Any]:
    """What `load_pretrained` takes."""
    return {"name": options.model, "revision": options.revision, **values_of(options, LoadingOptions)}


def local_engine_of(options: LocalOptions) -> Engine:
    """The transformers engine, in this process."""
    from forkpoint.engines import load_engine

    return load_engine(**values_of(options, LocalOptions))


def engine_of(options: EngineOptions) -> Engine:
    """The engine that the options name. UserError where an option is another engine's, or wrong."""
    engine_args = _checked_arguments(options)

    def named(*names: str) -> dict[str, Any]:
        return {name: getattr(options, name) for name in ("model", "revision", "trust_remote_code", *names)}

    if options.engine == "vllm":
        from forkpoint.engines.remote.vllm_engine import load_vllm

        return load_vllm(**named("dtype", "memory_gib", "tensor_parallel_size"), engine_args=engine_args)
    if options.engine == "openai":
        from forkpoint.engines.remote.openai_engine import load_openai

        return load_openai(**named("base_url", "served_model", "concurrency"))
    if options.engine == "ray":
        from forkpoint.engines.cluster.ray_engine import load_ray

        plain = EngineOptions(**values_of(options, EngineOptions))
        replica = replace(plain, engine=options.inner, replicas=1, inner="transformers")
        gpus = options.tensor_parallel_size if options.inner == "vllm" else int(options.device != "cpu")
        return load_ray(partial(engine_of, replica), options.replicas, gpus_each=gpus)
    return local_engine_of(options)


def _checked_arguments(options: EngineOptions) -> dict[str, Any]:
    """The value of --engine_args. UserError for it, and for an option of another engine."""
    used = {options.engine, options.inner} if options.engine == "ray" else {options.engine}
    for name, takers in TAKEN_BY.items():
        if getattr(options, name) != getattr(EngineOptions(), name) and not used & set(takers):
            engines = " and ".join(takers)
            raise UserError(f"--{name} is an option of --engine {engines}, but the engine is {options.engine}")
    if options.engine == "openai" and options.base_url is None:
        raise UserError("--engine openai needs the server's address: --base_url http://HOST:PORT/v1")
    try:
        arguments = json.loads(options.engine_args or "{}")
    except ValueError as error:
        raise UserError(f"--engine_args is not valid JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise UserError(f"--engine_args must be a JSON object of names and values, but is {options.engine_args}")
    return arguments


def problems_of(options: TaskOptions) -> list[Problem]:
    """The task's problems."""
    from forkpoint.tasks import load_problems

    return load_problems(**values_of(options, TaskOptions))


def problems_apart(options: TaskOptions, questions: set[str]) -> list[Problem]:
    """The task's first problems, `limit` of them, with other questions than these."""
    more = options.limit and options.limit + len(questions)
    problems = problems_of(replace(options, limit=more))
    return [problem for problem in problems if problem.question not in questions][: options.limit]


def max_tokens_of(task: str, asked: int | None) -> int:
    """The longest response: as asked for, or by task."""
    from forkpoint.tasks import task_spec

    return task_spec(task).max_tokens if asked is None else asked


def sampling_of(options: SamplingOptions) -> Sampling:
    """The policy of the options."""
    from forkpoint.sampling.limits import validate
    from forkpoint.tasks import stop_strings

    longest = max_tokens_of(options.task, options.max_tokens)
    sampling = Sampling(**values_of(options, Sampling, stop=stop_strings(options.prompt), max_tokens=longest))
    validate(sampling)
    return sampling


def trajectories_of(
    path: Path | None, problems: Sequence[Problem], engine: Engine | Vocabulary, sampling: Sampling
) -> list[Trajectory] | None:
    """The responses to the problems in a run or file; None without one."""
    from forkpoint.trajectories.rows import load_trajectories

    return None if path is None else load_trajectories(path, problems, engine, sampling.stop)


def announce_sampling(
    verb: str, options: RunOptions, out: Path, n_problems: int, each: int, *, limit: str = "limit", rollouts: int = 0
) -> None:
    """Say on stderr what a new run in `out` is going to sample, if that is much and the option `limit` is not given.

    `each`: responses to a problem; `rollouts`: most of them from each wrong response.
    """
    count = n_problems * each
    if count * max(1, rollouts) > LARGE and getattr(options, limit) is None:
        responses = f"{each:,} {'response' if each == 1 else 'responses'} to each of {n_problems:,} problems"
        more = f", and up to {rollouts:,} rollouts from each wrong one" if rollouts else ""
        _announce(verb, options, out, f"{responses}, {count:,} in all{more}; --{limit} N takes fewer problems")


def announce_time(
    verb: str, options: Any, out: Path, engine: Engine, problems: Sequence[Problem], sampling: Sampling
) -> None:
    """Say on stderr how long a new run in `out` may sample, if that is long, by a probe of the first responses."""
    count = len(problems) * options.n
    if count <= PROBED or not _is_new(options, out):
        return
    from forkpoint.tasks import render_prompt
    from forkpoint.trajectories.rows import check_prompts

    check_prompts(engine, problems, options.prompt, sampling.max_tokens)  # refused before it is tried
    first = [render_prompt(problem, options.prompt, engine.tokenizer) for problem in problems[:PROBED]]
    probe = [Request(f"probe/{i}", first[i // options.n]) for i in range(PROBED)]
    tokens, begun = 0, 0.0
    for length in (1, min(PROBE_TOKENS, sampling.max_tokens)):  # the first pass warms up
        begun = time.monotonic()
        tokens = sum(len(c.token_ids) for c in engine.generate(probe, replace(sampling, max_tokens=length)))
    seconds = (time.monotonic() - begun) * count * sampling.max_tokens / tokens
    if seconds > LONG:
        duration = f"{seconds / 3600:,.1f} hours" if seconds >= 2 * 3600 else f"{seconds / 60:.0f} minutes"
        pace = f"at the pace of the first {PROBE_TOKENS} tokens of {PROBED}, {duration} at most"
        _announce(verb, options, out, f"{count:,} responses of at most {sampling.max_tokens:,} tokens: {pace}")


def _announce(verb: str, options: RunOptions, out: Path, what: str) -> None:
    if _is_new(options, out):
        print(f"forkpoint: {verb} is about to sample {what}", file=sys.stderr)


def _is_new(options: RunOptions, out: Path) -> bool:
    """Whether the run in `out` has yet to begin, and may speak of it."""
    return not options.quiet and not (out / CONFIG).exists()
