"""Any server with an OpenAI-compatible /v1/completions that takes and returns token ids, above all `vllm serve`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from forkpoint.engines.base import Engine, Starts
from forkpoint.engines.checks import check_requests, check_scoring
from forkpoint.engines.loading import Vocabulary, load_vocabulary
from forkpoint.engines.remote import served
from forkpoint.engines.remote.openai_calls import CompletionsServer, ServerError
from forkpoint.engines.remote.openai_protocol import Abilities, abilities, check_top_n_sigma, question, read
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

    def __init__(self, server: CompletionsServer, vocabulary: Vocabulary, skills: Abilities, concurrency: int) -> None:
        self._server, self._concurrency, self._no_scores = server, concurrency, skills.no_scores
        self.name, self.tokenizer = vocabulary.name, vocabulary.tokenizer
        self.ends, self.vocab_size = vocabulary.ends, vocabulary.vocab_size
        context = skills.context or vocabulary.context
        self.context = context - 1 if context else None  # it always generates a token, also to score
        self.most_top = skills.most_top
        self._knows_sigma = False  # whether the server was seen to have top_n_sigma
        self.settings = {  # not its address, at which a run may move
            "engine": "openai",
            "served_model": server.model,
            "server": skills.owner,
            "version": skills.version,
            "commit": vocabulary.commit,
            "most_top": skills.most_top,
        }

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """See `Engine.generate`. Raises UserError as the checks do, ServerError where the server fails for good."""
        served.check_served(sampling)
        check_requests(self, requests, sampling)
        if requests and served.sigma_arguments(sampling) and not self._knows_sigma:
            check_top_n_sigma(self._server, requests[0].prefix[:1])
            self._knows_sigma = True
        return self._generate(requests, sampling)

    def _generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        url, stops = self._server.url, StopCheck(self.tokenizer, sampling.stop, self.ends, self.vocab_size)
        questions = (self._question(request, sampling) for request in requests)
        for i, reply in self._server.complete_each(questions, self._concurrency):
            request, (tokens, rows, reason) = requests[i], read(reply, NAMED, url)
            room = sampling.max_tokens - request.written
            if reason not in ("stop", "length"):
                raise ServerError(f"the server at {url} ended {request.key} with {reason!r}, not as a response")
            if reason == "length" and len(tokens) < room:
                raise ServerError(f"the server at {url} broke {request.key} off after {len(tokens)} of {room} tokens")
            yield served.served_completion(request, rows, ended=reason == "stop", stops=stops)

    def _question(self, request: Request, sampling: Sampling) -> dict[str, Any]:
        more = served.policy_arguments(sampling)
        if sampling.temperature > 0:
            more["seed"] = served.request_seed(sampling, request.key)
        if sampling.stop:
            more["stop"] = list(sampling.stop)
        if sigma := served.sigma_arguments(sampling):
            more["vllm_xargs"] = sigma
        room = sampling.max_tokens - request.written
        return question(request.prefix, room, NAMED, stop_token_ids=list(self.ends), **more)

    def score(
        self, sequences: Sequence[TokenIds], *, top: int = 0, sampling: Sampling | None = None, starts: Starts = None
    ) -> Iterator[Scored]:
        """See `Engine.score`, and `served` for entropies and policies where not all tokens are named."""
        starts = check_scoring(self, sequences, top, sampling, starts)
        served.check_nameable(sampling, self.most_top, self.vocab_size, self.name)
        asked = [(sequence, start, start < len(sequence)) for sequence, start in zip(sequences, starts, strict=True)]
        if self._no_scores and any(echo for *_, echo in asked):
            raise UserError(f"the server at {self._server.url} cannot score given tokens: {self._no_scores}")
        return served.in_order(self._score(asked, top, sampling))

    def _score(
        self, asked: list[tuple[TokenIds, int, bool]], top: int, sampling: Sampling | None
    ) -> Iterator[tuple[int, Scored]]:
        """Of each sequence, start, and whether the server must echo the sequence."""
        questions = (
            question(sequence, 1, self.most_top, temperature=0.0) | ({"echo": True} if echo else {})
            for sequence, _, echo in asked
        )
        at_once = min(self._concurrency, SCORED_AT_ONCE) if any(echo for *_, echo in asked) else self._concurrency
        for i, reply in self._server.complete_each(questions, at_once):
            sequence, start, echo = asked[i]
            tokens, rows, _ = read(reply, self.most_top, self._server.url, start if echo else 0)
            if tokens[:-1] != (list(sequence) if echo else []):
                raise ServerError(f"the server at {self._server.url} scored other tokens than those it was sent")
            yield i, served.scored_rows(sequence, start, rows, self.vocab_size, top, sampling)


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
        return OpenAIEngine(server, vocabulary, abilities(server, vocabulary), concurrency)
    except ServerError as error:
        raise UserError(str(error)) from None
