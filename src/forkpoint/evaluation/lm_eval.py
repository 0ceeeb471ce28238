"""Strategies as a model of lm-eval (EleutherAI's evaluation harness), over any engine.

    lm = StrategyLM("cot-decoding:k=10", "lab")
    lm_eval.simple_evaluate(lm, tasks=["gsm8k_cot_zeroshot"])

`generate_until` answers by the strategy. Log-likelihoods are the model's own: contexts and continuations are tokenised,
cut and scored as lm-eval's model for transformers (HFLM) does it. Importing this module registers the model "forkpoint"
with lm-eval. Knows nothing of tasks.
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
from transformers import PreTrainedModel

from forkpoint import __version__
from forkpoint.decoding.outcome import Case, Outcome
from forkpoint.decoding.strategies import Strategy, parse_strategy
from forkpoint.engines import Engine, load_engine
from forkpoint.engines.identity import weights_digest
from forkpoint.engines.loading import first_line
from forkpoint.evaluation.evaluate import UNIT_PATHS
from forkpoint.evaluation.lm_eval_kwargs import DRAWS, settled
from forkpoint.files import Journal, to_json
from forkpoint.tasks import render_chat
from forkpoint.text import cut_at_stop, decode
from forkpoint.types import AnswerKind, Progress, TokenIds, UserError

log = logging.getLogger(__name__)
COUNTS = ("tokens_generated", "responses", "cut_off")  # of an LM, in lm-eval's results beside its settings
LOADING = ("device", "dtype", "attn_implementation", "revision", "trust_remote_code", "memory_gib")
ONE_RESPONSE = ("greedy", "sample", "beam", "self-consistency", "cot-decoding")
T = TypeVar("T")

Window = tuple[TokenIds, int]
"""Tokens to score, and the number of the first that counts."""


def one_response_strategy(spec: str) -> Strategy:
    """The strategy of a text. UserError for one that lm-eval cannot use, since it wants one response a request."""
    strategy = parse_strategy(spec)
    if strategy.name not in ONE_RESPONSE:
        raise UserError(f"lm-eval takes one response a request, not {spec}; there are {', '.join(ONE_RESPONSE)}")
    if strategy.name == "sample" and strategy.options["n"] != 1:
        raise UserError(f"lm-eval takes one response a request, but {spec} gives {strategy.options['n']}; "
                        "a task's own `repeats` draws several, self-consistency:n=N lets them vote")  # fmt: skip
    return strategy


@register_model("forkpoint")
class StrategyLM(TemplateLM):  # type: ignore[misc]
    """A decoding strategy as lm-eval's `LM`.

    `strategy` is a text as in `forkpoint eval`; `model` an engine, or what `load_engine` takes. The `options` are those
    of `load_engine`, or further ones of the strategy (`temperature=0.7`), since lm-eval's --model_args splits at
    commas. `answer_kind` says how cot-decoding and self-consistency read answers. `max_gen_toks` is the longest
    response where neither strategy nor task says, `max_length` the most tokens the model reads (default: its own
    context). Work that `journal` holds is not done again. lm-eval's batch sizes count for nothing.

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
        journal: Journal | None = None,
        progress: Progress | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        loading = {name: options.pop(name) for name in LOADING if name in options}
        self.strategy = one_response_strategy(strategy)
        for option, value in options.items():
            self.strategy = one_response_strategy(self.strategy.with_option(option, str(value).lower()).spec)
        if answer_kind not in get_args(AnswerKind):
            raise UserError(f"answer_kind must be one of {', '.join(get_args(AnswerKind))}, but is {answer_kind!r}")
        if str(loading.get("device")).startswith("cuda") and not torch.cuda.is_available():
            loading["device"] = "auto"  # lm-eval's command asks for cuda:0 where nobody said anything
        self.engine: Engine = load_engine(model, **loading) if isinstance(model, str) else model
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

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
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
            messages = [message for message in chat_history if message["role"] != "system"]
            if len(messages) == len(chat_history):
                raise
            return render_chat(self.tokenizer, messages, **options)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template by its name, or the tokenizer's own for True; UserError where there is none."""
        try:
            return super().chat_template(chat_template)  # type: ignore[no-any-return]
        except ValueError as error:  # several lines of advice
            raise UserError(f"no chat template can be applied: {first_line(error)}") from None

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes about the model into its results."""
        return self._identity() | {name: getattr(self, name) for name in COUNTS}

    def _identity(self) -> dict[str, Any]:
        """All that decides an answer but the request."""
        return {
            "model": self.engine.name, "engine": dict(self.engine.settings), "strategy": self.strategy.spec,
            "answer_kind": self.answer_kind, "max_gen_toks": self.max_gen_toks, "max_length": self.max_length,
            "strategy_seed": self.seed, "forkpoint_version": __version__,
        }  # fmt: skip

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Take lm-eval's cache of answers (--use_cache), a dictionary on disk by request, if an entry of our own says
        that it is this model's and strategy's. UserError otherwise, and where equal requests must draw apart."""
        answers, strategy = cache_hook.dbdict, self.strategy
        if answers is not None:
            if strategy.name in DRAWS and "temperature" in strategy.fixed and strategy.sampling.temperature > 0:
                raise UserError(f"lm-eval's cache gives repeated requests the same answer, but {strategy.spec} draws; "
                                "run it without --use_cache")  # fmt: skip
            model = getattr(self.engine, "model", None)
            weights = weights_digest(model) if isinstance(model, PreTrainedModel) else None
            mark = f"forkpoint {_digest({**self._identity(), 'weights': weights})}"
            if mark not in answers and len(answers):
                raise UserError(
                    f"the cache {answers.filename} holds answers of another model, strategy or setting than "
                    f"{self.engine.name} with {strategy.spec}; give each its own --use_cache"
                )
            answers[mark] = True
            answers.commit()
        super().set_cache_hook(cache_hook)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The response to each request's context by the strategy, before the first of the request's stop strings."""
        responses = [""] * len(requests)
        by_arguments: dict[str, list[int]] = defaultdict(list)
        for i, request in enumerate(requests):
            by_arguments[json.dumps(request.args[1], sort_keys=True, default=str)].append(i)
        done = 0
        for places in by_arguments.values():
            arguments = requests[places[0]].args[1]
            strategy = settled(self.strategy, arguments, max_gen_toks=self.max_gen_toks, seed=self.seed)
            cases = self._cases([requests[i].args[0] for i in places], strategy.sampling.max_tokens)
            size = UNIT_PATHS // strategy.n_paths()
            units = [(strategy, part) for part in _parts(cases, size)]
            names = [[strategy.spec, asdict(strategy.sampling), [case.id for case in part]] for _, part in units]
            for part, answers in zip(_parts(places, size), self._worked(_answer, units, names), strict=True):
                for i, text in zip(part, answers["responses"], strict=True):
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

        A prompt's id, which seeds its draws, is of its tokens and of how often they came before.
        """
        most = self.max_length - room
        if most < 1:
            raise UserError(f"a response may have {room} tokens, but {self.engine.name} reads at most "
                            f"{self.max_length}, the prompt included")  # fmt: skip
        prompts = [self._prompt(context) for context in contexts]
        if cut := sum(len(prompt) > most for prompt in prompts):
            log.warning("%d of %d contexts are longer than %d tokens, which leave room for a response of %d; the rest, "
                        "on the left, is cut off", cut, len(prompts), most, room)  # fmt: skip
        repeats: Counter[str] = Counter()
        cases = []
        for prompt in prompts:
            digest = _digest(prompt[-most:])
            cases.append(Case(f"{digest}:{repeats[digest]}", prompt[-most:], self.answer_kind))
            repeats[digest] += 1
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
        owners: list[int] = []
        for i, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            for pair in get_rolling_token_windows(ids, self.prefix_token_id, self._most() - 1, 1):
                windows.append((None, *make_disjoint_window(pair)))
                owners.append(i)
        totals = [0.0] * len(requests)
        for i, (logprob, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[i] += logprob
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **options: Any
    ) -> list[tuple[float, bool]]:
        """Of each (texts, context, continuation): the continuation's log-probability, and whether it is greedy."""
        units = _parts([self._window(context, continuation) for _, context, continuation in requests], UNIT_PATHS)
        results: list[tuple[float, bool]] = []
        for unit in self._worked(_score, units, units):
            results += [(logprob, greedy) for logprob, greedy in unit]
            self._show(len(results), len(requests))
        for (texts, _, _), result in zip(requests, results, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, result)
        return results

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
        keys = [_digest([work.__name__, name]) for name in names]
        keyed = dict(zip(keys, units, strict=True))
        known = {entry["unit"]: entry["result"] for entry in self._journal if entry["unit"] in keyed}
        fresh = self.engine.map(work, [unit for key, unit in keyed.items() if key not in known])
        for key in keys:
            if key not in known:
                known[key] = next(fresh)
                self._journal.append({"unit": key, "result": known[key]})
            yield known[key]

    def _show(self, done: int, total: int) -> None:
        if self._progress:
            self._progress(self.strategy.spec, done, total, self.tokens_generated)


def _answer(engine: Engine, unit: tuple[Strategy, list[Case]]) -> dict[str, Any]:
    """The responses to some prompts, how many of them hit the length limit, and how many tokens they took."""
    strategy, cases = unit
    outcomes = strategy.solve(engine, cases)
    texts = [_response(engine, outcome, strategy.sampling.stop) for outcome in outcomes]
    return {
        "responses": [text for text, _ in texts],
        "cut_off": sum(cut_off for _, cut_off in texts),
        "tokens": sum(outcome.tokens_generated for outcome in outcomes),
    }


def _response(engine: Engine, outcome: Outcome, stop: tuple[str, ...]) -> tuple[str, bool]:
    """The chosen text, and whether it hit the length limit. It also ends before a special token that a stop string
    names: the engine, which looks at the text, does not see it."""
    added = getattr(engine.tokenizer, "added_tokens_decoder", {})
    ends = {i for i, token in added.items() if token.special and token.content in stop}
    path = outcome.paths[outcome.chosen]
    at = next((i for i, token in enumerate(path.token_ids) if token in ends), None)
    if at is None or path.continuation is not None:
        return outcome.response, path.finish_reason == "length"
    return cut_at_stop(decode(engine.tokenizer, path.token_ids[:at]), stop), False


def _score(engine: Engine, windows: list[Window]) -> list[tuple[float, bool]]:
    """Of each window: the log-probability of what counts, and whether it is the greedy choice throughout."""
    scored = engine.score([tokens for tokens, _ in windows], top=1, starts=[start for _, start in windows])
    results = []
    for (tokens, start), facts in zip(windows, scored, strict=True):
        rows = slice(start, len(tokens))
        greedy = facts.top_ids[rows, 0] == np.array(tokens[rows])
        results.append((float(facts.logprobs[rows].sum(dtype=np.float64)), bool(greedy.all())))
    return results


def _digest(value: Any) -> str:
    return hashlib.blake2b(to_json(value).encode(), digest_size=16).hexdigest()


def _parts(items: list[T], size: int) -> list[list[T]]:
    size = max(1, size)
    return [items[start : start + size] for start in range(0, len(items), size)]
