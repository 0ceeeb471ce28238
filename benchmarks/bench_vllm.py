"""`critical` on vLLM: success curves by forks, beside 64 rollouts from every prefix on the same vLLM.

    .venv-vllm/bin/python benchmarks/bench_vllm.py [--trajectories 24]

Both sides run in one vLLM process with prefix caching, on the wrong responses of the lab that bench_critical.py takes.
The peer is one call of `LLM.generate` with `n=64` and every prefix of every trajectory in it, which suits vLLM best;
each response is graded. Ours is the forward pass along the trajectories and the fork estimator with one budget for all,
the smallest with which the median trajectory's error is at most the peer's, as in bench_critical.py, measured here
again. Both run by turns; medians. Prints the figures, writes benchmarks/results/vllm.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import Any

import machine
import numpy as np
from bench_critical import (
    BUDGETS,
    SEEDS,
    TRUTH_BUDGET,
    TRUTH_SEEDS,
    lab_sampling,
    run_alone,
    short,
    spend,
    squared_error,
    wrong_ones,
)
from critical_growth import timed

from forkpoint.curves.paper_protocol import ROLLOUTS
from forkpoint.curves.rollouts import policies
from forkpoint.engines import load_engine
from forkpoint.engines.remote.vllm_engine import load_vllm
from forkpoint.tasks import grade_response
from forkpoint.text import decode
from forkpoint.types import Trajectory


def peer(
    llm: Any, tokenizer: Any, ends: Sequence[int], trajectories: Sequence[Trajectory]
) -> tuple[list[np.ndarray], int]:
    """The share of 64 rollouts that is right after each of the first 1 to T-1 tokens, and the tokens generated."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling = lab_sampling()
    asked = [(t, i) for t in trajectories for i in range(1, len(t.token_ids))]
    params = [
        SamplingParams(
            n=ROLLOUTS, temperature=1.0, max_tokens=sampling.max_tokens - i, stop_token_ids=list(ends),
            detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY,
        )
        for _, i in asked
    ]  # fmt: skip
    prompts = [{"prompt_token_ids": [*t.prompt_ids, *t.token_ids[:i]]} for t, i in asked]
    curves = {t.id: np.zeros(len(t.token_ids) + 1) for t in trajectories}
    tokens = 0
    for (t, i), output in zip(asked, llm.generate(prompts, params, use_tqdm=False), strict=True):
        for one in output.outputs:
            text = decode(tokenizer, [*t.token_ids[:i], *one.token_ids])
            curves[t.id][i] += grade_response(text, t.problem, cut_off=one.finish_reason == "length").correct / ROLLOUTS
            tokens += len(one.token_ids)
    return [curves[t.id] for t in trajectories], tokens


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trajectories", type=int, default=24)
    parser.add_argument("--peer_runs", type=int, default=2)
    options = parser.parse_args()
    lab = load_engine("lab", device="cpu")
    trajectories = wrong_ones(lab, options.trajectories)
    pairs = list(zip(trajectories, policies(lab, trajectories, lab_sampling()), strict=True))
    runs = spend(lab, pairs, TRUTH_BUDGET, range(1, 1 + TRUTH_SEEDS))
    truth = {i: np.mean([run.success for run in its], 0) for i, its in runs.items()}
    print(f"{len(trajectories)} trajectories, {sum(len(t.token_ids) for t in trajectories)} tokens", flush=True)

    engine = load_vllm("lab", memory_gib=2)
    llm = engine.llm
    allowed = {t.id: float(np.mean(truth[t.id][1:-1] * (1 - truth[t.id][1:-1]))) / ROLLOUTS for t in trajectories}
    for budget in BUDGETS:
        ours = spend(engine, pairs, budget, range(100, 100 + SEEDS))
        errors = {i: squared_error([r.success for r in its], truth[i]) for i, its in ours.items()}
        ratio = median(errors[i] / allowed[i] for i in allowed)
        print(f"{budget} rollouts: median error over the peer's {ratio:.2f}", flush=True)
        if ratio <= 1:
            break
    rmse = float(np.mean(list(errors.values()))) ** 0.5

    mine, theirs = [], []
    for run in range(options.peer_runs):
        mine += [timed(partial(run_alone, engine, trajectories, budget, 300 + 2 * run + i)) for i in range(2)]
        llm.reset_prefix_cache()
        theirs.append(timed(partial(peer, llm, engine.tokenizer, engine.ends, trajectories)))
        print(f"ours {mine[-1][1]:.1f} s, peer {theirs[-1][1]:.1f} s", flush=True)
    curves = theirs[0][0][0]
    peer_rmse = (
        float(np.mean([squared_error([c], truth[t.id]) for c, t in zip(curves, trajectories, strict=True)])) ** 0.5
    )
    tokens = float(np.mean([sum(one.tokens_generated for one in done) for done, _ in mine]))
    peer_tokens = float(np.mean([done[1] for done, _ in theirs]))
    seconds, peer_seconds = median(s for _, s in mine), median(s for _, s in theirs)
    figures = {
        "engine": dict(engine.settings), "trajectories": len(trajectories), "budget": budget,
        "rmse": rmse, "peer_rmse": peer_rmse, "median_error_ratio": ratio,
        "tokens": tokens, "peer_tokens": peer_tokens, "tokens_ratio": peer_tokens / tokens,
        "seconds": seconds, "peer_seconds": peer_seconds, "seconds_ratio": peer_seconds / seconds,
        "all_seconds": [s for _, s in mine], "all_peer_seconds": [s for _, s in theirs],
    }  # fmt: skip
    print(short(figures))
    print(machine.save("vllm", short(figures)))


if __name__ == "__main__":
    main()
