"""How the embedded lab model is made: `forkpoint lab train` runs exactly this.

A Llama-architecture model of about 0.9M parameters learns next-token prediction on the lab corpus, one document a
row; tokens of the question weigh QUESTION_WEIGHT, those of the answer 1. LABEL_SMOOTHING stands for the noise of real
text: every token has a small chance everywhere, which gives logits the shape that they have in large models, a narrow
bulk with a few outliers about ten standard deviations above. Everything follows from the seed and the number of steps.

The tokenizer is byte-level BPE that keeps every digit a token of its own, so that any text can be encoded.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from torch.optim.lr_scheduler import LambdaLR
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from forkpoint.lab.corpus import documents

EOS, PAD = "<|end|>", "<|pad|>"
QUESTION_WEIGHT = 0.1
LABEL_SMOOTHING = 1e-3
TOKENIZER_DOCUMENTS = 20_000


@dataclass(frozen=True, slots=True)
class LabRecipe:
    """The sizes and the schedule that the shipped model was trained with."""

    steps: int = 3000
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


def train_tokenizer(recipe: LabRecipe) -> PreTrainedTokenizerFast:
    """A tokenizer of the corpus; it puts no token around a text by itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocab_size, special_tokens=[EOS, PAD], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    texts = (q + a for q, a in itertools.islice(documents(recipe.seed), TOKENIZER_DOCUMENTS))
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD, clean_up_tokenization_spaces=False
    )


def build_model(recipe: LabRecipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The untrained model."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=recipe.hidden_size, intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers, num_attention_heads=recipe.heads, num_key_value_heads=recipe.heads,
        max_position_embeddings=4096, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
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
            ids = [torch.tensor([*q, *a, eos]) for q, a in chunk]
            weights = [torch.tensor([QUESTION_WEIGHT] * len(q) + [1.0] * (len(a) + 1)) for q, a in chunk]
            yield pad_sequence(ids, True, pad), pad_sequence(weights, True)


def build_optimizers(recipe: LabRecipe, model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings and norms."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if all(p is not m for m in matrices)]
    decay = recipe.weight_decay
    muon = torch.optim.Muon(matrices, lr=recipe.matrix_learning_rate, weight_decay=decay)
    adamw = torch.optim.AdamW(rest, lr=recipe.other_learning_rate, betas=(0.9, 0.98), weight_decay=decay)
    return [muon, adamw]


def schedule(recipe: LabRecipe, step: int) -> float:
    """The share of the peak learning rates at a step: linear warm-up, then cosine to a twentieth."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress))


def loss_of(model: LlamaForCausalLM, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The weighted mean loss per token of a batch (nats); ids and weights are [B, T]."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(ids[:, :-1], use_cache=False).logits
    losses = cross_entropy(
        logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none", label_smoothing=LABEL_SMOOTHING
    )
    weight = weights[:, 1:].flatten()
    return (losses * weight).sum() / weight.sum()


def train_lab_model(out: Path, recipe: LabRecipe, report: Callable[[str], None]) -> None:
    """Train the lab model from nothing and save it with its tokenizer as safetensors in `out`."""
    tokenizer = train_tokenizer(recipe)
    model = build_model(recipe, tokenizer).train()
    optimizers = build_optimizers(recipe, model)
    schedulers = [LambdaLR(optimizer, partial(schedule, recipe)) for optimizer in optimizers]
    started, tokens, recent = time.monotonic(), 0, 0.0
    for step, (ids, weights) in enumerate(itertools.islice(batches(recipe, tokenizer), recipe.steps)):
        loss = loss_of(model, ids, weights)
        model.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()
        recent = loss.item() if step == 0 else 0.95 * recent + 0.05 * loss.item()
        tokens += ids.numel()
        if step % 100 == 99 or step == recipe.steps - 1:
            seconds = time.monotonic() - started
            report(f"step {step + 1}/{recipe.steps}  loss {recent:.4f}  {tokens / seconds:,.0f} tokens/s")
    model.eval().save_pretrained(out)
    tokenizer.save_pretrained(out)
