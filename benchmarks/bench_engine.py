"""The engine on the lab model beside what a user would otherwise run, in one process, interleaved.

    python benchmarks/bench_engine.py [--repeats 3]

Sampled branches of one 120-token trunk against `model.generate(num_return_sequences=...)`; CoT-decoding (k = 10, 100
problems) against one `generate` a path; `score` against a bare forward pass over the same padded batches. Medians.
Prints a table and writes benchmarks/results/engine.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import machine
import torch

from forkpoint.decoding.outcome import Case
from forkpoint.decoding.strategies import parse_strategy
from forkpoint.engines import load_engine
from forkpoint.engines.local.scoring import padded_batches, rows_that_fit
from forkpoint.engines.local.transformers_engine import TransformersEngine
from forkpoint.lab.problem_generator import load_problems
from forkpoint.tasks import render_prompt
from forkpoint.types import Request, Sampling

TRUNK, NEW_TOKENS = 120, 64


def alternate(ours: Callable[[], object], peer: Callable[[], object], repeats: int) -> dict[str, float]:
    """Median seconds of both, run in turn, after one round of ours that does not count."""
    ours()
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for run, taken in zip((ours, peer), seconds, strict=True):
            started = time.perf_counter()
            run()
            taken.append(time.perf_counter() - started)
    a, b = map(statistics.median, seconds)
    return {"ours_seconds": round(a, 3), "peer_seconds": round(b, 3), "ratio": round(b / a, 2)}


def trunk(engine: TransformersEngine, branches: int, repeats: int) -> dict[str, float]:
    """Sampling of `branches` continuations of one trunk, none of which may end early."""
    ids = torch.randint(2, 400, (1, TRUNK), generator=torch.Generator().manual_seed(0))
    prefix = tuple(ids[0].tolist())
    requests = [Request(str(i), prefix) for i in range(branches)]
    sampling = Sampling(temperature=1.0, max_tokens=NEW_TOKENS)
    endless = TransformersEngine(engine.model, engine.tokenizer)
    endless.ends = ()
    engine.model.generation_config.eos_token_id = None

    def ours() -> None:
        assert sum(len(c.token_ids) for c in endless.generate(requests, sampling)) == branches * NEW_TOKENS

    def peer() -> None:
        out = engine.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, num_return_sequences=branches,
            max_new_tokens=NEW_TOKENS, pad_token_id=1,
        )  # fmt: skip
        assert out.shape == (branches, TRUNK + NEW_TOKENS)

    measured = alternate(ours, peer, repeats)
    tokens = branches * NEW_TOKENS
    return measured | {
        "ours_tokens_per_second": round(tokens / measured["ours_seconds"]),
        "peer_tokens_per_second": round(tokens / measured["peer_seconds"]),
    }


def cot_decoding(engine: TransformersEngine, problems: int) -> dict[str, float]:
    """CoT-decoding of whole problems; the peer finds the first tokens once a prompt and calls generate a path."""
    cases = [Case(p.id, render_prompt(p, "plain", engine.tokenizer)) for p in load_problems(limit=problems)]
    strategy = parse_strategy("cot-decoding:k=10,max_tokens=120")

    def peer() -> None:
        for case in cases:
            prompt = torch.tensor([case.prompt])
            with torch.inference_mode():
                first = engine.model(prompt).logits[0, -1].topk(10).indices
            for token in first:
                ids = torch.cat([prompt, token.view(1, 1)], 1)
                engine.model.generate(
                    ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=119, pad_token_id=1,
                    output_scores=True, return_dict_in_generate=True,
                )  # fmt: skip

    return alternate(lambda: strategy.solve(engine, cases), peer, repeats=1)


@torch.inference_mode()
def scoring(engine: TransformersEngine, repeats: int) -> dict[str, float]:
    """`score` of 800 sequences; `ratio` is its time over that of the bare forward passes."""
    prompts = [render_prompt(p, "plain", engine.tokenizer) for p in load_problems(limit=800)]
    sequences = sorted(prompts, key=len)
    starts = [1] * len(sequences)
    fitting = rows_that_fit(engine.model, engine.memory_bytes)

    def bare() -> None:
        for batch in padded_batches(sequences, starts, fitting):
            width = max(len(sequences[i]) for i in batch)
            ids = torch.tensor([[*sequences[i], *[0] * (width - len(sequences[i]))] for i in batch])
            engine.model(ids, use_cache=False)

    measured = alternate(lambda: list(engine.score(sequences)), bare, repeats)
    return measured | {"ratio": round(measured["ours_seconds"] / measured["peer_seconds"], 3)}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--problems", type=int, default=100)
    options = parser.parse_args()
    engine = load_engine("lab", device="cpu")
    assert isinstance(engine, TransformersEngine)
    figures = {
        "score": scoring(engine, 3 * options.repeats),
        "cot_decoding_100_problems_k10": cot_decoding(engine, options.problems),
        "trunk_64": trunk(engine, 64, options.repeats),
        "trunk_512": trunk(engine, 512, options.repeats),
    }
    for name, measured in figures.items():
        print(f"{name:32}", "  ".join(f"{key} {value:,}" for key, value in measured.items()))
    print(machine.save("engine", figures))


if __name__ == "__main__":
    main()
