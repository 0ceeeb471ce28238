"""Memory and time of the contrastive scoring pass, beside two separate models with full logits.

    python benchmarks/bench_contrast.py [--layers 12] [--vocabulary 128000] [--trajectories 16]

A random Llama with a vocabulary as large as those in use, and two LoRA adapters. "shared" is forkpoint's pass: one base
in memory, asked under each adapter and under none. "two models" is what one writes first: each adapter merged into a
model of its own, logits [1, T, V] of both, one softmax of their combination. Each runs in a process of its own; peak
memory is the process's highest resident set during the pass, less what it had before there was a model. Both must give
the same s. Prints a table and writes benchmarks/results/contrast.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import machine
import numpy as np
import psutil
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from forkpoint.scores.contrastive import shared_base
from forkpoint.types import Problem, Sampling, Trajectory

PROMPT, RESPONSE = 64, 192
NAMES = ("positive", "negative")


def random_model(layers: int, vocabulary: int) -> PreTrainedModel:
    """A Llama of width 768 with tied embeddings, the same every time."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=768, intermediate_size=3072, num_hidden_layers=layers,
        num_attention_heads=12, num_key_value_heads=12, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def save_adapters(model: PreTrainedModel, folder: Path) -> None:
    """Two adapters on the MLP projections that change something."""
    for seed, name in enumerate(NAMES):
        torch.manual_seed(seed + 1)
        lora = LoraConfig(r=8, lora_alpha=16, target_modules=["gate_proj", "up_proj", "down_proj"])
        adapted = get_peft_model(model, lora)
        for key, parameter in adapted.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.02)
        adapted.save_pretrained(folder / name, save_embedding_layers=False)
        model = adapted.unload()


def made_up(n: int, vocabulary: int) -> list[Trajectory]:
    """Random tokens in place of prompts and responses."""
    ids = torch.randint(2, vocabulary, (n, PROMPT + RESPONSE), generator=torch.Generator().manual_seed(0)).tolist()
    problem = Problem("p", "?", "1", "number")
    return [
        Trajectory(f"t{i}", problem, tuple(row[:PROMPT]), tuple(row[PROMPT:]), None, False, "length")
        for i, row in enumerate(ids)
    ]


@torch.inference_mode()
def two_models(models: list[PreTrainedModel], trajectories: list[Trajectory]) -> list[np.ndarray]:
    """s of each trajectory from full logits of both models."""
    found = []
    for t in trajectories:
        ids = torch.tensor([[*t.prompt_ids, *t.token_ids]])
        positive, negative = (model(ids, use_cache=False).logits for model in models)
        s = torch.softmax(2 * positive - negative, -1)[0, PROMPT - 1 : -1]
        found.append(s.gather(-1, torch.tensor(t.token_ids)[:, None])[:, 0].numpy())
    return found


def forget_peak() -> None:
    """Make the kernel's record of the highest resident set start again from here (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Bytes of the highest resident set since then."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def child(way: str, folder: Path, options: argparse.Namespace) -> None:
    """One way of scoring, measured; figures on stdout, scores in the folder."""
    trajectories = made_up(options.trajectories, options.vocabulary)
    before = psutil.Process().memory_info().rss
    model = random_model(options.layers, options.vocabulary)
    started = time.perf_counter()
    if way == "shared":
        with shared_base(model, folder / "positive", folder / "negative") as base:
            held = model.get_memory_footprint()
            forget_peak()
            started = time.perf_counter()
            scores = [s.columns["s"] for s in base.score(trajectories, 1.0, Sampling(), ())]
            seconds, highest = time.perf_counter() - started, peak()
    else:
        models = [PeftModel.from_pretrained(model, str(folder / "positive")).merge_and_unload()]
        other = random_model(options.layers, options.vocabulary)
        models.append(PeftModel.from_pretrained(other, str(folder / "negative")).merge_and_unload())
        held = sum(m.get_memory_footprint() for m in models)
        forget_peak()
        started = time.perf_counter()
        scores = two_models(models, trajectories)
        seconds, highest = time.perf_counter() - started, peak()
    np.save(folder / f"{way}.npy", np.stack(scores))
    figures = {"weights_mib": held / 2**20, "peak_mib": (highest - before) / 2**20, "seconds": seconds}
    print(json.dumps({key: round(value, 1) for key, value in figures.items()}))


def main() -> None:
    """Measure each way in a process of its own, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--vocabulary", type=int, default=128_000)
    parser.add_argument("--trajectories", type=int, default=16)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], Path(options.child[1]), options)
        return
    sizes = {name: getattr(options, name) for name in ("layers", "vocabulary", "trajectories")}
    with tempfile.TemporaryDirectory() as name:
        folder, model = Path(name), random_model(options.layers, options.vocabulary)
        one = model.get_memory_footprint() / 2**20
        save_adapters(model, folder)
        del model
        adapters = sum(p.stat().st_size for p in folder.rglob("*.safetensors")) / 2**20
        flags = [word for key, value in sizes.items() for word in (f"--{key}", str(value))]
        figures: dict[str, dict[str, float]] = {}
        for way in ("shared", "two_models"):
            command = [sys.executable, __file__, *flags, "--child", way, str(folder)]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            figures[way] = json.loads(printed.splitlines()[-1])
            figures[way]["peak_over_one_model_and_adapters"] = round(figures[way]["peak_mib"] / (one + adapters), 3)
        difference = np.abs(np.log(np.load(folder / "shared.npy")) - np.log(np.load(folder / "two_models.npy"))).max()
    notes = sizes | {"prompt": PROMPT, "response": RESPONSE}
    notes |= {
        "model_mib": round(one, 1),
        "adapters_mib": round(adapters, 1),
        "largest_difference_in_log_s": float(difference),
    }
    for way, measured in figures.items():
        print(f"{way:12}", "  ".join(f"{key} {value:,}" for key, value in measured.items()))
    print(machine.save("contrast", notes | figures))


if __name__ == "__main__":
    main()
