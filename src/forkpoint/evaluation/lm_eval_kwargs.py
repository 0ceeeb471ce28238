"""What a request of lm-eval asks of a strategy: its generation arguments as the strategy's sampling.

What the strategy's text fixes wins; what it leaves open is the request's. Knows no model.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

from forkpoint.decoding.strategies import Strategy, parse_strategy
from forkpoint.types import UserError

log = logging.getLogger(__name__)

ONE_RESPONSE = ("greedy", "sample", "beam", "self-consistency", "cot-decoding")
DRAWS = ("sample", "self-consistency")
POLICY = ("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")


def one_response_strategy(spec: str) -> Strategy:
    """The strategy of a text. UserError for one that lm-eval cannot use, since it wants one response a request."""
    strategy = parse_strategy(spec)
    if strategy.name not in ONE_RESPONSE:
        raise UserError(f"lm-eval takes one response a request, not {spec}; there are {', '.join(ONE_RESPONSE)}")
    if strategy.name == "sample" and strategy.options["n"] != 1:
        raise UserError(f"lm-eval takes one response a request, but {spec} gives {strategy.options['n']}; "
                        "a task's own `repeats` draws several, self-consistency:n=N lets them vote")  # fmt: skip
    return strategy


def settled(strategy: Strategy, asked: Mapping[str, Any], *, max_gen_toks: int, seed: int) -> Strategy:
    """The strategy as it answers a request with these generation arguments.

    `max_gen_toks` is the longest response where neither says. lm-eval's own reading of the arguments counts: its
    aliases, and temperature 0 where `do_sample` is false. Raises UserError for values out of range, and for a strategy
    that has to draw where the request asks for greedy.
    """
    from lm_eval.models.utils import normalize_gen_kwargs

    wanted = dict(normalize_gen_kwargs(dict(asked), max_gen_toks))
    stop = tuple(s for s in wanted.pop("until") if s)
    fields = {"max_tokens": wanted.pop("max_gen_toks"), "stop": stop, "seed": seed}
    sampled = bool(wanted.pop("do_sample")) and wanted.get("temperature", 1.0) > 0
    policy = {name: wanted.pop(name) for name in POLICY if wanted.get(name) is not None}
    if strategy.name in DRAWS:
        fields |= {"temperature": 1.0} | policy if sampled else _greedy(strategy)
    elif sampled:
        _tell(f"the task asks for sampling, which {strategy.spec} does not do")
    if left := sorted(set(wanted) - set(POLICY)):
        _tell(f"no strategy takes the task's generation argument{'s' * (len(left) > 1)} {', '.join(left)}: left out")
    return strategy.with_defaults(**fields)


def _greedy(strategy: Strategy) -> dict[str, float]:
    """The temperature of a strategy that draws, for a request that asks for greedy."""
    if "temperature" in strategy.fixed:
        return {}
    if strategy.n_paths() > 1 or strategy.fixed - {"max_tokens"}:
        colon = "," if ":" in strategy.spec else ":"
        raise UserError(f"the task asks for greedy responses and {strategy.spec} draws them; say at which temperature: "
                        f"{strategy.spec}{colon}temperature=0.7")  # fmt: skip
    _tell(f"the task asks for greedy responses, and so {strategy.spec} is greedy; give it a temperature to sample")
    return {"temperature": 0.0}


@cache
def _tell(message: str) -> None:
    """Say a thing once."""
    log.warning("%s", message)
