"""OpenAI's completions protocol with token ids: what is asked, what answers contain, and what a server can do.

The last is learnt from a few tiny requests before any work is given to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from forkpoint.engines.loading import Vocabulary
from forkpoint.engines.remote.openai_calls import CompletionsServer, RefusedError, ServerError
from forkpoint.engines.remote.served import Named
from forkpoint.types import TokenIds, UserError

MARK = "token_id:"
# Written out in full: servers fill what is left out from the model's generation_config.json (vLLM) or from defaults of
# their own (llama.cpp). -1 is no limit for all of them; 0 is one for some.
PLAIN = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
MOST_TOP = 512  # more would make answers of megabytes
FEWER = (100, 20, 10, 5, 2)
SAME = 0.25  # nats: low precision stays below, a temperature of 2 does not
TEXT = "Q: 1 + 1 = ?\nA:"


def question(prompt: TokenIds, max_tokens: int, logprobs: int, **more: Any) -> dict[str, Any]:
    """A completion of token ids, `logprobs` likeliest tokens named at each position; `more` overrides all else."""
    basis = {"prompt": list(prompt), "max_tokens": max_tokens, "logprobs": logprobs, "return_tokens_as_token_ids": True}
    return basis | PLAIN | more


class Answer(NamedTuple):
    """Tokens as the server reports them, the prompt's first where it was to echo them; rows; and why it stopped."""

    tokens: list[int]
    rows: list[Named]
    reason: str | None


def ask(server: CompletionsServer, prompt: TokenIds, max_tokens: int, logprobs: int, **more: Any) -> Answer:
    """The answer to one small question."""
    return read(server.complete(question(prompt, max_tokens, logprobs, **more)), logprobs, server.url)


def read(answer: Any, asked: int, url: str, first: int = 0) -> Answer:
    """The first choice of an answer, with the rows of its positions from `first` on.

    A row names the `asked` likeliest tokens. UserError, one sentence, for what is left out.
    """
    try:
        choice = answer["choices"][0]
        logprobs, reason = choice.get("logprobs"), choice.get("finish_reason")
    except (TypeError, KeyError, IndexError, AttributeError):
        raise UserError(f"the server at {url} does not answer as a completions server does") from None
    if not logprobs or not logprobs.get("tokens") or not logprobs.get("top_logprobs"):
        raise UserError(f"the server at {url} gives no log-probabilities of completions (logprobs); vLLM does")
    if not all(token.startswith(MARK) for token in logprobs["tokens"]):
        raise UserError(
            f"the server at {url} does not return token ids (return_tokens_as_token_ids), and text alone does not "
            "tell which tokens were generated; vLLM does"
        )
    tokens, rows = [_id(token) for token in logprobs["tokens"]], []
    positions = list(zip(tokens, logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True))
    for own, own_logprob, named in positions[first:]:
        tops = {_id(token): logprob for token, logprob in (named or {}).items()}
        if len(tops) > asked:  # the position's own token is named, too, where it is none of the likeliest
            tops.pop(own, None)
        rows.append(Named(list(tops), list(tops.values()), own, math.nan if own_logprob is None else own_logprob))
    return Answer(tokens, rows, reason)


def _id(token: str) -> int:
    return int(token.removeprefix(MARK))


@dataclass(frozen=True, slots=True)
class Abilities:
    """`most_top` tokens are named a position; `no_scores` says why given tokens cannot be scored, if so."""

    most_top: int
    no_scores: str | None
    context: int | None  # tokens, where the server says so
    owner: str | None  # what kind of server it calls itself
    version: str | None


def abilities(server: CompletionsServer, vocabulary: Vocabulary) -> Abilities:
    """Raises UserError, one sentence, where the server lacks the model or what every completion needs."""
    entry = _entry(server)
    prompt = tuple(vocabulary.tokenizer(TEXT, add_special_tokens=False)["input_ids"])
    (end,), (plain,), _ = _first(server, prompt)
    (hot,) = ask(server, prompt, 1, 2, temperature=2.0).rows
    after = dict(zip(hot.ids, hot.logprobs, strict=True))
    if any(abs(logprob - after.get(i, logprob)) > SAME for i, logprob in zip(plain.ids, plain.logprobs, strict=True)):
        raise UserError(
            f"the server at {server.url} gives log-probabilities after the temperature, but those before it are "
            "needed; vLLM needs --logprobs-mode raw_logprobs"
        )
    tokens, _, reason = ask(server, prompt, 2, 2, temperature=0.0, stop_token_ids=[end])
    if (tokens, reason) != ([end], "stop"):
        raise UserError(
            f"the server at {server.url} does not end a response with the token that was to end it (stop_token_ids); "
            "vLLM does"
        )
    most_top = _most_top(server, prompt, vocabulary.vocab_size)
    no_scores = _no_scores(server, prompt, most_top)
    try:
        version = str(server.get(f"{server.above}/version")["version"])
    except (UserError, ServerError, TypeError, KeyError):
        version = None
    return Abilities(most_top, no_scores, entry.get("max_model_len"), entry.get("owned_by"), version)


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
        entries = {entry["id"]: dict(entry) for entry in server.get("/models")["data"]}
    except (RefusedError, TypeError, KeyError):
        raise UserError(
            f"there is no list of models at {server.url}/models; a server's address mostly ends in /v1, "
            "as http://localhost:8000/v1"
        ) from None
    if server.model not in entries:
        raise UserError(
            f"the server at {server.url} has no model {server.model}; its models are: {', '.join(entries) or 'none'} "
            "(--served_model says which)"
        )
    return entries[server.model]


def _first(server: CompletionsServer, prompt: TokenIds) -> Answer:
    """One greedy token after the prompt."""
    body = question(prompt, 1, 2, temperature=0.0)
    try:
        answer = server.complete(body)
    except RefusedError:
        server.complete({**body, "prompt": TEXT})  # if that is refused, too, it is not for the ids
        raise UserError(f"the server at {server.url} takes no token ids as prompt; vLLM does") from None
    first = read(answer, 2, server.url)
    n_read = (answer.get("usage") or {}).get("prompt_tokens", len(prompt))
    if n_read != len(prompt):
        raise UserError(f"the server at {server.url} read {n_read} tokens where {len(prompt)} token ids were sent")
    if sum(map(math.exp, first.rows[0].logprobs)) > 1.01:
        raise UserError(
            f"the server at {server.url} gives other numbers than log-probabilities; vLLM needs "
            "--logprobs-mode raw_logprobs"
        )
    return first


def _most_top(server: CompletionsServer, prompt: TokenIds, vocab_size: int) -> int:
    for number in (min(MOST_TOP, vocab_size), *(n for n in FEWER if n < vocab_size)):
        try:
            return min(number, len(ask(server, prompt, 1, number, temperature=0.0).rows[0].ids))
        except RefusedError:
            continue
    raise AssertionError("2 were named before")


def _no_scores(server: CompletionsServer, prompt: TokenIds, most_top: int) -> str | None:
    try:
        tokens, rows, _ = ask(server, prompt, 1, most_top, temperature=0.0, echo=True)
    except RefusedError as error:
        return f"it refuses echo with logprobs: {error.message}"
    if tokens[:-1] == list(prompt) and all(len(row.ids) >= most_top for row in rows[1:]):
        return None
    return "it does not echo the prompt with its log-probabilities"
