"""Any server with an OpenAI-compatible /v1/completions that takes and returns token ids, above all `vllm serve`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from forkpoint.engines.base import Engine
from forkpoint.engines.checks import check_requests, check_scoring
from forkpoint.engines.remote.named_rows import check_nameable, scored_rows
from forkpoint.engines.remote.openai_answers import Answer, question, read
from forkpoint.engines.remote.openai_calls import CompletionsServer, ServerError
from forkpoint.engines.remote.openai_probe import Abilities, abilities, check_top_n_sigma
from forkpoint.engines.remote.served import check_served, in_order, policy_arguments, request_seed, served_completion
from forkpoint.engines.vocabulary import Vocabulary, load_vocabulary
from forkpoint.redaction import without_secrets
from forkpoint.text import StopCheck
from forkpoint.types import Completion, Request, Sampling, Scored, TokenIds, UserError

NAMED = 2  # tokens a position of a response: what its gap needs
SCORED_AT_ONCE = 8  # whole sequences: each answer names hundreds of tokens a position


class OpenAIEngine(Engine):
    """Implements `Engine` over a server of completions and the vocabulary of its model.

    `concurrency` bounds the requests in flight. Draws depend on (seed, key) alone where the server honours a request's
    seed, but its logits, as to their last bits, on what else it does at the time.
    """

    def __init__(self, server: CompletionsServer, vocabulary: Vocabulary, able: Abilities, concurrency: int) -> None:
        self._server, self._able, self._concurrency = server, able, concurrency
        self.name, self.tokenizer = vocabulary.name, vocabulary.tokenizer
        self.ends, self.vocab_size = vocabulary.ends, vocabulary.vocab_size
        room = able.context or vocabulary.context
        self.context: int | None = room - 1 if room else None  # it always generates a token, also to score
        self.most_top = able.most_top
        self._cuts = False  # whether the server is known to have top_n_sigma
        self._settings: dict[str, str | int | None] = {
            "engine": "openai",
            "served_model": server.model,
            "server": able.owner,
            "version": able.version,
            "commit": vocabulary.commit,
            "most_top": able.most_top,
        }

    @property
    def settings(self) -> Mapping[str, str | int | None]:
        """What else but the name decides this engine's results; not its address, at which a run may move."""
        return self._settings

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """See `Engine.generate`. Raises UserError as the checks do, ServerError where the server fails for good."""
        check_served(sampling)
        check_requests(self, requests, sampling)
        if requests and _cuts(sampling) and not self._cuts:
            check_top_n_sigma(self._server, requests[0].prefix[:1])
            self._cuts = True
        return self._generate(requests, sampling)

    def _generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        stops = StopCheck(self.tokenizer, sampling.stop, self.ends, self.vocab_size)
        asked = (self._question(request, sampling) for request in requests)
        for i, answer in self._server.complete_each(asked, self._concurrency):
            request, told = requests[i], read(answer, NAMED, self._server.url)
            self._check_whole(told, request.key, sampling.max_tokens - request.written)
            gaps = [told.gap(j) for j in range(len(told.token_ids))]
            ended = told.reason == "stop"
            yield served_completion(request, told.token_ids, told.logprobs, gaps, ended=ended, stops=stops)

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
        echo = [begin < len(sequence) for begin, sequence in zip(begins, sequences, strict=True)]
        if any(echo) and self._able.no_scores:
            raise UserError(f"the server at {self._server.url} cannot score given tokens: {self._able.no_scores}")
        return in_order(self._score(sequences, begins, echo, top, sampling))

    def _score(
        self,
        sequences: Sequence[TokenIds],
        begins: Sequence[int],
        echo: Sequence[bool],
        top: int,
        sampling: Sampling | None,
    ) -> Iterator[tuple[int, Scored]]:
        asked = (
            question(sequence, 1, self.most_top, temperature=0.0, **({"echo": True} if echoed else {}))
            for sequence, echoed in zip(sequences, echo, strict=True)
        )
        at_once = min(self._concurrency, SCORED_AT_ONCE) if any(echo) else self._concurrency
        for i, answer in self._server.complete_each(asked, at_once):
            told, tokens = read(answer, self.most_top, self._server.url), sequences[i]
            if list(told.token_ids[:-1]) != (list(tokens) if echo[i] else []):
                raise ServerError(f"the server at {self._server.url} scored other tokens than those it was sent")
            rows = [told.named(j) for j in range(begins[i] if echo[i] else 0, len(told.token_ids))]
            yield i, scored_rows(tokens, begins[i], rows, self.vocab_size, top, sampling)

    def beam_search(self, requests: Sequence[Request], num_beams: int, sampling: Sampling) -> Iterator[Completion]:
        """Refused: servers end and score beams in ways of their own, or have none."""
        raise UserError("beam search runs with --engine transformers only")

    def _question(self, request: Request, sampling: Sampling) -> dict[str, Any]:
        more = policy_arguments(sampling)
        if sampling.temperature > 0:
            more["seed"] = request_seed(sampling, request.key)
        if sampling.stop:
            more["stop"] = list(sampling.stop)
        if _cuts(sampling):
            more["vllm_xargs"] = {"top_n_sigma": sampling.top_n_sigma}
        room = sampling.max_tokens - request.written
        return question(request.prefix, room, NAMED, stop_token_ids=list(self.ends), **more)

    def _check_whole(self, told: Answer, key: str, room: int) -> None:
        """ServerError for a response that the server broke off."""
        if told.reason not in ("stop", "length"):
            raise ServerError(f"the server at {self._server.url} ended {key} with {told.reason!r}, not as a response")
        if told.reason == "length" and len(told.token_ids) < room:
            raise ServerError(
                f"the server at {self._server.url} broke {key} off after {len(told.token_ids)} of {room} tokens"
            )


def load_openai(
    model: str,
    base_url: str,
    *,
    served_model: str | None = None,
    concurrency: int = 64,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> OpenAIEngine:
    """An engine for a model behind `base_url` (http://HOST:PORT/v1); `model` says where its tokenizer is.

    `served_model` is the model's name there (default: `model`). The key is read from OPENAI_API_KEY, and from nowhere
    else. Raises UserError where there is no server, no such model, or a server that lacks what is needed.
    """
    if not base_url.startswith(("http://", "https://")):
        shown = without_secrets(f"http://{base_url.lstrip('/')}").removeprefix("http://")
        raise UserError(f"a server's address starts with http:// or https://, but is {shown}")
    if concurrency < 1:
        raise UserError(f"concurrency must be at least 1, but is {concurrency}")
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UserError("OPENAI_API_KEY holds characters that no key has")
    vocabulary = load_vocabulary(model, revision=revision, trust_remote_code=trust_remote_code)
    server = CompletionsServer(base_url, served_model or model, key)
    try:
        able = abilities(server, vocabulary)
    except ServerError as error:
        raise UserError(str(error)) from None
    return OpenAIEngine(server, vocabulary, able, concurrency)


def _cuts(sampling: Sampling) -> bool:
    return sampling.top_n_sigma > 0 and sampling.temperature > 0
