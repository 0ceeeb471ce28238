"""Time of each sampler on one step of a large vocabulary, beside transformers' min-p and top-p in one run.

    python benchmarks/bench_samplers.py [--rows 32] [--vocab 151936] [--repeats 15]

One thread, float32, samplers interleaved, medians: on a shared machine ratios are steadier than milliseconds.
Prints a table and writes benchmarks/results/samplers.json.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

import machine
import numpy as np
import torch
import transformers

from forkpoint.sampling import MinK, MinP, PLess, TopNSigma, inverse_cdf, policy_logits, uniforms
from forkpoint.types import Sampling


def contenders(logits: torch.Tensor, u: np.ndarray) -> dict[str, Callable[[], object]]:
    """What is timed, by name; the first two are what the others are compared with."""
    warpers = {
        "min-p 0.1 (transformers)": transformers.MinPLogitsWarper(0.1),
        "top-p 0.9 (transformers)": transformers.TopPLogitsWarper(0.9),
        "top-nσ 1.0": TopNSigma(1.0),
        "min-p 0.1": MinP(0.1),
        "p-less": PLess(),
        "min-k 3.0": MinK(3.0),
        "top-k 50 (transformers)": transformers.TopKLogitsWarper(50),
        "top-H 0.4 (transformers)": transformers.TopHLogitsWarper(0.4),
        "typical 0.9 (transformers)": transformers.TypicalLogitsWarper(0.9),
    }
    timed: dict[str, Callable[[], object]] = {
        name: (lambda warper=warper: warper(None, logits)) for name, warper in warpers.items()
    }
    policy = Sampling(temperature=1.5, top_n_sigma=1.0)
    timed["policy_logits (top-nσ, T=1.5)"] = lambda: policy_logits(logits, policy)
    timed["inverse_cdf"] = lambda: inverse_cdf(logits, u)
    return timed


def measure(timed: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each after a round that does not count, in another order every round.

    The order matters: whoever runs after a sort finds cold caches and memory that went back to the system.
    """
    order, shuffle = list(timed), random.Random(0).shuffle
    samples: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(repeats + 1):
        shuffle(order)
        for name in order:
            start = time.perf_counter()
            timed[name]()
            if turn:
                samples[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(times) for name, times in samples.items()}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()

    torch.set_num_threads(1)
    logits = torch.randn(args.rows, args.vocab, generator=torch.Generator().manual_seed(0)) * 2
    u = uniforms(np.arange(args.rows, dtype=np.uint64), 0)
    medians = measure(contenders(logits, u), args.repeats)

    min_p_ms, top_p_ms = list(medians.values())[:2]
    rows = {
        name: {"ms": round(ms, 3), "of_min_p": round(ms / min_p_ms, 4), "of_top_p": round(ms / top_p_ms, 4)}
        for name, ms in medians.items()
    }
    print(f"[{args.rows}, {args.vocab}] float32, 1 thread, median of {args.repeats}")
    print(f"{'sampler':32}{'ms':>10}{'of min-p':>10}{'of top-p':>10}")
    for name, row in rows.items():
        print(f"{name:32}{row['ms']:10.2f}{row['of_min_p']:10.3f}{row['of_top_p']:10.4f}")

    settings = {"shape": [args.rows, args.vocab], "dtype": "float32", "repeats": args.repeats}
    print(machine.save("samplers", settings | {"samplers": rows}))


if __name__ == "__main__":
    main()
