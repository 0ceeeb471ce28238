"""What a success curve costs for longer and longer trajectories, beside 64 plain rollouts from every prefix.

    python benchmarks/critical_growth.py [--lengths 50 100 200 400 800]

A random model; a response's verdict is a hash of its first half, so that the second half changes nothing. Ours with 256
rollouts; the peer, `model.generate`, is timed at 5 prefixes and scaled up. Errors are those that the intervals tell.
Some 10 minutes. Writes benchmarks/results/critical_growth.json and docs/figures/critical-cost.svg.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import machine
import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from transformers import LlamaConfig, LlamaForCausalLM

from forkpoint.curves.estimator import fork_labels
from forkpoint.curves.forks import Z
from forkpoint.curves.paper_protocol import ROLLOUTS
from forkpoint.curves.rollouts import CurveLabel, policies
from forkpoint.engines.local.transformers_engine import TransformersEngine
from forkpoint.types import Problem, Request, Sampling, TokenIds, Trajectory

GROWTH_BUDGET, STRIDES, TEMPERATURE = 256, 5, 0.3
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "critical-cost.svg"

Row = dict[str, Any]
T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What it returns, and the seconds it took."""
    started = time.perf_counter()
    done = work()
    return done, time.perf_counter() - started


class HalfHash:
    """Spells any response by the verdict on it: 1 where a hash of its first `decisive` tokens is even, else 0."""

    eos_token_id, pad_token_id = None, 0

    def __init__(self, decisive: int) -> None:
        self.decisive = decisive

    def decode(self, token_ids: Sequence[int], **_: bool) -> str:
        return f"The answer is {int(hash(tuple(map(int, token_ids[: self.decisive]))) % 2 == 0)}."


def random_engine(decisive: int) -> TransformersEngine:
    """A random Llama that is sure of most tokens and never ends a response."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2048, hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, initializer_range=0.1, bos_token_id=None,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight *= 6
    return TransformersEngine(model, HalfHash(decisive), name="random")


def growth(length: int) -> Row:
    """Both ways for one wrong trajectory of so many tokens; errors are those that our intervals tell."""
    engine, prompt = random_engine(length // 2), tuple(range(5, 37))
    sampling = Sampling(temperature=TEMPERATURE, max_tokens=length)
    drawn = engine.generate([Request(str(i), prompt) for i in range(16)], sampling)
    wrong = min((c for c in drawn if c.text.endswith("0.")), key=lambda c: int(c.key))
    trajectory = Trajectory("t", Problem("p", "?", "1", "number"), prompt, wrong.token_ids, "0", False, "length")
    warm_up(engine, trajectory)

    def ours() -> CurveLabel:
        pairs = [(trajectory, policy) for policy in policies(engine, [trajectory], sampling)]
        return next(iter(fork_labels(engine, pairs, sampling, budget=GROWTH_BUDGET, until="budget")))

    found, seconds = timed(ours)
    half = np.diff(found.success_ci, axis=1)[1:-1, 0] / (2 * Z)
    p = found.success[1:-1]
    at = [int((i + 0.5) * (length - 1) / STRIDES) + 1 for i in range(STRIDES)]
    taken = [timed(partial(generate_plainly, engine, prompt, wrong.token_ids[:i], length - i))[1] for i in at]
    return {
        "length": length, "median_own": float(np.median(found.policy.own)), "mean_own": float(found.policy.own.mean()),
        "tokens": found.tokens_generated, "seconds": seconds, "rmse": float(np.mean(half**2)) ** 0.5,
        "peer_tokens": ROLLOUTS * length * (length - 1) // 2, "peer_seconds": float(np.mean(taken)) * (length - 1),
        "peer_rmse": float(np.mean(p * (1 - p)) / ROLLOUTS) ** 0.5,
    }  # fmt: skip


def warm_up(engine: TransformersEngine, trajectory: Trajectory) -> None:
    """A little of both, untimed."""
    generate_plainly(engine, trajectory.prompt_ids, trajectory.token_ids, 2)
    list(engine.score([(*trajectory.prompt_ids, *trajectory.token_ids)]))


def generate_plainly(engine: TransformersEngine, prompt: TokenIds, written: TokenIds, n: int) -> None:
    """64 rollouts of n more tokens by `model.generate`."""
    ids = torch.tensor([[*prompt, *written]])
    out = engine.model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=TEMPERATURE, top_k=0, top_p=1.0,
        num_return_sequences=ROLLOUTS, max_new_tokens=n, pad_token_id=0,
    )  # fmt: skip
    assert out.shape == (ROLLOUTS, ids.shape[1] + n)


def at_equal_error(row: Row) -> Row:
    """With the ratios, as measured and were the budget such that the errors are equal: variance falls as 1/budget."""
    scale = (row["rmse"] / row["peer_rmse"]) ** 2
    ratios = {f"{kind}_ratio": row[f"peer_{kind}"] / row[kind] for kind in ("tokens", "seconds")}
    equal = {f"{key}_at_equal_error": value / scale for key, value in ratios.items()}
    return row | ratios | {"budget_at_equal_error": GROWTH_BUDGET * scale} | equal


def draw(rows: Sequence[Row], path: Path) -> None:
    """Tokens and seconds against length, ours and the peer's, on logarithmic axes."""
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    lengths = [row["length"] for row in rows]
    ours: Row = {"color": "#1b6ca8", "marker": "o", "label": f"fork estimator, {GROWTH_BUDGET} rollouts"}
    equal: Row = {"color": "#1b6ca8", "linestyle": ":", "label": "fork estimator, scaled to equal error"}
    peer: Row = {"color": "#d98c2b", "marker": "s", "linestyle": "--", "label": f"{ROLLOUTS} rollouts from each prefix"}
    for axes, kind, name in zip(
        figure.subplots(1, 2), ("tokens", "seconds"), ("tokens generated", "seconds"), strict=True
    ):
        axes.plot(lengths, [row[f"peer_{kind}"] for row in rows], **peer)
        axes.plot(lengths, [row[f"peer_{kind}"] / row[f"{kind}_ratio_at_equal_error"] for row in rows], **equal)
        axes.plot(lengths, [row[kind] for row in rows], **ours)
        axes.set(xscale="log", yscale="log", xlabel="tokens in the trajectory", ylabel=name)
        axes.set_xticks(lengths, [str(n) for n in lengths])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(lw=0.4)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "forkpoint"}):
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure, print, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[50, 100, 200, 400, 800])
    rows = []
    for length in parser.parse_args().lengths:
        rows.append(at_equal_error(growth(length)))
        print({key: float(f"{value:.4g}") for key, value in rows[-1].items()}, flush=True)
    draw(rows, FIGURE)
    print(machine.save("critical_growth", {"growth": rows}))


if __name__ == "__main__":
    main()
