"""vLLM in this machine's GPUs (or its CPU build): token-id prompts, prefix caching, many requests in one batch."""

from __future__ import annotations

import itertools
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from forkpoint.engines.base import Engine
from forkpoint.engines.checks import check_requests, check_scoring
from forkpoint.engines.loading import first_line, load_config, source_of
from forkpoint.engines.quiet import output_into
from forkpoint.engines.remote.named_rows import Named, check_nameable, scored_rows
from forkpoint.engines.remote.served import check_served, in_order, policy_arguments, request_seed, served_completion
from forkpoint.engines.vocabulary import Vocabulary, load_vocabulary
from forkpoint.redaction import without_secrets
from forkpoint.text import StopCheck
from forkpoint.types import Completion, FailedError, Request, Sampling, Scored, TokenIds, UserError

MOST_TOP = 512  # alternatives a position that are named, unless engine_args say otherwise
SCORED_AT_ONCE = 8  # sequences: their log-probabilities are Python numbers, and many


class VllmEngine(Engine):
    """Implements `Engine` over a `vllm.LLM` and the vocabulary of its model.

    `most_top` alternatives a position are named; where that is the whole vocabulary, probabilities under every policy
    are exact, else see `named_rows`. Draws depend on (seed, key) alone, but vLLM's logits, as to their last bits, on
    what runs beside a request: a draw at the edge may differ between runs.
    """

    def __init__(
        self, llm: Any, vocabulary: Vocabulary, settings: Mapping[str, str | int | None], log: Path | None = None
    ) -> None:
        self.llm, self._settings, self._log = llm, settings, log
        self.name, self.tokenizer = vocabulary.name, vocabulary.tokenizer
        self.ends, self.vocab_size = vocabulary.ends, vocabulary.vocab_size
        config = llm.llm_engine.model_config
        self.context: int | None = config.max_model_len - 1  # it always generates a token, also to score
        self.most_top: int = self.vocab_size if config.max_logprobs == -1 else min(self.vocab_size, config.max_logprobs)
        self._window = 2 * llm.llm_engine.vllm_config.scheduler_config.max_num_seqs
        self._numbers = itertools.count()
        self._parked: dict[str, Any] = {}  # finished requests of another iterator than the one that met them

    @property
    def settings(self) -> Mapping[str, str | int | None]:
        """What else but the name decides the last bits of this engine's results."""
        return self._settings

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """See `Engine.generate`. Raises UserError as the checks do, and for a policy that vLLM does not sample."""
        check_served(sampling)
        check_requests(self, requests, sampling)
        return self._generate(requests, sampling)

    def _generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        stops = StopCheck(self.tokenizer, sampling.stop, self.ends, self.vocab_size)
        asked = ((r.prefix, self._sampling_params(sampling, r)) for r in requests)
        for i, output in self._run(asked, self._window):
            (one,) = output.outputs
            if one.finish_reason not in ("stop", "length"):
                raise FailedError(f"vLLM ended {requests[i].key} with {one.finish_reason!r}")
            rows = _rows(one.logprobs)
            logprobs = [row.own_logprob for row in rows]
            gaps = [_gap(row) for row in rows]
            ended = one.finish_reason == "stop"
            yield served_completion(requests[i], one.token_ids, logprobs, gaps, ended=ended, stops=stops)

    def score(
        self,
        sequences: Sequence[TokenIds],
        *,
        top: int = 0,
        sampling: Sampling | None = None,
        starts: Sequence[int] | None = None,
    ) -> Iterator[Scored]:
        """See `Engine.score`, and `named_rows` for entropies and policies where not all tokens are named."""
        begins = check_scoring(self, sequences, top, sampling, starts)
        if sampling is not None:
            check_nameable(sampling, self.most_top, self.vocab_size, self.name)
        return in_order(self._score(sequences, begins, top, sampling))

    def _score(
        self, sequences: Sequence[TokenIds], begins: Sequence[int], top: int, sampling: Sampling | None
    ) -> Iterator[tuple[int, Scored]]:
        number = self._all_or(MOST_TOP)
        asked = (
            (sequence, self._scoring_params(number, prompt=begin < len(sequence)))
            for sequence, begin in zip(sequences, begins, strict=True)
        )
        for i, output in self._run(asked, SCORED_AT_ONCE):
            rows = _rows(output.prompt_logprobs)[begins[i] - 1 :] if begins[i] < len(sequences[i]) else []
            rows += _rows(output.outputs[0].logprobs)
            yield i, scored_rows(sequences[i], begins[i], rows, self.vocab_size, top, sampling)

    def beam_search(self, requests: Sequence[Request], num_beams: int, sampling: Sampling) -> Iterator[Completion]:
        """Refused: vLLM's beam search scores and ends beams otherwise than transformers'."""
        raise UserError("beam search runs with --engine transformers only")

    def _all_or(self, most: int) -> int:
        """The number of tokens to ask for at each position: all (-1) where they may be named, else `most`."""
        return -1 if self.most_top == self.vocab_size else min(most, self.most_top)

    def _sampling_params(self, sampling: Sampling, request: Request) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        cut = {"top_n_sigma": sampling.top_n_sigma} if sampling.top_n_sigma > 0 and sampling.temperature else None
        return SamplingParams(
            **policy_arguments(sampling),
            seed=None if sampling.temperature == 0 else request_seed(sampling, request.key),
            max_tokens=sampling.max_tokens - request.written,
            stop=list(sampling.stop),
            stop_token_ids=list(self.ends),
            logprobs=2,
            flat_logprobs=True,
            extra_args=cut,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _scoring_params(self, number: int, *, prompt: bool) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=0.0,
            max_tokens=1,
            logprobs=number,
            prompt_logprobs=number if prompt else None,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _run(self, asked: Iterable[tuple[TokenIds, Any]], window: int) -> Iterator[tuple[int, Any]]:
        """Each prompt's number and output as they finish, `window` of them inside vLLM at a time."""
        from vllm.v1.engine.exceptions import EngineDeadError

        inside = self.llm.llm_engine
        waiting = enumerate(asked)
        live: dict[str, int] = {}
        try:
            while True:
                for i, (prefix, params) in itertools.islice(waiting, window - len(live)):
                    name = str(next(self._numbers))
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
    vllm = _imported()
    if memory_gib is not None and memory_gib <= 0:
        raise UserError(f"memory_gib must be above 0, but is {memory_gib}")
    vocabulary = load_vocabulary(model, revision=revision, trust_remote_code=trust_remote_code)
    config = load_config(model, revision=revision, trust_remote_code=trust_remote_code)
    given = _defaults(vocabulary.vocab_size) | dict(engine_args or {})
    stored = str(getattr(config, "dtype", None) or "auto").removeprefix("torch.")
    log = Path(tempfile.gettempdir()) / f"forkpoint-vllm-{os.getpid()}.log"
    try:
        with output_into(log):
            llm = vllm.LLM(
                source_of(model),
                dtype=stored if dtype == "auto" else dtype,
                revision=revision,
                tokenizer_revision=revision,
                trust_remote_code=trust_remote_code,
                tensor_parallel_size=tensor_parallel_size,
                kv_cache_memory_bytes=None if memory_gib is None else int(memory_gib * 2**30),
                enable_prefix_caching=True,
                generation_config="vllm",  # none of the model's own sampling defaults
                use_tqdm_on_load=False,
                **given,
            )
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        raise UserError(f"vLLM does not start with {model}: {first_line(error)}{_see(log)}") from error
    settings = {
        "engine": "vllm",
        "vllm": vllm.__version__,
        "commit": vocabulary.commit,
        "dtype": str(llm.llm_engine.model_config.dtype).removeprefix("torch."),
        "tensor_parallel_size": tensor_parallel_size,
        "engine_args": without_secrets(repr(sorted(given.items()))),
    }
    return VllmEngine(llm, vocabulary, settings, log)


def _see(log: Path | None) -> str:
    return f" (its log: {log})" if log is not None and log.stat().st_size else ""


def _imported() -> Any:
    """The package, quietly."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        with warnings.catch_warnings(action="ignore"):
            import vllm
    except ImportError as error:
        raise UserError(f"--engine vllm needs vLLM, which cannot be imported here: {error}") from error
    return vllm


def _defaults(vocab_size: int) -> dict[str, Any]:
    from vllm.platforms import current_platform

    defaults: dict[str, Any] = {"max_logprobs": MOST_TOP if vocab_size > MOST_TOP else -1}
    if current_platform.is_cpu():  # vLLM 0.32 dies there when it splits the prompt of a request with a seed
        defaults["enable_chunked_prefill"] = False
    return defaults


def _rows(flat: Any) -> list[Named]:
    """The positions of vLLM's flat log-probabilities, where the own token stands before the likeliest."""
    spans = zip(flat.start_indices, flat.end_indices, strict=True)
    return [
        Named(flat.token_ids[i + 1 : end], flat.logprobs[i + 1 : end], flat.token_ids[i], flat.logprobs[i])
        for i, end in spans
        if end > i  # a prompt's first token has no distribution
    ]


def _gap(row: Named) -> float:
    """p(top1) - p(top2) of a row that names both."""
    return float(np.exp(row.logprobs[0]) - np.exp(row.logprobs[1]))
