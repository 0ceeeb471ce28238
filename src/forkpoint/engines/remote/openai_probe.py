"""What a completions server can do, found out by a few tiny requests before any work is given to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from forkpoint.engines.remote.openai_answers import Answer, question, read
from forkpoint.engines.remote.openai_calls import CompletionsServer, RefusedError, ServerError
from forkpoint.engines.vocabulary import Vocabulary
from forkpoint.types import TokenIds, UserError

MOST_TOP = 512  # more would make answers of megabytes
FEWER = (100, 20, 10, 5, 2)
SAME = 0.25  # nats: low precision stays below, a temperature of 2 does not
TEXT = "Q: 1 + 1 = ?\nA:"


@dataclass(frozen=True, slots=True)
class Abilities:
    """`most_top` tokens are named a position; `no_scores` says why given tokens cannot be scored, if so."""

    most_top: int
    no_scores: str | None
    context: int | None  # tokens, where the server says so
    owner: str | None  # what kind of server it is, as it says itself
    version: str | None


def abilities(server: CompletionsServer, vocabulary: Vocabulary) -> Abilities:
    """Raises UserError, one sentence, where the server lacks the model or what every completion needs."""
    entry = _entry(server)
    prompt = tuple(vocabulary.tokenizer(TEXT, add_special_tokens=False)["input_ids"])
    first = _first(server, prompt)
    _check_raw(server, prompt, first)
    _check_ends(server, prompt, first)
    most_top = _most_top(server, prompt, vocabulary.vocab_size)
    return Abilities(
        most_top, _no_scores(server, prompt, most_top), entry.get("max_model_len"), entry.get("owned_by"),
        _version(server),
    )  # fmt: skip


def check_top_n_sigma(server: CompletionsServer, prompt: TokenIds) -> None:
    """UserError where the server ignores top_n_sigma: with forkpoint's plugin it refuses what is no number."""
    try:
        server.complete(question(prompt, 1, 2, vllm_xargs={"top_n_sigma": "nonsense"}))
    except RefusedError as error:
        if "top_n_sigma" in error.message:
            return
    raise UserError(
        f"the server at {server.url} does not know top_n_sigma; it must be vLLM with forkpoint installed beside it, "
        "which brings the plugin"
    )


def _entry(server: CompletionsServer) -> Mapping[str, Any]:
    """What the server says of the model."""
    try:
        listed = server.get("/models")
        entries = {entry["id"]: entry for entry in listed["data"]}
    except (RefusedError, TypeError, KeyError):
        raise UserError(f"there is no list of models at {server.url}/models; a server's address mostly ends in /v1, "
                        "as http://localhost:8000/v1") from None  # fmt: skip
    if server.model not in entries:
        names = ", ".join(entries) or "none"
        raise UserError(f"the server at {server.url} has no model {server.model}; its models are: {names} "
                        "(--served_model says which)")  # fmt: skip
    return dict(entries[server.model])


def _first(server: CompletionsServer, prompt: TokenIds) -> Answer:
    """One greedy token after the prompt."""
    asked = question(prompt, 1, 2, temperature=0.0)
    try:
        answer = server.complete(asked)
    except RefusedError:
        server.complete({**asked, "prompt": TEXT})  # if that is refused, too, it is not for the ids
        raise UserError(f"the server at {server.url} takes no token ids as prompt; vLLM does") from None
    read_as = (answer.get("usage") or {}).get("prompt_tokens", len(prompt)) if isinstance(answer, Mapping) else None
    first = read(answer, 2, server.url)
    if read_as != len(prompt):
        raise UserError(f"the server at {server.url} read {read_as} tokens where {len(prompt)} token ids were sent")
    if sum(map(math.exp, first.named(0).logprobs)) > 1.01:
        raise UserError(f"the server at {server.url} gives other numbers than log-probabilities; vLLM needs "
                        "--logprobs-mode raw_logprobs")  # fmt: skip
    return first


def _check_raw(server: CompletionsServer, prompt: TokenIds, first: Answer) -> None:
    hot = read(server.complete(question(prompt, 1, 2, temperature=2.0)), 2, server.url).named(0)
    now = dict(zip(hot.ids, hot.logprobs, strict=True))
    before = first.named(0)
    pairs = [(logprob, now[i]) for i, logprob in zip(before.ids, before.logprobs, strict=True) if i in now]
    if any(abs(a - b) > SAME for a, b in pairs):
        raise UserError(f"the server at {server.url} gives log-probabilities after the temperature, but those before "
                        "it are needed; vLLM needs --logprobs-mode raw_logprobs")  # fmt: skip


def _check_ends(server: CompletionsServer, prompt: TokenIds, first: Answer) -> None:
    end = first.token_ids[0]
    ended = read(server.complete(question(prompt, 2, 2, temperature=0.0, stop_token_ids=[end])), 2, server.url)
    if list(ended.token_ids) != [end] or ended.reason != "stop":
        raise UserError(f"the server at {server.url} does not end a response with the token that was to end it "
                        "(stop_token_ids); vLLM does")  # fmt: skip


def _most_top(server: CompletionsServer, prompt: TokenIds, vocab_size: int) -> int:
    for number in (min(MOST_TOP, vocab_size), *(n for n in FEWER if n < vocab_size)):
        try:
            answer = read(server.complete(question(prompt, 1, number, temperature=0.0)), number, server.url)
        except RefusedError:
            continue
        return min(number, len(answer.named(0).ids))
    raise AssertionError("2 were named before")


def _no_scores(server: CompletionsServer, prompt: TokenIds, most_top: int) -> str | None:
    try:
        answer = read(server.complete(question(prompt, 1, most_top, temperature=0.0, echo=True)), most_top, server.url)
    except RefusedError as error:
        return f"it refuses echo with logprobs: {error.message}"
    echoed = list(answer.token_ids[: len(prompt)]) == list(prompt) and len(answer.token_ids) == len(prompt) + 1
    known = all(len(answer.named(i).ids) >= most_top for i in range(1, len(answer.token_ids)))
    return None if echoed and known else "it does not echo the prompt with its log-probabilities"


def _version(server: CompletionsServer) -> str | None:
    try:
        return str(server.get_above("/version")["version"])
    except (UserError, ServerError, TypeError, KeyError):
        return None
