"""From a verb's options to the engine that they name."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from forkpoint.cli.options import EngineOptions
from forkpoint.cli.setup import local_engine_of
from forkpoint.types import UserError

if TYPE_CHECKING:
    from forkpoint.engines import Engine

# which engines an option is for, where that is not all of them
TAKEN_BY = {
    "device": ("transformers",),
    "attn_implementation": ("transformers",),
    "dtype": ("transformers", "vllm"),
    "memory_gib": ("transformers", "vllm"),
    "tensor_parallel_size": ("vllm",),
    "engine_args": ("vllm",),
    "base_url": ("openai",),
    "served_model": ("openai",),
    "concurrency": ("openai",),
    "replicas": ("ray",),
    "inner": ("ray",),
}


def load(options: EngineOptions) -> Engine:
    """The engine; UserError where an option is another engine's, or out of range."""
    check(options)
    return {"transformers": local_engine_of, "vllm": _vllm, "openai": _openai, "ray": _ray}[options.engine](options)


def check(options: EngineOptions) -> None:
    """Raise UserError for an option that the engine does not take, and for counts below 1."""
    used = {options.engine, options.inner} if options.engine == "ray" else {options.engine}
    for name, takers in TAKEN_BY.items():
        if getattr(options, name) != getattr(EngineOptions(), name) and not used & set(takers):
            raise UserError(f"--{name} is an option of --engine {' and '.join(takers)}, but the engine is "
                            f"{options.engine}")  # fmt: skip
    for name in ("tensor_parallel_size", "concurrency", "replicas"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} must be at least 1, but is {getattr(options, name)}")
    if options.engine == "openai" and options.base_url is None:
        raise UserError("--engine openai needs the server's address: --base_url http://HOST:PORT/v1")
    _engine_args(options)


def _engine_args(options: EngineOptions) -> dict[str, Any]:
    try:
        given = json.loads(options.engine_args or "{}")
    except ValueError as error:
        raise UserError(f"--engine_args is not valid JSON: {error}") from None
    if not isinstance(given, dict):
        raise UserError(f"--engine_args must be a JSON object of names and values, but is {options.engine_args}")
    return given


def _vllm(options: EngineOptions) -> Engine:
    from forkpoint.engines.remote.vllm_engine import load_vllm

    return load_vllm(
        options.model, dtype=options.dtype, revision=options.revision, trust_remote_code=options.trust_remote_code,
        memory_gib=options.memory_gib, tensor_parallel_size=options.tensor_parallel_size,
        engine_args=_engine_args(options),
    )  # fmt: skip


def _openai(options: EngineOptions) -> Engine:
    from forkpoint.engines.remote.openai_engine import load_openai

    assert options.base_url is not None, "checked before"
    return load_openai(
        options.model, options.base_url, served_model=options.served_model, concurrency=options.concurrency,
        revision=options.revision, trust_remote_code=options.trust_remote_code,
    )  # fmt: skip


def _ray(options: EngineOptions) -> Engine:
    from forkpoint.engines.cluster.ray_engine import load_ray

    one = replace(_plain(options), engine=options.inner, replicas=1, inner="transformers")
    gpus = options.tensor_parallel_size if options.inner == "vllm" else int(options.device != "cpu")
    return load_ray(partial(load, one), options.replicas, gpus_each=gpus)


def _plain(options: EngineOptions) -> EngineOptions:
    """The engine's options alone, without those of the verb."""
    return EngineOptions(**{f.name: getattr(options, f.name) for f in fields(EngineOptions)})
