"""Replicas of an engine, each in a process of its own, on one machine or a cluster: Ray Data hands out the work.

An item of work is done whole on one replica, with the batches of a single engine. So results do not depend on how many
replicas there are, on which of them does an item, or on whether one died and the item was done again.
"""

from __future__ import annotations

import logging
import os
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from forkpoint.engines.base import Engine, Starts
from forkpoint.engines.checks import check_requests, check_scoring
from forkpoint.engines.loading import first_line, output_into
from forkpoint.engines.local.branches import MAX_OWN
from forkpoint.types import Completion, FailedError, Request, Sampling, Scored, TokenIds, UserError

try:
    import ray
    import ray.data
    from ray import cloudpickle
    from ray.data import ActorPoolStrategy

    from forkpoint.engines.cluster.ray_workers import Feeder, Replica, Roster, cause_of, opened
except ImportError as error:
    raise UserError(f'the ray engine needs Ray: pip install "forkpoint[ray]" ({error})') from error

T = TypeVar("T")
R = TypeVar("R")
log = logging.getLogger("forkpoint")
RETRIES = 3  # further attempts at an item whose replica died under it
RESTARTS = 20  # of one replica in a run
PLACING_SECONDS = 120.0  # in which the processes of all replicas must have started
ANSWERING_SECONDS = 10.0  # in which something must answer at RAY_ADDRESS
CHUNKS_EACH, LEAST_CHUNK = 2, 16  # direct calls: pieces of work a replica, and the fewest requests of one


class RayEngine(Engine):
    """Implements `Engine` over replicas, which `load_ray` starts.

    `map` gives whole items to replicas. `generate`, `score` and `beam_search` give each a few chunks of the requests,
    so their results are those of one engine up to floating-point rounding. The replicas end with this object.
    """

    def __init__(self, replicas: Sequence[Any]) -> None:
        self.replicas = list(replicas)
        self.roster = ray.remote(Roster).options(num_cpus=0, max_restarts=RESTARTS, max_task_retries=RETRIES).remote()
        # those of each replica; their number changes no results, so that a run may go on with another number
        self.settings = _common_settings(self.replicas)
        ((facts, warnings),) = _answers([self.replicas[0].facts.remote()])
        self.name, self.tokenizer, self.ends, self.vocab_size, self.most_top, self.context = facts
        for warning in warnings:
            log.warning("%s", warning)

    def map(self, work: Callable[[Engine, T], R], items: Sequence[T]) -> Iterator[R]:
        """See `Engine.map`. Raises what a replica does, and FailedError where one died again and again."""
        if not items:
            return
        pickled = [{"item": cloudpickle.dumps(item)} for item in items]
        dataset = ray.data.from_items(pickled, override_num_blocks=len(pickled))
        dataset.context.enable_progress_bars = False
        dataset.context.execution_options.preserve_order = True
        answers = dataset.map(
            Feeder,
            fn_constructor_args=(self.replicas, self.roster, uuid.uuid4().hex, ray.put(cloudpickle.dumps(work))),
            compute=ActorPoolStrategy(size=min(len(items), len(self.replicas)), max_tasks_in_flight_per_actor=1),
            num_cpus=0,
        )
        try:
            for table in answers.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for answer in table["answer"].to_pylist():
                    yield opened(answer)
        except ray.exceptions.RayError as error:
            raise FailedError(f"Ray could not go on: {cause_of(error)}") from error

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """See `Engine.generate`. Raises UserError for an empty or too long prefix and for repeated keys."""
        check_requests(self, requests, sampling)
        prefixes = [request.prefix for request in requests]
        return self._spread(lambda engine, part: engine.generate(part, sampling), requests, prefixes)

    def score(
        self, sequences: Sequence[TokenIds], *, top: int = 0, sampling: Sampling | None = None, starts: Starts = None
    ) -> Iterator[Scored]:
        """See `Engine.score`. Raises UserError for an empty or too long sequence, a start or a top out of range."""
        starts = check_scoring(self, sequences, top, sampling, starts)

        def score(engine: Engine, part: Sequence[tuple[TokenIds, int]]) -> Iterator[Scored]:
            return engine.score([ids for ids, _ in part], top=top, sampling=sampling, starts=[at for _, at in part])

        return self._spread(score, list(zip(sequences, starts, strict=True)), sequences)

    def beam_search(self, requests: Sequence[Request], num_beams: int, sampling: Sampling) -> Iterator[Completion]:
        """See `Engine.beam_search`."""
        check_requests(self, requests, sampling)
        prefixes = [request.prefix for request in requests]
        return self._spread(lambda engine, part: engine.beam_search(part, num_beams, sampling), requests, prefixes)

    def _spread(
        self, work: Callable[[Engine, Sequence[T]], Iterator[R]], asked: Sequence[T], prefixes: Sequence[TokenIds]
    ) -> Iterator[R]:
        """The results of work on chunks of what is asked; once this is closed, the work on further ones stops."""
        size = max(LEAST_CHUNK, -(-len(asked) // (CHUNKS_EACH * len(self.replicas))))
        parts = [asked[part] for part in chunks(prefixes, size)]
        for results in self.map(lambda engine, part: list(work(engine, part)), parts):
            yield from results


def load_ray(load: Callable[[], Engine], replicas: int, *, gpus_each: int) -> Engine:
    """`replicas` of the engine that `load` gives, on the Ray cluster of RAY_ADDRESS, else on one of this process.

    Each has `gpus_each` GPUs where the cluster has any, else its share of the CPUs. Raises UserError where Ray is not
    reached, where the cluster has no room for all of them, and what `load` raises.
    """
    join()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    share, cpus = resources(nodes, replicas, gpus_each)
    actor = ray.remote(Replica).options(max_restarts=RESTARTS, max_task_retries=RETRIES, **share)
    arguments = cloudpickle.dumps(load), os.environ.get("OMP_NUM_THREADS", str(cpus))
    handles = [actor.remote(*arguments) for _ in range(replicas)]
    if waiting := ray.wait([h.__ray_ready__.remote() for h in handles], num_returns=replicas, timeout=PLACING_SECONDS)[
        1
    ]:
        raise UserError(
            f"Ray could start only {replicas - len(waiting)} of {replicas} replicas in {PLACING_SECONDS:.0f} seconds; "
            "is the rest of its cluster in use?"
        )
    return RayEngine(handles)


def join() -> None:
    """Join the cluster of RAY_ADDRESS, or start one that ends with this process; nothing where that was done before."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else Ray Data's own actors are warned of on stderr
    address = os.environ.get("RAY_ADDRESS")
    check_address(address)
    alone = {} if address else {"include_dashboard": False}
    try:
        with output_into(os.devnull):  # what its C++ writes, of any log level
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **alone)
    except (ConnectionError, RuntimeError, ValueError) as error:
        token = "AuthenticationError" in str(error.__cause__)
        hint = "; it wants a token, which Ray sends where RAY_AUTH_MODE is token" if token else ""
        where = f"joined at {address}" if address else "started here"
        raise UserError(f"no Ray cluster could be {where}: {first_line(error)}{hint}") from error


def check_address(address: str | None) -> None:
    """UserError where nothing listens at HOST:PORT; Ray itself would try for minutes, without a word."""
    host, colon, port = (address or "").rpartition(":")
    if not (colon and host and port.isdecimal()) or "://" in host:
        return  # none, "auto", or one that Ray judges at once
    try:
        socket.create_connection((host, int(port)), timeout=ANSWERING_SECONDS).close()
    except OSError as error:
        raise UserError(f"RAY_ADDRESS is {address}, but no Ray cluster answers there: {error}") from error


def resources(nodes: Sequence[Mapping[str, float]], replicas: int, gpus_each: int) -> tuple[dict[str, float], int]:
    """What to ask of Ray for each replica so that all find room on the nodes, and the CPUs of each.

    Raises UserError where they do not.
    """
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    gpus = [int(node.get("GPU", 0)) for node in nodes]
    if not sum(cpus):
        raise UserError("the Ray cluster has no CPUs")
    whole = next((n for n in range(sum(cpus) // replicas, 0, -1) if sum(c // n for c in cpus) >= replicas), None)
    if gpus_each and sum(gpus):
        if sum(g // gpus_each for g in gpus) < replicas:
            raise UserError(
                f"{replicas} replicas with {gpus_each} GPU{'s' if gpus_each > 1 else ''} each were asked for, but the "
                f"Ray cluster has {' + '.join(str(g) for g in gpus if g)}"
            )
        return {"num_gpus": gpus_each, "num_cpus": 0}, whole or 1
    return {"num_cpus": whole or 1 / -(-replicas // sum(cpus))}, whole or 1


def chunks(prefixes: Sequence[TokenIds], size: int) -> Iterator[slice]:
    """Runs of `size` consecutive requests, or up to twice as many where that keeps those of a trunk together."""
    start = 0
    for i in range(1, len(prefixes)):
        n = i - start
        if n >= 2 * size or (n >= size and not _on_one_trunk(prefixes[i - 1], prefixes[i])):
            yield slice(start, i)
            start = i
    if prefixes:
        yield slice(start, len(prefixes))


def _on_one_trunk(a: TokenIds, b: TokenIds) -> bool:
    shared = min(len(a), len(b)) - MAX_OWN
    return shared > 0 and a[:shared] == b[:shared]


def _common_settings(replicas: Sequence[Any]) -> Mapping[str, str | int | None]:
    """The settings of all replicas; loads them all. UserError where they differ, since then results would too."""
    first, *more = _answers([replica.settings.remote() for replica in replicas])
    for key, other in ((key, other[key]) for other in more for key in first):
        if other != first[key]:
            hint = "; give --memory_gib" if key == "memory_bytes" else ""
            raise UserError(f"the replicas differ in {key}: {first[key]!r} and {other!r}{hint}")
    return dict(first)


def _answers(refs: Sequence[Any]) -> list[Any]:
    """The answers of replicas, awaited."""
    try:
        return [opened(answer) for answer in ray.get(refs)]
    except ray.exceptions.RayError as error:
        raise FailedError(f"a replica could not be started: {cause_of(error)}") from error
