"""What bfloat16 changes: log-probabilities of decoding and scoring, and the tokens that excess loss selects.

    python benchmarks/half_precision.py

Random Llama models with a vocabulary of 32,768, whose largest logits are those of trained models (14 to 24), all with
the same bfloat16 weights: in bfloat16 as we compute, in bfloat16 as PyTorch alone would, and in float32. Needs no
network; writes benchmarks/results/half_precision.json.
"""

from __future__ import annotations

import argparse
import copy
from typing import Any

import machine
import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, PreTrainedModel, PreTrainedTokenizerFast

from forkpoint.engines import load_engine
from forkpoint.engines.local.head import head_of, hidden_at
from forkpoint.engines.local.logprobs import token_losses_and_entropy
from forkpoint.engines.local.products import float32_activations, float32_logits
from forkpoint.types import Request, Sampling
from forkpoint.weights.rules import Rule, select

VOCAB, HIDDEN, WIDTH = 32_768, 128, 256
SPREAD = 4.4  # of logits, so that the largest of 32,768 is about 18
RATIO = 0.6
SEEDS = 6


def random_model(layers: int, seed: int = 0) -> PreTrainedModel:
    """A model in bfloat16, on the CPU."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=2 * HIDDEN, num_hidden_layers=layers,
        num_attention_heads=4, max_position_embeddings=512, initializer_range=0.05, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    torch.nn.init.normal_(model.lm_head.weight, std=SPREAD / HIDDEN**0.5)
    return model.bfloat16()


@torch.no_grad()
def moved(model: PreTrainedModel, size: float) -> PreTrainedModel:
    """A copy with weights changed by so much of their spread, as training does."""
    torch.manual_seed(1)
    other = copy.deepcopy(model)
    for p in other.parameters():
        p.add_(torch.randn_like(p) * p.float().std() * size)
    return other


@torch.no_grad()
def selections(layers: int, tokens: int) -> dict[str, float]:
    """Shares of tokens selected otherwise than by float32, and the error of a loss, of random tokens that the
    reference itself wrote."""
    reference = random_model(layers)
    model = moved(reference, 0.05)
    ids, rows = torch.randint(2, VOCAB, (tokens // WIDTH, WIDTH)), torch.arange(tokens)
    exact = copy.deepcopy(model).float(), copy.deepcopy(reference).float()
    states, head = hidden_at(exact[1], ids, rows), head_of(exact[1])
    drawn, largest = [], []
    for part in states.split(WIDTH):
        logits = head.all_logits(part)
        largest.append(logits.amax(-1))
        below = logits.softmax(-1).cumsum(-1)
        drawn.append(torch.searchsorted(below, torch.rand(len(part), 1))[:, 0].clamp(max=VOCAB - 1))
    targets, chance = torch.cat(drawn), torch.rand(tokens).double()

    def ours(one: PreTrainedModel) -> torch.Tensor:
        with float32_activations(one):
            hidden = hidden_at(one, ids, rows)
        return token_losses_and_entropy(hidden, head_of(one), targets)[0]

    def plain(one: PreTrainedModel) -> torch.Tensor:
        logits = (one.lm_head(part).float() for part in hidden_at(one, ids, rows).split(WIDTH))
        pairs = zip(logits, targets.split(WIDTH), strict=True)
        return torch.cat([torch.nn.functional.cross_entropy(*pair, reduction="none") for pair in pairs])

    def kept(losses: list[torch.Tensor]) -> torch.Tensor:
        columns = {"loss": losses[0], "reference_loss": losses[1], "chance": chance}
        return select(columns, Rule("excess_loss", RATIO), torch.zeros_like(targets)).kept

    truth = [ours(one) for one in exact]
    found: dict[str, float] = {"largest_logit": float(torch.cat(largest).mean())}
    for name, of in (("ours", ours), ("plain", plain)):
        losses = [of(one) for one in (model, reference)]
        found[f"{name}_selected_otherwise"] = float((kept(losses) != kept(truth)).float().mean())
        found[f"{name}_loss_error"] = float((losses[0] - truth[0]).abs().mean())
    return found


def decoding(layers: int, branches: int, length: int, seed: int = 0) -> dict[str, float]:
    """Mean absolute differences of the log-probabilities of sampled tokens: trunk decoding and transformers' own, step
    by step, each against scoring in one pass (PyTorch's own attention); and all three against float32."""
    model = random_model(layers, seed)
    words = Tokenizer(models.WordLevel({str(i): i for i in range(VOCAB)}, unk_token="0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    trunk = np.random.default_rng(seed).integers(2, VOCAB, 120).tolist()
    requests = [Request(f"{i}", tuple(trunk[: 20 + 100 * i // branches])) for i in range(branches)]
    engine = load_engine(model, tokenizer)
    assert engine.trunk_refusal is None, engine.trunk_refusal
    prefixes = {r.key: r.prefix for r in requests}
    done = list(engine.generate(requests, Sampling(max_tokens=length)))
    sequences, starts = [(*prefixes[c.key], *c.token_ids) for c in done], [len(prefixes[c.key]) for c in done]
    trunks = np.concatenate([c.logprobs for c in done])
    steps = np.concatenate([step_by_step(model, s, n) for s, n in zip(sequences, starts, strict=True)])
    half, full = (
        np.concatenate([s.logprobs[n:-1] for s, n in zip(of.score(sequences, starts=starts), starts, strict=True)])
        for of in (engine, load_engine(copy.deepcopy(model).float(), tokenizer))
    )
    differences = {
        "trunks_and_scoring": trunks - half, "steps_and_scoring": steps - half, "scoring_and_float32": half - full,
        "trunks_and_float32": trunks - full, "steps_and_float32": steps - full,
    }  # fmt: skip
    return {name: float(np.abs(values).mean()) for name, values in differences.items()}


@torch.no_grad()
def step_by_step(model: PreTrainedModel, sequence: tuple[int, ...], start: int) -> np.ndarray:
    """Log-probabilities of the tokens from `start` on as transformers decodes them over its own cache."""
    cache, ids = DynamicCache(), torch.tensor([sequence])
    with float32_logits(model):
        logits = [model(input_ids=ids[:, :start], past_key_values=cache, use_cache=True).logits[:, -1]]
        for i in range(start, len(sequence) - 1):
            logits.append(model(input_ids=ids[:, i : i + 1], past_key_values=cache, use_cache=True).logits[:, -1])
    return torch.cat(logits).log_softmax(-1).gather(1, ids[0, start:, None])[:, 0].numpy()


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4096)
    args = parser.parse_args()
    figures: dict[str, Any] = {"vocabulary": VOCAB, "tokens": args.tokens, "seeds": SEEDS}
    for layers in (2, 12):
        runs = [decoding(layers, 64, 48, seed) for seed in range(SEEDS)]
        means = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
        figures[f"{layers} layers"] = selections(layers, args.tokens) | means
        print(layers, "layers:", {name: round(value, 6) for name, value in figures[f"{layers} layers"].items()})
    print(machine.save("half_precision", figures))


if __name__ == "__main__":
    main()
