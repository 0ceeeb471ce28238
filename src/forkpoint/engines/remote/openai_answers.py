"""What is asked of a completions server, and what its answers say about tokens: plain dicts in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forkpoint.engines.remote.named_rows import Named
from forkpoint.types import TokenIds, UserError

MARK = "token_id:"
# Said in full: servers fill what is left out from the model's generation_config.json (vLLM) or from defaults of their
# own (llama.cpp). -1 is no limit for all of them; 0 is one for some.
PLAIN: Mapping[str, Any] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}


def question(prompt: TokenIds, max_tokens: int, logprobs: int, **more: Any) -> dict[str, Any]:
    """A completion of token ids, `logprobs` likeliest tokens named at each position; `more` overrides all else."""
    return {
        "prompt": list(prompt),
        "max_tokens": max_tokens,
        "logprobs": logprobs,
        "return_tokens_as_token_ids": True,
        **PLAIN,
        **more,
    }


@dataclass(frozen=True, slots=True)
class Answer:
    """Tokens as the server reports them, the prompt's first where it was to echo them, and why it stopped.

    `tops` are as many of the likeliest tokens as were `asked` for, and the position's own where it is none of them.
    """

    token_ids: Sequence[int]
    logprobs: Sequence[float]
    tops: Sequence[Mapping[str, float] | None]
    asked: int
    reason: str | None

    def named(self, i: int) -> Named:
        """Position i, of which the own token is that of the answer."""
        own = self.token_ids[i]
        tops = {_id(token): logprob for token, logprob in (self.tops[i] or {}).items()}
        if len(tops) > self.asked:
            tops.pop(own, None)
        return Named(list(tops), list(tops.values()), own, self.logprobs[i])

    def gap(self, i: int) -> float:
        """p(top1) - p(top2) at position i."""
        first, second = sorted(self.named(i).logprobs, reverse=True)[:2]
        return math.exp(first) - math.exp(second)


def read(answer: Any, asked: int, url: str) -> Answer:
    """The first choice of an answer with `asked` tokens a position. UserError, one sentence, for what is left out."""
    try:
        choice = answer["choices"][0]
        logprobs, reason = choice.get("logprobs"), choice.get("finish_reason")
    except (TypeError, KeyError, IndexError, AttributeError):
        raise UserError(f"the server at {url} does not answer as a completions server does") from None
    if not logprobs or not logprobs.get("tokens") or not logprobs.get("top_logprobs"):
        raise UserError(f"the server at {url} gives no log-probabilities of completions (logprobs); vLLM does")
    tokens = logprobs["tokens"]
    if not all(token.startswith(MARK) for token in tokens):
        raise UserError(
            f"the server at {url} does not return token ids (return_tokens_as_token_ids), and text alone does not "
            "tell which tokens were generated; vLLM does"
        )
    own = [math.nan if logprob is None else logprob for logprob in logprobs["token_logprobs"]]
    return Answer([_id(token) for token in tokens], own, logprobs["top_logprobs"], asked, reason)


def _id(token: str) -> int:
    return int(token.removeprefix(MARK))
