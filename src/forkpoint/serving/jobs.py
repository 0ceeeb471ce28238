"""From a request's body to the work that it means: a checked strategy and checked cases.

Everything that is the client's fault is found here, before an engine is asked for anything.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from forkpoint.decoding.cot import parse_position
from forkpoint.decoding.outcome import Case
from forkpoint.decoding.strategies import Strategy, parse_strategy
from forkpoint.engines import Engine
from forkpoint.engines.checks import check_sequence
from forkpoint.serving.errors import ApiError, bad
from forkpoint.serving.requests import Body, ChatBody, CompletionBody, Message
from forkpoint.serving.settings import Settings
from forkpoint.tasks import encode, render_chat
from forkpoint.text import decode
from forkpoint.types import TokenIds, UserError

SERVED = ("greedy", "sample", "self-consistency", "cot-decoding")
LONGEST_SPEC = 200
_one_at_a_time = threading.Lock()  # Hugging Face's tokenizers may refuse a second thread while one is set up


@dataclass(frozen=True)
class Job:
    """What one request asks for: its body, cases, and the strategy that solves them."""

    body: Body
    strategy: Strategy
    cases: tuple[Case, ...]

    @property
    def prompt_tokens(self) -> int:
        return sum(len(case.prompt) for case in self.cases)


def job_of(engine: Engine, body: Body, settings: Settings) -> Job:
    """The job of a body. Raises ApiError: 404 for a strategy that is none, 400 for all else."""
    strategy = _counted(served_strategy(body.model), body.n)
    prompts = _prompts(engine, body)
    positions = parse_position(str(strategy.options["position"]))[1] if strategy.name == "cot-decoding" else 1
    paths = len(prompts) * strategy.n_paths() * max(1, positions)
    if paths > settings.most_paths:
        raise bad(f"the request asks for {paths} paths, but this server decodes at most {settings.most_paths} for one")
    k = int(strategy.options.get("k", 1))
    if k > engine.most_top:
        raise bad(f"k may be at most {engine.most_top} here, as many tokens a position as {engine.name} names", "model")
    longest = max(len(ids) for _, ids in prompts)
    room = max(1, engine.context - longest) if engine.context else settings.max_tokens
    try:
        strategy = strategy.with_defaults(
            **body.policy(), stop=body.stop, seed=secrets.randbits(48) if body.seed is None else body.seed,
            max_tokens=body.length() or min(settings.max_tokens, room),
        )  # fmt: skip
        for _, ids in prompts:
            check_sequence(engine, ids, "the prompt", strategy.sampling.max_tokens)
    except UserError as error:
        raise bad(str(error)) from None
    cases = [
        Case(_case_id(ids, i), ids, body.answer_kind, tuple(body.options), question)
        for i, (question, ids) in enumerate(prompts)
    ]
    return Job(body, strategy, tuple(cases))


def served_strategy(spec: str) -> Strategy:
    """The strategy that `model` names. Raises a 404 with the parser's sentence, or for one that is not served."""
    try:
        if len(spec) > LONGEST_SPEC:
            raise UserError(f"a model name has at most {LONGEST_SPEC} characters")
        strategy = parse_strategy(spec)
        if strategy.name not in SERVED:
            raise UserError(f"{strategy.name} is not served; there are {', '.join(SERVED)}")
    except UserError as error:
        raise ApiError(404, str(error), "model", "model_not_found") from None
    return strategy


def _counted(strategy: Strategy, n: int | None) -> Strategy:
    """The strategy that gives n choices: draws of `sample`; the others give one answer."""
    if n is None or n == (strategy.options["n"] if strategy.name == "sample" else 1):
        return strategy
    if strategy.name != "sample":
        raise bad(f"n must be 1 for {strategy.name}, which gives one answer; return_paths shows every path", "n")
    if any(part.partition("=")[0].strip() == "n" for part in strategy.spec.partition(":")[2].split(",")):
        raise bad(f"n is {n}, but the model's name says n={strategy.options['n']}", "n")
    return strategy.with_option("n", str(n))


def _prompts(engine: Engine, body: Body) -> list[tuple[str, TokenIds]]:
    """Each prompt's question and its token ids."""
    with _one_at_a_time:
        if isinstance(body, ChatBody):
            questions = ["", *(m.content for m in body.messages if m.role == "user")]
            return [(questions[-1], _chat_ids(engine.tokenizer, body.messages))]
        assert isinstance(body, CompletionBody)
        return [
            (prompt, encode(prompt, engine.tokenizer)) if isinstance(prompt, str) else (_text(engine, prompt), prompt)
            for prompt in body.prompt
        ]


def _text(engine: Engine, ids: TokenIds) -> str:
    known = 0 <= min(ids) <= max(ids) < engine.vocab_size
    return decode(engine.tokenizer, ids) if known else ""  # refused later, with a sentence


def _chat_ids(tokenizer: Any, messages: Sequence[Message]) -> TokenIds:
    """A conversation as token ids, by the tokenizer's own chat template. Raises a 400 where that refuses it."""
    plain = [{"role": m.role.replace("developer", "system"), "content": m.content} for m in messages]
    try:
        text = render_chat(tokenizer, plain, add_generation_prompt=True)
    except UserError as error:
        raise bad(f"{error}; use /v1/completions with a prompt", "messages") from None
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _case_id(prompt: TokenIds, index: int) -> str:
    """Of the prompt alone, so that the same seed draws the same; the index keeps a request's equal prompts apart."""
    digest = hashlib.blake2b(",".join(map(str, prompt)).encode(), digest_size=16).hexdigest()
    return f"{index}:{digest}"
