"""How the embedded lab model is made: `forkpoint lab train` runs exactly this.

A Llama-architecture model of about 0.9M parameters learns next-token prediction on the lab corpus, one document a
row, from random initialisation; tokens of the question weigh QUESTION_WEIGHT, those of the answer 1. LABEL_SMOOTHING
stands for the noise of real text: it gives every token a small chance everywhere, and so logits the shape that they
have in large models, a narrow bulk with a few outliers about ten standard deviations above. Everything is derived from
the seed and the number of steps.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from forkpoint.lab.corpus import documents
from forkpoint.lab.tokenizer import train_tokenizer

QUESTION_WEIGHT = 0.1
LABEL_SMOOTHING = 1e-3
TOKENIZER_DOCUMENTS = 20_000


@dataclass(frozen=True, slots=True)
class LabRecipe:
    """The sizes and the schedule that the shipped model was trained with."""

    steps: int = 4000
    batch_documents: int = 64
    matrix_learning_rate: float = 0.02
    other_learning_rate: float = 4e-3
    warmup_steps: int = 100
    weight_decay: float = 0.05
    vocab_size: int = 768
    hidden_size: int = 128
    intermediate_size: int = 384
    layers: int = 4
    heads: int = 4
    seed: int = 0


def build_model(recipe: LabRecipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The untrained model."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def batches(recipe: LabRecipe, tokenizer: PreTrainedTokenizerFast) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(input_ids, weights) [B, T] without end: questions of similar length side by side, padding weighs nothing."""
    rng = random.Random(recipe.seed)
    source = documents(recipe.seed)
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    while True:
        texts = list(itertools.islice(source, recipe.batch_documents * 32))
        questions = tokenizer([q for q, _ in texts])["input_ids"]
        answers = tokenizer([a for _, a in texts])["input_ids"]
        # by the question alone: batches of answers of one length would weigh the kinds of answer differently
        rows = sorted(zip(questions, answers, strict=True), key=lambda row: len(row[0]))
        chunks = [rows[i : i + recipe.batch_documents] for i in range(0, len(rows), recipe.batch_documents)]
        rng.shuffle(chunks)
        for chunk in chunks:
            width = max(len(q) + len(a) + 1 for q, a in chunk)
            fill = [width - len(q) - len(a) - 1 for q, a in chunk]
            ids = [[*q, *a, eos, *[pad] * f] for (q, a), f in zip(chunk, fill, strict=True)]
            weights = [
                [*[QUESTION_WEIGHT] * len(q), *[1.0] * (len(a) + 1), *[0.0] * f]
                for (q, a), f in zip(chunk, fill, strict=True)
            ]
            yield torch.tensor(ids), torch.tensor(weights)


def build_optimizers(recipe: LabRecipe, model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings and norms; "peak" holds each one's learning rate."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if all(p is not m for m in matrices)]
    muon = torch.optim.Muon(
        [{"params": matrices, "peak": recipe.matrix_learning_rate}], weight_decay=recipe.weight_decay
    )
    adamw = torch.optim.AdamW(
        [{"params": others, "peak": recipe.other_learning_rate}], betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    return [muon, adamw]


def schedule(recipe: LabRecipe, step: int) -> float:
    """The share of the peak learning rates at a step: linear warm-up, then cosine to a twentieth."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress))


def train_step(
    model: LlamaForCausalLM,
    optimizers: list[torch.optim.Optimizer],
    share: float,
    ids: torch.Tensor,
    weights: torch.Tensor,
) -> float:
    """One step at a share of the peak learning rates; returns the batch's weighted mean loss per token (nats)."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(ids[:, :-1], use_cache=False).logits
    losses = cross_entropy(
        logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none", label_smoothing=LABEL_SMOOTHING
    )
    weight = weights[:, 1:].flatten()
    loss = (losses * weight).sum() / weight.sum()
    model.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = share * group["peak"]
        optimizer.step()
    return loss.item()


def train_lab_model(
    out: Path, recipe: LabRecipe, report: Callable[[str], None] = print
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Train the lab model from nothing and save it with its tokenizer as safetensors in `out`."""
    texts = (q + a for q, a in itertools.islice(documents(recipe.seed), TOKENIZER_DOCUMENTS))
    tokenizer = train_tokenizer(texts, recipe.vocab_size)
    model = build_model(recipe, tokenizer).train()
    optimizers = build_optimizers(recipe, model)
    started, tokens, recent = time.monotonic(), 0, 0.0
    for step, (ids, weights) in enumerate(itertools.islice(batches(recipe, tokenizer), recipe.steps)):
        loss = train_step(model, optimizers, schedule(recipe, step), ids, weights)
        recent = loss if step == 0 else 0.95 * recent + 0.05 * loss
        tokens += ids.numel()
        if step % 100 == 99 or step == recipe.steps - 1:
            seconds = time.monotonic() - started
            report(f"step {step + 1}/{recipe.steps}  loss {recent:.4f}  {tokens / seconds:,.0f} tokens/s")
    model.eval().save_pretrained(out)
    tokenizer.save_pretrained(out)
    return model, tokenizer
