"""The engine on a randomly initialised model of Qwen2.5-0.5B's shape (bf16, V = 151,936) beside `model.generate`.

    python benchmarks/bench_large.py [--device cuda] [--branches 16 64] [--new-tokens 16] [--problems 2]

Each contender runs in a process of its own, so that its peak memory can be told: sampled branches of one 120-token
trunk against `generate(num_return_sequences=...)`, and CoT-decoding (k = 10) against one `generate` a path. Weights are
random, so texts mean nothing and no response ends early. Prints a table, writes benchmarks/results/large-DEVICE.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import machine
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

from forkpoint.decoding.cot import decode_cases
from forkpoint.decoding.outcome import Case
from forkpoint.engines.local.transformers_engine import TransformersEngine
from forkpoint.lab import MODEL_DIR
from forkpoint.types import Request, Sampling

TRUNK = 120


def build(device: str) -> TransformersEngine:
    """The model as an engine whose responses never end early; its texts are read by the lab's tokenizer."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).to(device)
    engine = TransformersEngine(model, AutoTokenizer.from_pretrained(MODEL_DIR), name="qwen2.5-0.5b shape")
    assert engine.trunk_refusal is None, engine.trunk_refusal
    engine.ends = ()
    model.generation_config.eos_token_id = None
    return engine


def contenders(
    engine: TransformersEngine, branches: int, new_tokens: int, problems: int
) -> dict[str, Callable[[], int]]:
    """What is timed, by name; each returns the tokens it generated."""
    device = engine.model.device
    draw = torch.Generator().manual_seed(0)
    trunk = torch.randint(2, 400, (1, TRUNK), generator=draw).to(device)
    prompts = torch.randint(2, 400, (problems, TRUNK), generator=draw).to(device)
    common = {"max_new_tokens": new_tokens, "pad_token_id": 1}

    def sample_ours() -> int:
        requests = [Request(str(i), tuple(trunk[0].tolist())) for i in range(branches)]
        done = engine.generate(requests, Sampling(temperature=1.0, max_tokens=new_tokens))
        return sum(len(c.token_ids) for c in done)

    def sample_peer() -> int:
        out = engine.model.generate(
            trunk,
            attention_mask=torch.ones_like(trunk),
            do_sample=True,
            top_k=0,
            num_return_sequences=branches,
            **common,
        )
        return out[:, TRUNK:].numel()

    def cot_ours() -> int:
        cases = [Case(str(i), tuple(p.tolist())) for i, p in enumerate(prompts)]
        greedy = Sampling(temperature=0.0, max_tokens=new_tokens)
        found = decode_cases(engine, cases, greedy, k=10, aggregate=False, span="extract", position="0")
        return sum(len(p.token_ids) for o in found for p in o.paths)

    def cot_peer() -> int:
        tokens = 0
        for prompt in prompts[:, None]:
            with torch.inference_mode():
                first = engine.model(prompt, logits_to_keep=1).logits[0, -1].topk(10).indices
            for token in first:
                ids = torch.cat([prompt, token.view(1, 1)], 1)
                options = common | {"max_new_tokens": new_tokens - 1}
                out = engine.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **options)
                tokens += out.shape[1] - TRUNK
        return tokens

    return {"sample-ours": sample_ours, "sample-peer": sample_peer, "cot-ours": cot_ours, "cot-peer": cot_peer}


def run_one(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Time one contender here, after a short round that does not count; memory is the process's or GPU's peak."""
    engine = build(options.device)
    contenders(engine, 2, 2, 1)[name]()
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    started = time.perf_counter()
    tokens = contenders(engine, options.branches[0], options.new_tokens, options.problems)[name]()
    if options.device != "cpu":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if options.device != "cpu":
        loaded, peak = engine.model.get_memory_footprint() / 2**30, torch.cuda.max_memory_allocated() / 2**30
    return {"seconds": round(seconds, 2), "tokens": tokens, "peak_gib": round(peak, 2), "loaded_gib": round(loaded, 2)}


def in_a_process(name: str, branches: int, options: argparse.Namespace) -> dict[str, float]:
    """`run_one` in a fresh process."""
    words = ["--only", name, "--device", options.device, "--branches", str(branches)]
    words += ["--new-tokens", str(options.new_tokens), "--problems", str(options.problems)]
    done = subprocess.run([sys.executable, __file__, *words], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--branches", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--problems", type=int, default=2)
    parser.add_argument("--only", help="run one contender in this process (used by the benchmark itself)")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(run_one(options.only, options)))
        return
    plans = [(f"sample_{n}_branches", "sample", n) for n in options.branches] + [("cot_decoding_k10", "cot", 10)]
    figures = {}
    for label, kind, branches in plans:
        ours, peer = (in_a_process(f"{kind}-{who}", branches, options) for who in ("ours", "peer"))
        ratio = (ours["tokens"] / ours["seconds"]) / (peer["tokens"] / peer["seconds"])
        figures[label] = {"ours": ours, "peer": peer, "ratio": round(ratio, 2)}
        print(f"{label:24} ratio {ratio:5.2f}  ours {ours}  peer {peer}", flush=True)
    settings = {"new_tokens": options.new_tokens, "problems": options.problems, "trunk": TRUNK}
    print(machine.save(f"large-{options.device}", settings | figures))


if __name__ == "__main__":
    main()
