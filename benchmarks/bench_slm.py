"""Selective training and scoring beside what they replace: time of a step, memory of the loss, speed of scoring.

    python benchmarks/bench_slm.py

- A training step of `train slm` with a stored reference (excess loss, 60%) beside one of `train clm`, and beside one of
  transformers' Trainer on the same rows, in turn, on the lab model and on a model of 50M parameters with V = 32,000.
- Peak memory of loss and gradients at 8,192 tokens and V = 151,936 beside the dense loss, each in its own process.
- Scoring (loss and entropy) beside a forward pass with logits and nothing else, over the same batches.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import machine
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, LlamaConfig, Trainer

from forkpoint.engines.loading import load_pretrained
from forkpoint.engines.local.head import Head, head_of
from forkpoint.engines.local.logprobs import token_logprobs
from forkpoint.lab.noise import noisy_documents
from forkpoint.scores.context import Context
from forkpoint.scores.corpora import Document
from forkpoint.scores.reference_losses import score_corpus
from forkpoint.scores.row_losses import batch_of, row_losses
from forkpoint.scores.store import Store, open_store
from forkpoint.training.configs import SelectiveConfig
from forkpoint.training.selective_trainer import SelectiveTrainer
from forkpoint.training.store_batches import IGNORED, Rows, collate
from forkpoint.weights.rules import UNIFORM

STEPS, ROUNDS = 4, 5
TOKENS, VOCABULARY, HIDDEN, RATIO = 8192, 151_936, 1024, 0.6
MODELS = {
    "lab": {"rows": 32, "length": 256},
    "50M, V = 32,000": {"rows": 4, "length": 256},
}


def model_of(name: str, tokenizer_and_lab: tuple[Any, Any]) -> Any:
    """The model under that name, in float32."""
    lab, _ = tokenizer_and_lab
    if name == "lab":
        return lab
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32_000, hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
        max_position_embeddings=1024, tie_word_embeddings=False,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


def documents(tokenizer: Any, count: int) -> Iterator[Document]:
    """Documents of the lab's noisy corpus."""
    for document in itertools.islice(noisy_documents(3, tokenizer), count):
        yield Document(document.id, None, document.token_ids)


def trainer(model: Any, store: Store, rule: str, rows: int, out: str) -> SelectiveTrainer:
    """A selective trainer of STEPS steps that keeps nothing."""
    return SelectiveTrainer(model, arguments(rows, out, rule), store)


def arguments(rows: int, out: str, rule: str = UNIFORM) -> SelectiveConfig:
    """A short training."""
    return SelectiveConfig(
        output_dir=out, max_steps=STEPS, per_device_train_batch_size=rows, learning_rate=1e-5, save_strategy="no",
        use_cpu=True, dataloader_pin_memory=False, logging_steps=STEPS, seed=1, rule=rule, ratio=RATIO,
        include_num_input_tokens_seen="no", train_sampling_strategy="random",
    )  # fmt: skip


def plain_trainer(model: Any, store: Store, rows: int, out: str) -> Trainer:
    """transformers' own, with its loss, on the same rows."""

    def collator(examples: Any) -> dict[str, torch.Tensor]:
        batch = collate(examples)
        labels = torch.full_like(batch["input_ids"], IGNORED)
        labels.view(-1)[batch["rows"] + 1] = batch["targets"]
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}

    return Trainer(model, arguments(rows, out), data_collator=collator, train_dataset=Rows(store, 0))


def in_turn(prepare: dict[str, Callable[[], Callable[[], object]]]) -> dict[str, list[float]]:
    """Seconds of each prepared task in ROUNDS rounds, after one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in prepare}
    for number in range(ROUNDS + 1):
        for name, prepared in prepare.items():
            task = prepared()
            started = time.perf_counter()
            task()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratios(seconds: dict[str, list[float]], name: str, other: str) -> dict[str, float]:
    """The median of the rounds' ratios, and their range."""
    found = [a / b for a, b in zip(seconds[name], seconds[other], strict=True)]
    return {"median": statistics.median(found), "least": min(found), "most": max(found)}


def training_steps(name: str, model: Any, store: Store, rows: int) -> dict[str, Any]:
    """Seconds of a training of STEPS steps."""
    with tempfile.TemporaryDirectory() as out:
        tasks = {
            "slm": lambda: trainer(model, store, "excess_loss", rows, out).train,
            "clm": lambda: trainer(model, store, UNIFORM, rows, out).train,
            "transformers": lambda: plain_trainer(model, store, rows, out).train,
        }
        seconds = in_turn(tasks)
    found = {"model": name, "seconds_a_step": {k: statistics.median(v) / STEPS for k, v in seconds.items()}}
    return found | {f"slm_to_{other}": ratios(seconds, "slm", other) for other in ("clm", "transformers")}


def scoring(name: str, model: Any, store: Store, rows: int) -> dict[str, Any]:
    """Tokens a second, scored and merely read, over the same batches."""
    model.eval()
    head = head_of(model)
    chosen = sorted((store[i].row for i in range(rows * 8)), key=lambda row: -len(row.ids))
    batches = [chosen[i : i + rows] for i in range(0, len(chosen), rows)]
    budget = max(rows * len(batch[0].ids) for batch in batches)

    @torch.inference_mode()
    def bare() -> None:
        for batch in batches:
            model(input_ids=batch_of(batch).ids, use_cache=False)

    def scored() -> None:
        for batch in batches:
            row_losses(model, head, batch, budget)

    seconds = in_turn({"bare": lambda: bare, "scored": lambda: scored})
    tokens = sum(len(row.ids) for row in chosen)
    return {
        "model": name,
        "tokens_a_second": {k: tokens / statistics.median(v) for k, v in seconds.items()},
        "speed_to_bare": ratios(seconds, "bare", "scored"),
    }


def loss_once(kind: str) -> None:
    """One loss with gradients at the large vocabulary, and the process's peak memory above its inputs, in MiB."""
    torch.manual_seed(0)
    hidden = torch.randn(TOKENS, HIDDEN).requires_grad_()
    weight = (torch.randn(VOCABULARY, HIDDEN) * 0.02).requires_grad_()
    targets = torch.randint(0, VOCABULARY, (TOKENS,))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    if kind == "dense":
        cross_entropy(hidden @ weight.T, targets).backward()
    else:
        losses = -token_logprobs(hidden, Head(weight, None, 1.0, None), targets)
        kept = losses.detach().argsort(descending=True)[: round(TOKENS * (RATIO if kind == "slm" else 1))]
        losses[kept].mean().backward()
    seconds = time.perf_counter() - started
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, seconds)


def loss_memory() -> dict[str, Any]:
    """Peak memory of the three losses."""
    found: dict[str, Any] = {"tokens": TOKENS, "vocabulary": VOCABULARY, "hidden_size": HIDDEN}
    for kind in ("slm", "clm", "dense"):
        command = [sys.executable, __file__, "--loss", kind]
        words = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        found[kind] = {"peak_mib": float(words[0]), "seconds": float(words[1])}
    return found | {"slm_to_dense": found["slm"]["peak_mib"] / found["dense"]["peak_mib"]}


def main() -> None:
    """Measure everything, print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loss", choices=("slm", "clm", "dense"), help="one loss, for its memory")
    if kind := parser.parse_args().loss:
        loss_once(kind)
        return
    lab, tokenizer = load_pretrained(
        "lab", device="cpu", dtype="float32", attn_implementation=None, revision=None, trust_remote_code=False
    )
    found: dict[str, Any] = {"training": [], "scoring": []}
    for name, sizes in MODELS.items():
        model = model_of(name, (lab, tokenizer))
        with tempfile.TemporaryDirectory() as folder:
            context = Context("packed", sizes["length"], sizes["length"])
            score_corpus(documents(tokenizer, 600), tokenizer, Path(folder), context, model=model.eval())
            store = open_store(Path(folder))
            found["scoring"].append(scoring(name, model, store, sizes["rows"]))
            print(found["scoring"][-1], flush=True)
            found["training"].append(training_steps(name, model, store, sizes["rows"]))
            print(found["training"][-1], flush=True)
    found["loss_memory"] = loss_memory()
    print(found["loss_memory"], flush=True)
    print(machine.save("slm", found))


if __name__ == "__main__":
    main()
