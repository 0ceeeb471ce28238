"""Strategies as a model of lm-eval (EleutherAI's evaluation harness), over any engine.

    lm = StrategyLM("cot-decoding:k=10", "lab")
    lm_eval.simple_evaluate(lm, tasks=["gsm8k_cot_zeroshot"])

`generate_until` answers by the strategy. Log-likelihoods are the model's own, whichever strategy: contexts and
continuations are tokenised, cut and scored as lm-eval's own model for transformers (HFLM) does it. Importing this
module registers the model "forkpoint" with lm-eval. Knows nothing of tasks.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, TypeVar, get_args

import numpy as np
import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import has_bos_prefix, resolve_max_length
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from forkpoint import __version__
from forkpoint.decoding.outcome import Case, Outcome
from forkpoint.decoding.strategies import Strategy
from forkpoint.engines import Engine, load_engine
from forkpoint.engines.loading import first_line
from forkpoint.evaluation.evaluate import UNIT_PATHS, Progress
from forkpoint.evaluation.lm_eval_cache import claim_cache, weights_of
from forkpoint.evaluation.lm_eval_kwargs import one_response_strategy, settled
from forkpoint.files import Journal, to_json
from forkpoint.tasks import render_chat
from forkpoint.text import cut_at_stop, decode
from forkpoint.types import AnswerKind, TokenIds, UserError

log = logging.getLogger(__name__)
COUNTS = ("tokens_generated", "responses", "cut_off")  # of an LM, in lm-eval's results beside its settings
T = TypeVar("T")

Window = tuple[TokenIds, int]
"""Tokens to score, and the number of the first that counts."""


@register_model("forkpoint")
class StrategyLM(TemplateLM):  # type: ignore[misc]
    """A decoding strategy as lm-eval's `LM`.

    `strategy` is a text as in `forkpoint eval`; further options of it may follow as arguments of their own
    (`temperature=0.7`), since lm-eval's --model_args splits at commas. `model` is an engine, or what `load_engine`
    takes, with `device` to `memory_gib`. `answer_kind` says how cot-decoding and self-consistency read answers.
    `max_gen_toks` is the longest response where neither strategy nor task says, `max_length` the most tokens the model
    reads (default: its own context). Work that `journal` holds is not done again. lm-eval's batch sizes count for
    nothing: the engine sees to that.

    Raises UserError for a strategy that does not give one response, options out of range, and a model that cannot be
    loaded.
    """

    def __init__(
        self,
        strategy: str = "greedy",
        model: Any = "lab",
        *,
        answer_kind: AnswerKind = "number",
        max_gen_toks: int = 256,
        max_length: int | None = None,
        seed: int = 0,
        device: str = "auto",
        dtype: str = "auto",
        attn_implementation: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        memory_gib: float | None = None,
        journal: Journal | None = None,
        progress: Progress | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        **more: Any,
    ) -> None:
        super().__init__()
        self.strategy = one_response_strategy(strategy)
        for option, value in more.items():
            self.strategy = one_response_strategy(self.strategy.with_option(option, str(value).lower()).spec)
        if answer_kind not in get_args(AnswerKind):
            raise UserError(f"answer_kind must be one of {', '.join(get_args(AnswerKind))}, but is {answer_kind!r}")
        self.engine: Engine = model
        if isinstance(model, str):
            self.engine = load_engine(
                model, device=_present(device), dtype=dtype, attn_implementation=attn_implementation, revision=revision,
                trust_remote_code=trust_remote_code, memory_gib=memory_gib,
            )  # fmt: skip
        self.tokenizer = self.engine.tokenizer
        self.answer_kind, self.max_gen_toks, self.seed = answer_kind, max_gen_toks, seed
        self.max_length: int = max_length or self.engine.context or resolve_max_length(None, self.tokenizer)
        self.tokens_generated = self.responses = self.cut_off = 0
        self._journal, self._progress = journal or Journal(None), progress

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token that stands before a text without context."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    @property
    def tokenizer_name(self) -> str:
        """Tells lm-eval's cached prompts of one tokenizer from those of another."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **others: Any) -> list[int]:
        """Token ids as HFLM makes them: a text that begins with the prefix token's own text gets it only once."""
        if add_special_tokens is None and has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id)):
            add_special_tokens = False
        special = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer.encode(string, **special))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as text by the tokenizer's own template, without system messages where that takes none."""
        options = {"add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
        try:
            return render_chat(self.tokenizer, chat_history, **options)
        except UserError:
            others = [message for message in chat_history if message["role"] != "system"]
            if len(others) == len(chat_history):
                raise
            return render_chat(self.tokenizer, others, **options)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template by its name, or the tokenizer's own for True; UserError where there is none."""
        try:
            found: str | None = super().chat_template(chat_template)
        except ValueError as error:  # several lines of advice
            raise UserError(f"no chat template can be applied: {first_line(error)}") from None
        return found

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes about the model into its results."""
        counts = {name: getattr(self, name) for name in COUNTS}
        return {**self._identity(), **counts}

    def _identity(self) -> dict[str, Any]:
        """All that decides an answer but the request."""
        return {
            "model": self.engine.name,
            "engine": dict(self.engine.settings),
            "strategy": self.strategy.spec,
            "answer_kind": self.answer_kind,
            "max_gen_toks": self.max_gen_toks,
            "max_length": self.max_length,
            "strategy_seed": self.seed,
            "forkpoint_version": __version__,
        }

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Take lm-eval's cache of answers (--use_cache), which knows requests but no models: see `claim_cache`."""
        if cache_hook.dbdict is not None:
            claim_cache(cache_hook.dbdict, self.strategy, {**self._identity(), "weights": weights_of(self.engine)})
        super().set_cache_hook(cache_hook)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The response to each request's context by the strategy, before the first of the request's stop strings."""
        responses = [""] * len(requests)
        alike: dict[str, list[int]] = defaultdict(list)
        for i, request in enumerate(requests):
            alike[json.dumps(request.args[1], sort_keys=True, default=str)].append(i)
        done = 0
        for places in alike.values():
            asked = requests[places[0]].args[1]
            strategy = settled(self.strategy, asked, max_gen_toks=self.max_gen_toks, seed=self.seed)
            cases = self._cases([requests[i].args[0] for i in places], strategy.sampling.max_tokens)
            parts = _parts(list(zip(places, cases, strict=True)), UNIT_PATHS // strategy.n_paths())
            units = [(strategy, [case for _, case in part]) for part in parts]
            names = [[strategy.spec, asdict(strategy.sampling), [case.id for case in its]] for _, its in units]
            for part, answers in zip(parts, self._worked(_answer, units, names), strict=True):
                for (i, _), text in zip(part, answers["responses"], strict=True):
                    responses[i] = text
                    self.cache_hook.add_partial("generate_until", requests[i].args, text)
                done += len(part)
                self.tokens_generated += answers["tokens"]
                self.responses += len(part)
                self.cut_off += answers["cut_off"]
                self._show(done, len(requests))
        return responses

    def _cases(self, contexts: Sequence[str], room: int) -> list[Case]:
        """Each context as a prompt that leaves room for the response, cut on the left where it must be.

        A prompt's id is of its tokens and of how often they came before, so that what is drawn for it depends neither
        on the other requests nor on their order, and repeated requests draw anew.
        """
        most = self.max_length - room
        if most < 1:
            raise UserError(f"a response may have {room} tokens, but {self.engine.name} reads at most "
                            f"{self.max_length}, the prompt included")  # fmt: skip
        seen: Counter[str] = Counter()
        cases, cut = [], 0
        for context in contexts:
            prompt = self._prompt(context)
            cut += len(prompt) > most
            ids = prompt[-most:]
            digest = hashlib.blake2b(to_json(ids).encode(), digest_size=16).hexdigest()
            cases.append(Case(f"{digest}:{seen[digest]}", ids, self.answer_kind))
            seen[digest] += 1
        if cut:
            log.warning("%d of %d contexts are longer than %d tokens, which leave room for a response of %d; the rest, "
                        "on the left, is cut off", cut, len(cases), most, room)  # fmt: skip
        return cases

    def _prompt(self, context: str) -> TokenIds:
        """A context's tokens; an end-of-sequence token that the tokenizer puts behind is none of them."""
        ids = self.tok_encode(context)
        if len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id:
            ids = ids[:-1]
        return tuple(ids) or (self.prefix_token_id,)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Of each (context, continuation): the continuation's log-probability, and whether greedy decoding gives it."""
        return list(super().loglikelihood(requests, disable_tqdm=disable_tqdm))

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each text, in windows of at most `max_length` tokens that share no prediction."""
        windows: list[tuple[None, list[int], list[int]]] = []
        of_request: list[int] = []
        for i, request in enumerate(requests):
            rolling = get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self._most() - 1, 1
            )
            pairs = [make_disjoint_window(pair) for pair in rolling]
            windows += [(None, context, continuation) for context, continuation in pairs]
            of_request += [i] * len(pairs)
        totals = [0.0] * len(requests)
        for i, (logprob, _) in zip(of_request, self._loglikelihood_tokens(windows), strict=True):
            totals[i] += logprob
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **others: Any
    ) -> list[tuple[float, bool]]:
        """Of each (texts, context, continuation): the continuation's log-probability, and whether it is greedy."""
        windows = [self._window(context, continuation) for _, context, continuation in requests]
        parts = _parts(windows, UNIT_PATHS)
        found: list[tuple[float, bool]] = []
        for unit in self._worked(_score, parts, parts):
            found += [(logprob, greedy) for logprob, greedy in unit]
            self._show(len(found), len(requests))
        for (texts, _, _), result in zip(requests, found, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, result)
        return found

    def _window(self, context: list[int], continuation: list[int]) -> Window:
        most = self._most()
        if len(continuation) >= most:
            raise UserError(f"a continuation has {len(continuation)} tokens, but {self.engine.name} scores at most "
                            f"{most - 1} after at least one of context")  # fmt: skip
        if len(context) + len(continuation) > most:
            log.warning("a context of %d tokens with a continuation of %d is longer than %d; it is cut on the left",
                        len(context), len(continuation), most)  # fmt: skip
        tokens = tuple(context + continuation)[-most:]
        return tokens, len(tokens) - len(continuation)

    def _most(self) -> int:
        """Most tokens of a sequence to score: one more than the model reads at once, as the last is only predicted,
        unless the engine, which is given it, too, has no place for it."""
        return min(self.max_length + 1, self.engine.context or self.max_length + 1)

    def _worked(self, work: Callable[[Engine, T], Any], units: Sequence[T], names: Sequence[Any]) -> Iterator[Any]:
        """work(engine, unit) of each unit, as JSON gives it back; what the journal holds is not done again."""
        keys = [hashlib.blake2b(to_json([work.__name__, name]).encode(), digest_size=16).hexdigest() for name in names]
        units_by_key = dict(zip(keys, units, strict=True))
        known = {entry["unit"]: entry["result"] for entry in self._journal if entry["unit"] in units_by_key}
        fresh = self.engine.map(work, [unit for key, unit in units_by_key.items() if key not in known])
        for key in keys:
            if key not in known:
                known[key] = next(fresh)
                self._journal.append({"unit": key, "result": known[key]})
            yield known[key]

    def _show(self, done: int, total: int) -> None:
        if self._progress:
            self._progress(self.strategy.spec, done, total, self.tokens_generated)


def _present(device: str) -> str:
    """The device; lm-eval's command asks for cuda:0 where nobody said anything, which need not be there."""
    return device if torch.cuda.is_available() or not device.startswith("cuda") else "auto"


def _answer(engine: Engine, unit: tuple[Strategy, list[Case]]) -> dict[str, Any]:
    """The responses to some prompts, how many of them hit the length limit, and how many tokens they took."""
    strategy, cases = unit
    outcomes = strategy.solve(engine, cases)
    found = [_response(engine, outcome, strategy.sampling.stop) for outcome in outcomes]
    return {
        "responses": [text for text, _ in found],
        "cut_off": sum(cut_off for _, cut_off in found),
        "tokens": sum(outcome.tokens_generated for outcome in outcomes),
    }


def _response(engine: Engine, outcome: Outcome, stop: tuple[str, ...]) -> tuple[str, bool]:
    """The chosen text, and whether it hit the length limit. It also ends before a special token that a stop string
    names and that ends no response of this model: such tokens are no part of a text, so the engine does not find them
    there."""
    known = getattr(engine.tokenizer, "added_tokens_decoder", {})
    ends = {i for i, token in known.items() if token.special and token.content in stop}
    path = outcome.paths[outcome.chosen]
    at = next((i for i, token in enumerate(path.token_ids) if token in ends), None)
    if at is None or path.continuation is not None:
        return outcome.response, path.finish_reason == "length"
    return cut_at_stop(decode(engine.tokenizer, path.token_ids[:at]), stop), False


def _score(engine: Engine, windows: list[Window]) -> list[tuple[float, bool]]:
    """Of each window: the log-probability of what counts, and whether it is the greedy choice throughout."""
    scored = engine.score([tokens for tokens, _ in windows], top=1, starts=[start for _, start in windows])
    found = []
    for (tokens, start), s in zip(windows, scored, strict=True):
        rows = slice(start, len(tokens))
        greedy = s.top_ids[rows, 0] == np.array(tokens[rows])
        found.append((float(s.logprobs[rows].sum(dtype=np.float64)), bool(greedy.all())))
    return found


def _parts(items: list[T], size: int) -> list[list[T]]:
    size = max(1, size)
    return [items[start : start + size] for start in range(0, len(items), size)]
