"""vLLM in this machine's GPUs (or its CPU build): token-id prompts, prefix caching, many requests in one batch."""

from __future__ import annotations

import itertools
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from forkpoint.engines import loading
from forkpoint.engines.base import Engine, Starts
from forkpoint.engines.checks import check_requests, check_scoring
from forkpoint.engines.remote import served
from forkpoint.redaction import without_secrets
from forkpoint.text import StopCheck
from forkpoint.types import Completion, FailedError, Request, Sampling, Scored, TokenIds, UserError

MOST_TOP = 512  # alternatives a position that are named, unless engine_args say otherwise
SCORED_AT_ONCE = 8  # sequences: their log-probabilities are Python numbers, and many


class VllmEngine(Engine):
    """Implements `Engine` over a `vllm.LLM` and the vocabulary of its model.

    `most_top` alternatives a position are named; where that is the whole vocabulary, probabilities under every policy
    are exact, else see `served`. Draws depend on (seed, key) alone, but vLLM's logits, as to their last bits, on what
    runs beside a request: a draw at the edge may differ between runs.
    """

    def __init__(
        self, llm: Any, vocabulary: loading.Vocabulary, settings: Mapping[str, str | int | None], log: Path
    ) -> None:
        self.llm, self.settings, self._log = llm, settings, log
        self.name, self.tokenizer = vocabulary.name, vocabulary.tokenizer
        self.ends, self.vocab_size = vocabulary.ends, vocabulary.vocab_size
        config = llm.llm_engine.model_config
        self.context = config.max_model_len - 1  # it always generates a token, also to score
        self.most_top = self.vocab_size if config.max_logprobs == -1 else min(self.vocab_size, config.max_logprobs)
        self._window = 2 * llm.llm_engine.vllm_config.scheduler_config.max_num_seqs
        self._numbers = itertools.count()
        self._parked: dict[str, Any] = {}  # finished requests of another iterator than the one that met them

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """See `Engine.generate`. Raises UserError as the checks do, and for a policy that vLLM does not sample."""
        served.check_served(sampling)
        check_requests(self, requests, sampling)
        return self._generate(requests, sampling)

    def _generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        stops = StopCheck(self.tokenizer, sampling.stop, self.ends, self.vocab_size)
        fixed = served.policy_arguments(sampling) | {
            "stop": list(sampling.stop), "stop_token_ids": list(self.ends), "logprobs": 2,
            "extra_args": served.sigma_arguments(sampling),
        }  # fmt: skip
        questions = (
            (r.prefix, {**fixed, "seed": served.request_seed(sampling, r.key) if sampling.temperature > 0 else None,
                        "max_tokens": sampling.max_tokens - r.written})
            for r in requests
        )  # fmt: skip
        for i, output in self._run(questions, self._window):
            (one,) = output.outputs
            if one.finish_reason not in ("stop", "length"):
                raise FailedError(f"vLLM ended {requests[i].key} with {one.finish_reason!r}")
            ended = one.finish_reason == "stop"
            yield served.served_completion(requests[i], _rows(one.logprobs), ended=ended, stops=stops)

    def score(
        self, sequences: Sequence[TokenIds], *, top: int = 0, sampling: Sampling | None = None, starts: Starts = None
    ) -> Iterator[Scored]:
        """See `Engine.score`, and `served` for entropies and policies where not all tokens are named."""
        starts = check_scoring(self, sequences, top, sampling, starts)
        served.check_nameable(sampling, self.most_top, self.vocab_size, self.name)
        return served.in_order(self._score(sequences, starts, top, sampling))

    def _score(
        self, sequences: Sequence[TokenIds], starts: Sequence[int], top: int, sampling: Sampling | None
    ) -> Iterator[tuple[int, Scored]]:
        number = -1 if self.most_top == self.vocab_size else min(MOST_TOP, self.most_top)  # -1 is all
        fixed = {"temperature": 0.0, "max_tokens": 1, "logprobs": number, "detokenize": False}
        echo = [start < len(sequence) for start, sequence in zip(starts, sequences, strict=True)]
        questions = (
            (sequence, {**fixed, "prompt_logprobs": number if echoed else None})
            for sequence, echoed in zip(sequences, echo, strict=True)
        )
        for i, output in self._run(questions, SCORED_AT_ONCE):
            rows = _rows(output.prompt_logprobs)[starts[i] - 1 :] if echo[i] else []
            rows += _rows(output.outputs[0].logprobs)
            yield i, served.scored_rows(sequences[i], starts[i], rows, self.vocab_size, top, sampling)

    def _run(self, questions: Iterable[tuple[TokenIds, dict[str, Any]]], window: int) -> Iterator[tuple[int, Any]]:
        """Each prompt's number and output as they finish, `window` of them inside vLLM at a time."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError

        inside = self.llm.llm_engine
        waiting = enumerate(questions)
        live: dict[str, int] = {}
        try:
            while True:
                for i, (prefix, options) in itertools.islice(waiting, window - len(live)):
                    name = str(next(self._numbers))
                    params = SamplingParams(flat_logprobs=True, output_kind=RequestOutputKind.FINAL_ONLY, **options)
                    inside.add_request(name, {"prompt_token_ids": list(prefix)}, params)
                    live[name] = i
                if not live:
                    return
                if not live.keys() & self._parked.keys():
                    self._parked |= {one.request_id: one for one in inside.step() if one.finished}
                for name in live.keys() & self._parked.keys():
                    yield live.pop(name), self._parked.pop(name)
        except EngineDeadError as error:
            live.clear()
            raise FailedError(f"vLLM's processes died{_see(self._log)}") from error
        finally:
            if live:
                inside.abort_request(list(live))
            for name in live:
                self._parked.pop(name, None)


def load_vllm(
    model: str,
    *,
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    memory_gib: float | None = None,
    tensor_parallel_size: int = 1,
    engine_args: Mapping[str, Any] | None = None,
) -> VllmEngine:
    """An engine for `lab`, a model directory or a Hub id on vLLM.

    `dtype` "auto" is the one the weights are stored in; `memory_gib` bounds the keys and values on each GPU;
    `engine_args` are further arguments of `vllm.LLM`. Raises UserError where vLLM is not installed or refuses the model
    or an argument.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        with warnings.catch_warnings(action="ignore"):
            import vllm
            from vllm.platforms import current_platform
    except ImportError as error:
        raise UserError(f"--engine vllm needs vLLM, which cannot be imported here: {error}") from error
    memory = loading.check_memory(memory_gib)
    hub: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    vocabulary, config = loading.load_vocabulary(model, **hub), loading.load_config(model, **hub)
    options = {"max_logprobs": MOST_TOP if vocabulary.vocab_size > MOST_TOP else -1}
    if current_platform.is_cpu():  # vLLM 0.32 dies there when it splits the prompt of a seeded request
        options["enable_chunked_prefill"] = False
    options |= engine_args or {}
    stored = str(getattr(config, "dtype", None) or "auto").removeprefix("torch.")
    log = Path(tempfile.gettempdir()) / f"forkpoint-vllm-{os.getpid()}.log"
    try:
        with loading.output_into(log):
            llm = vllm.LLM(
                loading.source_of(model),
                dtype=stored if dtype == "auto" else dtype,
                tokenizer_revision=revision,
                tensor_parallel_size=tensor_parallel_size,
                kv_cache_memory_bytes=memory,
                enable_prefix_caching=True,
                generation_config="vllm",  # none of the model's own sampling defaults
                use_tqdm_on_load=False,
                **hub,
                **options,
            )
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        raise UserError(f"vLLM does not start with {model}: {loading.first_line(error)}{_see(log)}") from error
    settings = {
        "engine": "vllm",
        "vllm": vllm.__version__,
        "commit": vocabulary.commit,
        "dtype": str(llm.llm_engine.model_config.dtype).removeprefix("torch."),
        "tensor_parallel_size": tensor_parallel_size,
        "engine_args": without_secrets(repr(sorted(options.items()))),
    }
    return VllmEngine(llm, vocabulary, settings, log)


def _see(log: Path) -> str:
    return f" (its log: {log})" if log.stat().st_size else ""


def _rows(flat: Any) -> list[served.Named]:
    """The positions of vLLM's flat log-probabilities, where the own token stands before the likeliest."""
    return [
        served.Named(flat.token_ids[i + 1 : end], flat.logprobs[i + 1 : end], flat.token_ids[i], flat.logprobs[i])
        for i, end in zip(flat.start_indices, flat.end_indices, strict=True)
        if end > i  # a prompt's first token has no distribution
    ]
