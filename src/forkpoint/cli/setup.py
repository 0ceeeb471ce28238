"""From a verb's options to what it works with: engine, problems, the way responses are sampled, directory."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
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
)
from forkpoint.files import CONFIG, to_json
from forkpoint.types import Problem, Request, Sampling, UserError

if TYPE_CHECKING:
    from forkpoint.engines import Engine

# which engines an option is for, where that is not all of them
TAKEN_BY = {
    **dict.fromkeys(("device", "attn_implementation"), ("transformers",)),
    **dict.fromkeys(("dtype", "memory_gib"), ("transformers", "vllm")),
    **dict.fromkeys(("tensor_parallel_size", "engine_args"), ("vllm",)),
    **dict.fromkeys(("base_url", "served_model", "concurrency"), ("openai",)),
    **dict.fromkeys(("replicas", "inner"), ("ray",)),
}
# options that change nothing in a run
NO_CONFIGURATION = ("out", "quiet", "export", "push", "private", "part", "inspect", "batch_tokens")
LARGE = 5_000  # responses, beyond which sampling takes long on a small machine
PROBED, PROBE_TOKENS = 128, 16  # responses, and tokens of each, by which the time of sampling is estimated
LONG = 60  # seconds of sampling, below which nothing need be said


def loading_settings(options: LoadingOptions) -> dict[str, Any]:
    """What `load_pretrained` takes beside a model's name, of no revision."""
    names = ("device", "dtype", "attn_implementation", "trust_remote_code")
    return {"revision": None, **{name: getattr(options, name) for name in names}}


def model_settings(options: ModelOptions) -> dict[str, Any]:
    """What `load_pretrained` takes."""
    return loading_settings(options) | {"name": options.model, "revision": options.revision}


def local_engine_of(options: LocalOptions) -> Engine:
    """The transformers engine, in this process."""
    from forkpoint.engines import load_engine

    settings = model_settings(options)
    return load_engine(settings.pop("name"), memory_gib=options.memory_gib, **settings)


def engine_of(options: EngineOptions) -> Engine:
    """The engine that the options name. UserError where an option is another engine's, or out of range."""
    engine_args = _checked_arguments(options)
    hub: dict[str, Any] = {"revision": options.revision, "trust_remote_code": options.trust_remote_code}
    if options.engine == "vllm":
        from forkpoint.engines.remote.vllm_engine import load_vllm

        return load_vllm(
            options.model, dtype=options.dtype, memory_gib=options.memory_gib,
            tensor_parallel_size=options.tensor_parallel_size, engine_args=engine_args, **hub,
        )  # fmt: skip
    if options.engine == "openai":
        from forkpoint.engines.remote.openai_engine import load_openai

        assert options.base_url is not None, "checked before"
        names: dict[str, Any] = {"served_model": options.served_model, "concurrency": options.concurrency}
        return load_openai(options.model, options.base_url, **names, **hub)
    if options.engine == "ray":
        from forkpoint.engines.cluster.ray_engine import load_ray

        plain = EngineOptions(**{field.name: getattr(options, field.name) for field in fields(EngineOptions)})
        replica = replace(plain, engine=options.inner, replicas=1, inner="transformers")
        gpus = options.tensor_parallel_size if options.inner == "vllm" else int(options.device != "cpu")
        return load_ray(partial(engine_of, replica), options.replicas, gpus_each=gpus)
    return local_engine_of(options)


def _checked_arguments(options: EngineOptions) -> dict[str, Any]:
    """The value of --engine_args. UserError for it, for an option of another engine, and for counts below 1."""
    used = {options.engine, options.inner} if options.engine == "ray" else {options.engine}
    for name, takers in TAKEN_BY.items():
        if getattr(options, name) != getattr(EngineOptions(), name) and not used & set(takers):
            engines = " and ".join(takers)
            raise UserError(f"--{name} is an option of --engine {engines}, but the engine is {options.engine}")
    for name in ("tensor_parallel_size", "concurrency", "replicas"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} must be at least 1, but is {getattr(options, name)}")
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

    names = ("data", "split", "limit", "kind", "question_column", "answer_column", "options_column")
    return load_problems(options.task, **{name: getattr(options, name) for name in names})


def max_tokens_of(task: str, asked: int | None) -> int:
    """The longest response: as asked for, or by task."""
    from forkpoint.tasks import task_spec

    return task_spec(task).max_tokens if asked is None else asked


def problems_apart(options: TaskOptions, questions: set[str]) -> list[Problem]:
    """The task's first problems, `limit` of them, with other questions than these."""
    more = options.limit and options.limit + len(questions)
    problems = problems_of(replace(options, limit=more))
    return [problem for problem in problems if problem.question not in questions][: options.limit]


def sampling_of(options: SamplingOptions, task: str) -> Sampling:
    """The policy of the options; `task` says how long a response may be where they do not."""
    from forkpoint.sampling.limits import validate
    from forkpoint.tasks import stop_strings

    names = ("temperature", "top_p", "top_k", "min_p", "top_n_sigma", "seed")
    sampling = Sampling(
        **{name: getattr(options, name) for name in names}, stop=stop_strings(options.prompt),
        max_tokens=max_tokens_of(task, options.max_tokens),
    )  # fmt: skip
    validate(sampling)
    return sampling


def announce_sampling(
    verb: str, options: RunOptions, out: Path, n_problems: int, each: int, *, limit: str = "limit", rollouts: int = 0
) -> None:
    """Say on stderr what a new run in `out` is going to sample, if that is much and the option `limit` is not given.

    `each`: responses to a problem; `rollouts`: most of them from each wrong response.
    """
    count = n_problems * each
    if count * max(1, rollouts) <= LARGE or getattr(options, limit) is not None or not _is_new(options, out):
        return
    more = f", and up to {rollouts:,} rollouts from each wrong one" if rollouts else ""
    responses = f"{each:,} {'response' if each == 1 else 'responses'} to each of {n_problems:,} problems"
    print(
        f"forkpoint: {verb} is about to sample {responses}, {count:,} in all{more}; --{limit} N takes fewer problems",
        file=sys.stderr,
    )


def announce_time(
    verb: str, options: RunOptions, out: Path, engine: Engine, problems: Sequence[Problem], prompt: str,
    sampling: Sampling, each: int,
) -> None:  # fmt: skip
    """Say on stderr how long a new run in `out` may sample, if that is long, by a probe of the first responses."""
    count = len(problems) * each
    if count <= PROBED or not _is_new(options, out):
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
        duration = f"{seconds / 3600:,.1f} hours" if seconds >= 2 * 3600 else f"{seconds / 60:.0f} minutes"
        print(
            f"forkpoint: {verb} is about to sample {count:,} responses of at most {sampling.max_tokens:,} tokens: at "
            f"the pace of the first {PROBE_TOKENS} tokens of {PROBED}, {duration} at most",
            file=sys.stderr,
        )


def _is_new(options: RunOptions, out: Path) -> bool:
    """Whether the run in `out` has yet to begin, and may speak of it."""
    return not options.quiet and not (out / CONFIG).exists()


def default_directory(verb: str, options: RunOptions, more: Mapping[str, Any] | None = None) -> Path:
    """runs/VERB-TASK-HASH: another configuration gets another directory, the same one is resumed."""
    settings = {k: str(v) for k, v in {**asdict(options), **(more or {})}.items() if k not in NO_CONFIGURATION}
    digest = hashlib.blake2b(to_json(settings).encode(), digest_size=4).hexdigest()
    task = [options.task] if isinstance(options, TaskOptions) else []
    return Path("runs") / "-".join([*verb.split(), *task, digest])
