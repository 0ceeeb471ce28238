"""What each pipeline costs with models of 8 and 70 billion parameters: tokens, FLOPs, and hours on a number of GPUs.

    python benchmarks/scale.py [--gpus 16] [--response 400] [--tokens-per-second-8b 9000] ...

Token counts rest on benchmarks/results/ and on the sizes of the tasks. What turns them into hours is ASSUMED, not
measured: see `ASSUMED`, each an option, to be replaced by what your logs say. Prints the tables of docs/scale.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from critical_growth import GROWTH_BUDGET

from forkpoint.curves.estimator import BUDGET, WAVE
from forkpoint.curves.paper_protocol import ROLLOUTS

ASSUMED = (  # name, default, meaning
    ("gpus", 8.0, "GPUs that work side by side, all of them busy"),
    (
        "tokens_per_second_8b",
        5000.0,
        "tokens generated a second and GPU, 8B (the progress bar and `vllm serve` say it)",
    ),
    ("tokens_per_second_70b", 500.0, "the same, 70B: those of a replica, divided by its GPUs"),
    ("peak_tflops", 989.0, "TFLOP/s of a GPU in bfloat16, dense (H100 SXM by its data sheet)"),
    ("utilisation", 0.3, "share of that peak that forward passes and training reach"),
    ("prompt", 100.0, "tokens of a prompt (`few-shot` has many more)"),
    ("response", 250.0, "tokens of a response"),
    ("accuracy", 0.6, "share of sampled responses that are right"),
    ("negatives", 2.0, "wrong responses a question that `contrast` tunes on"),
    ("trajectories", 2000.0, "wrong responses to label"),
    ("corpus_tokens", 1e9, "tokens of the corpus for selective training"),
)
TEST, TRAIN = 1319, 7473  # problems of GSM8K
EPOCHS, ROUNDS = 3, 3  # defaults of preference training and of `rounds`
FULL, LORA = 6, 4  # FLOPs a weight and trained token; with adapters the frozen weights' gradients are not computed
GIB = 2**30
CARDS = {"24 GB": 24, "80 GB": 80, "2 × 80 GB": 160, "4 × 80 GB": 320, "8 × 80 GB": 640}


class Model(NamedTuple):
    """A model of Llama 3's architecture: 8 key-value heads of 128, 128,256 tokens."""

    name: str
    layers: int
    hidden: int
    mlp: int

    def weights(self) -> int:
        layer = 2 * self.hidden * (self.hidden + 8 * 128) + 3 * self.hidden * self.mlp + 2 * self.hidden
        return 2 * 128_256 * self.hidden + self.layers * layer + self.hidden

    def kv_bytes(self) -> int:
        return 2 * self.layers * 8 * 128 * 2

    def adapters(self, rank: int) -> int:
        """Weights of LoRA on all projections."""
        return self.layers * rank * (2 * 2 * self.hidden + 2 * (self.hidden + 8 * 128) + 3 * (self.hidden + self.mlp))


MODELS = (Model("8B", 32, 4096, 14_336), Model("70B", 80, 8192, 28_672))


class Work(NamedTuple):
    """Tokens to generate, to read in forward passes, and to train on, with so many FLOPs a weight."""

    name: str
    generated: float = 0.0
    read: float = 0.0
    trained: float = 0.0
    factor: int = LORA


def measured(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(__file__).parent / "results" / f"{name}.json").read_text())
    return found


def brute_force(length: float) -> float:
    """Tokens of 64 rollouts from each prefix of 1 to T-1 tokens, each as long as what remains of the response."""
    return ROLLOUTS * length * (length - 1) / 2


class Labels:
    """What one label costs, from the lab's costs and the growth that was measured with the response's length."""

    def __init__(self) -> None:
        critical = measured("critical")
        self.growth, self.lab = measured("critical_growth")["growth"], critical["label"]
        lengths = {t["id"]: t["tokens_in_it"] for t in critical["curve"]["trajectories"]}
        self.length, whole = float(np.mean(list(lengths.values()))), sum(map(brute_force, lengths.values()))
        at, budgets = ([row[key] for row in self.growth] for key in ("length", "budget_at_equal_error"))
        self.exponent = float(np.polyfit(np.log(at), np.log(budgets), 1)[0])
        self.share = float(np.mean([row["tokens"] / (GROWTH_BUDGET * row["length"]) for row in self.growth]))
        self.of_formula = self.lab["plain"]["tokens"] * len(lengths) / whole
        self.position = float(np.mean([self.lab["true"][i] / (n - 1) for i, n in lengths.items()]))
        # The paper's protocol: at least the lab's share of brute force, where most rollouts followed the response to
        # its end, which costs nothing; at most all rollouts after the critical token, whole.
        tail = sum(brute_force(n - self.lab["true"][i]) for i, n in lengths.items()) / whole
        self.paper = self.lab["paper"]["tokens"] / self.lab["plain"]["tokens"], tail

    def rollouts(self, length: float) -> float:
        """To a settled label: the lab's, growing with length as those to equal error did, up to the budget."""
        return float(min(BUDGET, self.lab["fork"]["rollouts"] * (length / self.length) ** self.exponent))

    def forks(self, length: float, most: float = BUDGET) -> tuple[float, float]:
        """Tokens to generate; and how often prompt and response are read, once to score and at most once a wave."""
        rollouts = min(most, self.rollouts(length))
        return rollouts * self.share * length, 1 + rollouts / WAVE


def pipelines(a: argparse.Namespace, labels: Labels) -> dict[str, list[Work]]:
    """The tables of costs by title."""
    p, y, n, brute = a.prompt, a.response, a.trajectories, brute_force(a.response)
    row, pair, apart, once = p + y, p + 2 * y, 2 * (p + y), EPOCHS * TRAIN
    (forks, reads), (fewer, fewer_reads) = labels.forks(y), labels.forks(y, 256)
    share = next(m["share_of_tokens_to_control"] for m in measured("lab_slm")["methods"] if m["method"] == "SLM 60%")
    at, corpus, asked = p + labels.position * y + 2, a.corpus_tokens, n / (1 - a.accuracy)
    sampled, tested = ROUNDS * TRAIN, (ROUNDS + 1) * TEST
    rounds = (8 * sampled + 17 * tested) * y, (sampled + tested) * p, 8 * sampled * a.accuracy * row
    return {
        f"Evaluation of {TEST:,} problems": [
            Work("greedy, or one sample", TEST * y, TEST * p),
            Work("CoT-decoding, k = 10", 10 * TEST * y, TEST * p),
            Work("— a prompt for each path", 10 * TEST * y, 10 * TEST * p),
            Work("self-consistency, n = 40", 40 * TEST * y, TEST * p),
            Work("— a prompt for each path", 40 * TEST * y, 40 * TEST * p),
        ],
        f"Critical tokens of {n:,g} wrong responses": [
            Work("sampling them, and right ones", asked * y, asked * p),
            Work("forks, defaults", n * forks, n * row * reads),
            Work("forks, `--budget 256`", n * fewer, n * row * fewer_reads),
            Work("paper's protocol as run here, at most", n * labels.paper[1] * brute, 2 * n * row),
            Work("64 rollouts from every prefix", n * brute, n * row),
        ],
        f"Contrastive estimation for {TRAIN:,} questions": [
            Work("sampling 64 responses", 64 * TRAIN * y, TRAIN * p),
            Work("two LoRA tunings", trained=TRAIN * (1 + a.negatives) * row),
            Work("scoring all wrong samples, 3 passes", read=3 * 64 * TRAIN * (1 - a.accuracy) * row),
            Work("instead: forks, one wrong response each", TRAIN * forks, TRAIN * row * reads),
            Work("instead: 64 rollouts from every prefix", TRAIN * brute, TRAIN * row),
        ],
        f"Preference training on {TRAIN:,} pairs, {EPOCHS} epochs": [
            Work("SFT on the chosen, LoRA", trained=once * row),
            Work("critical DPO, LoRA", read=TRAIN * pair, trained=once * pair),
            Work("— reference at each step", read=once * pair, trained=once * pair),
            Work("— and a prompt for each response", read=once * apart, trained=once * apart),
            Work("critical DPO, all weights", read=TRAIN * pair, trained=once * pair, factor=FULL),
            Work(f"fork DPO, LoRA, on {n:,g} pairs", read=n * at, trained=EPOCHS * n * at),
        ],
        f"Selective training on {corpus / 1e9:g} billion tokens, all weights": [
            Work("CLM", trained=corpus, factor=FULL),
            Work("SLM 60%, all of the corpus", read=corpus, trained=corpus, factor=FULL),
            Work(f"SLM 60%, {share:.0%} of it (the lab's factor)", 0, share * corpus, share * corpus, FULL),
        ],
        f"Rounds on {TRAIN:,} questions": [Work("LoRA", *rounds), Work("all weights", *rounds, FULL)],
    }


def costs(works: Iterable[Work], a: argparse.Namespace) -> Iterator[list[str]]:
    """Cells of each: tokens in millions; FLOPs and GPU-hours of both models, and the hours on all GPUs."""
    for work in works:
        cells = [number(x / 1e6) for x in work[1:4]]
        for model, speed in zip(MODELS, (a.tokens_per_second_8b, a.tokens_per_second_70b), strict=True):
            passes = model.weights() * (2 * work.read + work.factor * work.trained)
            hours = (work.generated / speed + passes / (a.peak_tflops * 1e12 * a.utilisation)) / 3600
            cells += map(number, ((2 * model.weights() * work.generated + passes) / 1e18, hours, hours / a.gpus))
        yield [work.name, *cells]


def lengths(response: float, labels: Labels) -> Iterator[list[str]]:
    """Cells of what one label takes: as measured on the lab, then for longer responses."""
    lab, growth = labels.lab, {row["length"]: row["tokens_ratio_at_equal_error"] for row in labels.growth}
    fork, paper, brute = (lab[kind]["tokens"] for kind in ("fork", "paper", "plain"))
    facts = (lab["fork"]["rollouts"], fork, paper, brute, brute / fork)
    yield [f"{labels.length:.0f}, the lab, measured", *map(number, facts), "", number(brute / paper)]
    for length in sorted({100, 200, response, 400, 800}):
        forks, brute = labels.forks(length)[0], brute_force(length)
        low, high = (number(share * brute) for share in labels.paper)
        cells = [number(labels.rollouts(length)), number(forks), f"{low} to {high}", number(brute)]
        cells += [number(brute / forks), number(growth.get(length, 0))]
        yield [f"{length:g}", *cells, " to ".join(number(1 / s) for s in labels.paper)]


def memory(m: Model, row: float) -> tuple[list[str], list[str]]:
    """Cells of a model: GiB of weights and training; and rows whose keys and values fit beside the weights.

    Each weight that is trained takes 16 bytes: itself, its gradient and Adam's two numbers, in float32.
    """
    weights, trained = 2 * m.weights() / GIB, 16 * m.weights() / GIB
    sizes = [weights, 2 * weights, m.kv_bytes() / 1024, *(trained / n for n in (1, 8, 16))]
    sizes += [weights + 16 * m.adapters(16) / GIB]
    rooms = [(0.9 * gib - weights) * GIB / m.kv_bytes() / row for gib in CARDS.values()]
    return [m.name, *(f"{x:,.1f}" for x in sizes)], [m.name, *(number(max(x, 0)) for x in rooms)]


def number(x: float) -> str:
    """With 2 or 3 digits, whole from 100 on; nothing for 0."""
    return "" if not x else f"{x:,.0f}" if x >= 99.95 else f"{x:.1f}" if x >= 9.95 else f"{x:.2g}"


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    print("\n".join(["", title, "", line(head), "|" + "---|" * len(head), *map(line, rows)]))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default, meaning in ASSUMED:
        parser.add_argument(f"--{name.replace('_', '-')}", f"--{name}", type=float, default=default, help=meaning)
    a, labels = parser.parse_args(), Labels()
    rows = ([f"`--{name.replace('_', '-')}`", f"{getattr(a, name):,.10g}", meaning] for name, _, meaning in ASSUMED)
    table("Assumed, not measured", ("option", "here", "meaning"), rows)
    print(
        f"\nRollouts grow with length to the power {labels.exponent:.2f}; each takes {labels.share:.2f} of the length."
    )
    print(f"Brute force on the lab: {labels.of_formula:.2f} of the formula's tokens.")
    head = ["length", "rollouts", "forks", "paper's protocol", "brute force"]
    head += ["÷ forks", "÷ forks at equal error, measured", "÷ paper's protocol"]
    table("Tokens to generate for one label", head, lengths(a.response, labels))
    head = ["", "generated", "read", "trained"]
    head += [f"{m.name}: {what}" for m in MODELS for what in ("EFLOP", "GPU-hours", f"hours on {a.gpus:g}")]
    for title, works in pipelines(a, labels).items():
        table(f"{title} (tokens in millions)", head, costs(works, a))
    sizes, rooms = zip(*(memory(m, a.prompt + a.response) for m in MODELS), strict=True)
    head = ["", "weights, bfloat16", "float32", "a token's keys and values, KiB", "training all weights, 1 GPU"]
    table("Memory, GiB", [*head, "each of 8 GPUs", "of 16", "LoRA of rank 16"], sizes)
    table("Responses at a time", ["", *CARDS], rooms)
    store = measured("slm_memory")
    print(f"\nScore store: {store['store_bytes'] / store['tokens']:.2f} bytes a token, measured")
    print(f"Reference log-probabilities: {4 * 2 * a.response * TRAIN / 1e6:.1f} MB for {TRAIN:,} pairs")


if __name__ == "__main__":
    main()
