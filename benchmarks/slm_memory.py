"""A corpus of 50 million tokens scored and trained from disk: what the processes hold in memory all along.

    python benchmarks/slm_memory.py

Writes 30,000 lab problems as text, again and again, until they are 50 million tokens, scores them with
`forkpoint score`, and trains on all of them once with `forkpoint train slm`, both with a tiny model (one layer, 32
wide), so that memory is that of the data. Notes each process's memory every two seconds: anonymous (its own), and
file-backed (pages of the store that the kernel may take back at any time).
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import machine
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from forkpoint.lab import MODEL_DIR
from forkpoint.lab.corpus import documents

OUT = Path("runs/slm-memory")
TOKENS, DOCUMENTS = 50_000_000, 30_000
LENGTH, BATCH, SECONDS = 128, 256, 2.0
SETTLED = 0.2  # of a run: from then on memory should stay where it is


def tiny_model(out: Path) -> None:
    """A tiny untrained model with the lab's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=LENGTH, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(out)
    tokenizer.save_pretrained(out)


def write_corpus(path: Path) -> int:
    """Lab problems as JSON Lines, the same ones again and again until there are enough tokens; returns the bytes."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    texts = [question + answer for question, answer in itertools.islice(documents(11), DOCUMENTS)]
    tokens = sum(len(ids) + 1 for ids in tokenizer(texts)["input_ids"])
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    with path.open("w") as file:
        for _ in range(math.ceil(TOKENS / tokens)):
            file.write(lines)
    return path.stat().st_size


def watched(*words: object) -> dict[str, Any]:
    """Run a forkpoint command; its seconds, and its memory in MiB over time."""
    process = subprocess.Popen([sys.executable, "-m", "forkpoint", *map(str, words), "--quiet"])
    started = time.perf_counter()
    samples: list[tuple[float, float, float]] = []
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        if "RssAnon" in fields:
            anon, file = (int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))
            samples.append((time.perf_counter() - started, anon, file))
        time.sleep(SECONDS)
    assert process.returncode == 0
    seconds = time.perf_counter() - started
    later = [anon for at, anon, _ in samples if at > SETTLED * seconds]
    tenths = [min(samples, key=lambda s: abs(s[0] - seconds * i / 10)) for i in range(1, 10)]
    return {
        "seconds": seconds, "anonymous_mib": {"at_a_fifth": later[0], "most_after": max(later), "last": later[-1]},
        "file_backed_mib_most": max(file for *_, file in samples),
        "anonymous_mib_by_tenths": [round(anon, 1) for _, anon, _ in tenths],
    }  # fmt: skip


def main() -> None:
    """Make the corpus, score it, train on it, keep the figures."""
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    tiny_model(OUT / "model")
    found: dict[str, Any] = {"corpus_bytes": write_corpus(OUT / "corpus.jsonl")}
    context = ("--documents", "packed", "--length", LENGTH)
    found["score"] = watched("score", "--model", OUT / "model", "--data", OUT / "corpus.jsonl", *context,
                             "--out", OUT / "store")  # fmt: skip
    facts = json.loads((OUT / "store" / "store.json").read_text())
    found |= {name: facts[name] for name in ("documents", "rows", "tokens")} | {"shards": len(facts["shards"])}
    found["store_bytes"] = sum(shard["bytes"] for shard in facts["shards"])
    print(found, flush=True)
    found["train"] = watched(
        "train", "slm", "--model", OUT / "model", "--store", OUT / "store", "--per_device_train_batch_size", BATCH,
        "--save_strategy", "no", "--logging_steps", "0.1", "--out", OUT / "slm",
    )  # fmt: skip
    print(machine.save("slm_memory", found))
    shutil.rmtree(OUT)


if __name__ == "__main__":
    main()
