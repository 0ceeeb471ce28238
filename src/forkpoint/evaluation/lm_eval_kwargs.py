"""What a request of lm-eval asks of a strategy: its generation arguments as the strategy's sampling.

What the strategy's text fixes wins; what it leaves open is the request's. Knows no model.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

from forkpoint.decoding.strategies import Strategy
from forkpoint.types import UserError

log = logging.getLogger(__name__)

DRAWS = ("sample", "self-consistency")
POLICY = ("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")


def settled(strategy: Strategy, asked: Mapping[str, Any], *, max_gen_toks: int, seed: int) -> Strategy:
    """The strategy as it answers a request with these generation arguments, in lm-eval's own reading of them.

    `max_gen_toks` is the longest response where neither says. Raises UserError for values out of range, and for a
    strategy that has to draw where the request asks for greedy.
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
