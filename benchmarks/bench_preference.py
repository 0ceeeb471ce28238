"""A step of DPO by forkpoint's trainer beside TRL's: time and peak memory, on the same model and pairs.

    python benchmarks/bench_preference.py [--rounds 3] [--steps 8]

Models: the lab's own, with pairs of the length of its responses, and a random Llama of 50 million parameters with
32,000 tokens and pairs of the length of GSM8K's (prompt 60 to 140 tokens, responses 60 to 180). 8 pairs a step,
float32, AdamW. Every run is a process of its own, ours and the peer's in turn; a step's time is the median after the
first two, then over rounds; memory is the process's peak resident set, whole, and above what it was before the trainer
was made. TRL runs twice: with the reference's log-probabilities precomputed, as ours, and by its default, with a second
model. Writes benchmarks/results/preference.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from statistics import median
from typing import Any

import machine

WAYS = ("ours", "trl", "trl-online")
MODELS = ("lab", "50M")
PAIRS = 8


def build(name: str, steps: int) -> tuple[Any, list[tuple[list[int], list[int], list[int]]], int]:
    """Model, pairs of prompt, chosen and rejected ids, and the number of pairs a step."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    from forkpoint.lab import MODEL_DIR

    torch.manual_seed(0)
    rng = random.Random(0)
    if name == "lab":
        model = AutoModelForCausalLM.from_pretrained(MODEL_DIR)
        lengths, vocabulary = ((50, 90), (30, 60)), model.config.vocab_size
    else:
        model = LlamaForCausalLM(LlamaConfig(
            vocab_size=32_000, hidden_size=512, intermediate_size=1536, num_hidden_layers=10, num_attention_heads=8,
            num_key_value_heads=8, tie_word_embeddings=True, pad_token_id=0,
        ))  # fmt: skip
        lengths, vocabulary = ((60, 140), (60, 180)), 32_000

    def ids(bounds: tuple[int, int]) -> list[int]:
        return [rng.randrange(3, vocabulary) for _ in range(rng.randint(*bounds))]

    pairs = [(ids(lengths[0]), ids(lengths[1]), ids(lengths[1])) for _ in range(steps * PAIRS)]
    return model, pairs, vocabulary


def resident() -> float:
    """Peak resident set so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(way: str, name: str, steps: int) -> dict[str, float]:
    """One run in this process."""
    from transformers import TrainerCallback

    model, pairs, _ = build(name, steps)
    stamps: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            stamps.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            stamps.append(time.perf_counter())

    before = resident()
    trainer = (ours if way == "ours" else trl)(model, pairs, steps, way)
    trainer.add_callback(Clock())
    trainer.train()
    taken = [end - begin for begin, end in zip(stamps[::2], stamps[1::2], strict=True)][2:]
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return {"seconds": median(taken), "peak_mib": resident(), "above_mib": resident() - before, "loss": losses[0]}


def settings(steps: int) -> dict[str, Any]:
    """TrainingArguments that both share."""
    return {
        "output_dir": tempfile.gettempdir(), "per_device_train_batch_size": PAIRS, "max_steps": steps,
        "learning_rate": 1e-6, "save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True,
        "logging_steps": 1, "dataloader_pin_memory": False, "activation_checkpointing": False, "bf16": False,
    }  # fmt: skip


def ours(model: Any, pairs: list[Any], steps: int, _: str) -> Any:
    """forkpoint's trainer, the reference's log-probabilities precomputed."""
    from forkpoint import Pair, PreferenceConfig, PreferenceTrainer

    made = [Pair(str(i), *map(tuple, pair), "", "", "") for i, pair in enumerate(pairs)]
    more = {"lr_scheduler_type": "linear", "warmup_steps": 0, "train_sampling_strategy": "random"}
    args = PreferenceConfig(method="dpo", per_device_eval_batch_size=PAIRS, **settings(steps), **more)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        return PreferenceTrainer(model, args, made)


def trl(model: Any, pairs: list[Any], steps: int, way: str) -> Any:
    """TRL's trainer on the same token ids."""
    import copy

    import datasets
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    from forkpoint.lab import MODEL_DIR

    class AsGiven(DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    rows = [dict(zip(("prompt_ids", "chosen_ids", "rejected_ids"), pair, strict=True)) for pair in pairs]
    stored = way == "trl"
    arguments = DPOConfig(beta=0.1, max_length=None, precompute_ref_log_probs=stored, **settings(steps))
    return AsGiven(
        model=model, ref_model=None if stored else copy.deepcopy(model), args=arguments,
        processing_class=AutoTokenizer.from_pretrained(MODEL_DIR), train_dataset=datasets.Dataset.from_list(rows),
    )  # fmt: skip


def run(way: str, name: str, steps: int) -> dict[str, float]:
    """One run in a process of its own."""
    command = [sys.executable, __file__, "--way", way, "--model", name, "--steps", str(steps)]
    with tempfile.TemporaryDirectory() as cache:  # or TRL would take what an earlier run precomputed
        env = os.environ | {"HF_DATASETS_CACHE": cache}
        out = subprocess.run(command, capture_output=True, text=True, env=env, check=True).stdout
    found: dict[str, float] = json.loads(out.strip().splitlines()[-1])
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--model", choices=MODELS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options.model, options.steps)))
        return
    figures: dict[str, Any] = {}
    for name in options.models:
        runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(options.rounds):
            for way in WAYS:
                runs[way].append(run(way, name, options.steps))
                print(name, way, runs[way][-1], flush=True)
        found = {way: {key: median(r[key] for r in rows) for key in rows[0]} for way, rows in runs.items()}
        for way in WAYS[1:]:
            ratios = {
                f"{key}_ratio": found["ours"][key] / found[way][key] for key in ("seconds", "peak_mib", "above_mib")
            }
            found[way] |= ratios
        figures[name] = found
        for way, row in found.items():
            print(f"{name:4} {way:11}", "  ".join(f"{key} {value:.4g}" for key, value in row.items()), flush=True)
    print(machine.save("preference", figures))


if __name__ == "__main__":
    main()
