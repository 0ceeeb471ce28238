"""Selective language modeling on the lab: rules, ratios, references and controls with the same number of tokens read.

    forkpoint lab train --steps 600 --out runs/lab-slm/base
    python benchmarks/lab_slm.py --work & python benchmarks/lab_slm.py --work & wait
    python benchmarks/lab_slm.py

A lab model that is trained a little goes on with a corpus of word problems in which 40% of the tokens are noise and a
third of the documents hold wrong numbers (docs/lab.md); the references are that model trained on clean text, a smaller
one trained on clean text from nothing, and that model trained on the corpus itself. Each method reads the same
documents in the same order; 3 seeds, each with a corpus, references and order of its own. Judged by the mean loss on
held-out clean documents, and by greedy and sampled accuracy on 500 problems of the test split. `oracle` knows which
tokens are noise.
Each piece of work is kept in runs/lab-slm/ as soon as it is done, so that processes may run side by side and be killed.
The last command writes benchmarks/results/lab_slm.json and docs/figures/lab-slm.svg.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import shutil
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch
from filelock import FileLock, Timeout
from matplotlib.figure import Figure
from scipy import stats
from transformers import AutoModelForCausalLM

from forkpoint.cli import main as forkpoint
from forkpoint.engines import load_engine
from forkpoint.engines.loading import load_pretrained
from forkpoint.engines.local.head import head_of
from forkpoint.evaluation.statistics import paired_difference
from forkpoint.files import to_json, write_whole
from forkpoint.lab.noise import KINDS
from forkpoint.lab.problem_generator import load_problems
from forkpoint.report.figures.drawing import LINES, plain_axes, saved
from forkpoint.scores.context import Context
from forkpoint.scores.corpora import read_corpus
from forkpoint.scores.reference_losses import score_corpus
from forkpoint.scores.row_losses import row_losses
from forkpoint.scores.store import ScoredRow, Store, open_store, write_facts, write_shard
from forkpoint.training.configs import SelectiveConfig
from forkpoint.training.selective_run import pretrain
from forkpoint.training.store_batches import Rows, collate
from forkpoint.trajectories.rows import sample_trajectories
from forkpoint.types import Sampling
from forkpoint.weights.rules import UNIFORM, Rule, select

OUT = Path("runs/lab-slm")
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "lab-slm.svg"
SEEDS = (1, 2, 3)
DOCUMENTS, CLEAN, HELD_OUT = 4500, 4500, 400
PROBLEMS, SAMPLES, MAX_TOKENS = 500, 4, 120
BASE = str(OUT / "base")
BATCH, RATE, RATE_FROM_NOTHING, POINTS, LENGTH = 32, 2e-3, 5e-3, 10, 512
JUDGED = 1000  # documents of the corpus on which the selection is held against the known noise
SMALL = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2}  # the weak reference


@dataclass(frozen=True, slots=True)
class Method:
    """A rule, whose scores it reads, and whether it begins with new weights in place of the base model."""

    rule: Rule
    reference: str = "clean"
    from_nothing: bool = False


METHODS = {
    "CLM": Method(Rule(UNIFORM)),
    **{f"SLM {ratio:.0%}": Method(Rule("excess_loss", ratio)) for ratio in (0.3, 0.5, 0.6, 0.7)},
    "SLM 60%, small reference": Method(Rule("excess_loss", 0.6), "small"),
    "self-reference, loss 70%": Method(Rule("reference_loss", 0.7), "self"),
    "self-reference, entropy 60%": Method(Rule("reference_entropy", 0.6), "self"),
    "self-reference, 70% and 70%": Method(Rule("intersection", 0.7), "self"),
    "self-reference, 50% or 50%": Method(Rule("union", 0.5), "self"),
    "random 60%": Method(Rule("random", 0.6)),
    "oracle": Method(Rule(UNIFORM), "oracle"),
    "CLM, from nothing": Method(Rule(UNIFORM), from_nothing=True),
    "SLM 50%, from nothing": Method(Rule("excess_loss", 0.5), from_nothing=True),
    "oracle, from nothing": Method(Rule(UNIFORM), "oracle", from_nothing=True),
}
CONTROLS = {
    "SLM 50%, from nothing": "CLM, from nothing",
    "oracle, from nothing": "CLM, from nothing",
    "CLM, from nothing": "CLM, from nothing",
}  # what a method is compared with, if not CLM
REFERENCES = ("clean", "small", "self")


def pieces() -> Iterator[tuple[str, tuple[str, ...]]]:
    """All work in an order in which it can be done: names, and the names of what each builds on."""
    for seed in SEEDS:
        yield f"corpus-{seed}", ()
        for name in REFERENCES:
            yield f"reference-{name}-{seed}", (f"corpus-{seed}",)
            yield f"store-{name}-{seed}", (f"reference-{name}-{seed}",)
        yield f"store-oracle-{seed}", (f"corpus-{seed}",)
        yield f"held-out-{seed}", (f"corpus-{seed}",)
    for method, seed in itertools.product(METHODS, SEEDS):
        yield f"run-{method}-{seed}", (f"store-{METHODS[method].reference}-{seed}", f"held-out-{seed}")


def run(*words: object) -> None:
    """A forkpoint command, which must succeed."""
    assert forkpoint([str(word) for word in words]) == 0, words


def do(name: str) -> None:
    """One piece of work; its result stands in OUT / name, and NAME.done says that it is whole."""
    kind, _, rest = name.partition("-")
    rest, _, seed = rest.rpartition("-")
    out, corpus = OUT / name, OUT / f"corpus-{seed or rest}"
    if kind == "corpus":
        run("lab", "corpus", "--documents", DOCUMENTS, "--clean_documents", CLEAN, "--held_out_documents", HELD_OUT,
            "--seed", seed, "--out", out, "--quiet")  # fmt: skip
    elif kind == "reference":
        train_reference(rest, corpus, seed, out)
    elif name.startswith("store-oracle"):
        oracle_store(corpus, out)
    elif kind == "store":
        run("score", "--model", OUT / f"reference-{rest}-{seed}" / "model", "--data", corpus / "corpus.jsonl",
            "--length", LENGTH, "--out", out, "--quiet")  # fmt: skip
    elif kind == "held":
        tokenizer = load("lab")[1]
        documents = read_corpus(str(corpus / "held-out.jsonl"))
        score_corpus(documents, tokenizer, out, Context("isolated", LENGTH, LENGTH))
    else:
        write_whole(OUT / f"{name}.json", to_json(result(rest, int(seed))) + "\n")
    (OUT / f"{name}.done").touch()


def load(name: str) -> tuple[Any, Any]:
    """A model in float32 on the CPU, and its tokenizer."""
    return load_pretrained(
        name, device="cpu", dtype="float32", attn_implementation=None, revision=None, trust_remote_code=False
    )


def train_reference(name: str, corpus: Path, seed: str, out: Path) -> None:
    """A reference model: the base after one pass over clean text or over the corpus, or a small one from nothing."""
    common = ("--length", LENGTH, "--seed", seed, "--out", out, "--quiet", "--save_strategy", "no")
    if name == "small":
        small = OUT / f"small-{seed}"
        model, tokenizer = load("lab")
        for field, value in SMALL.items():
            setattr(model.config, field, value)
        model.config.head_dim = SMALL["hidden_size"] // model.config.num_attention_heads
        AutoModelForCausalLM.from_config(model.config).save_pretrained(small)
        tokenizer.save_pretrained(small)
        run("train", "clm", "--model", small, "--from_scratch", "--data", corpus / "clean.jsonl", "--learning_rate",
            5e-3, "--per_device_train_batch_size", 16, "--num_train_epochs", 6, *common)  # fmt: skip
    else:
        data = corpus / ("clean.jsonl" if name == "clean" else "corpus.jsonl")
        run("train", "clm", "--model", BASE, "--data", data, "--learning_rate", RATE, "--per_device_train_batch_size",
            BATCH, *common)  # fmt: skip


def oracle_store(corpus: Path, out: Path) -> None:
    """The corpus as a store in which the tokens that are noise are never predicted."""
    tokenizer = load("lab")[1]
    tokens = OUT / f".tokens-{corpus.name}"
    context = Context("isolated", LENGTH, LENGTH)
    facts = score_corpus(read_corpus(str(corpus / "corpus.jsonl")), tokenizer, tokens, context)
    assert facts is not None
    rows = []
    for row, kinds in zip((s.row for s in open_store(tokens)), all_kinds(corpus), strict=True):
        noise = np.flatnonzero(kinds[: len(row.ids)])
        rows.append(ScoredRow(replace(row, starts=tuple(sorted({*row.starts, *noise.tolist()}))), {}))
    out.mkdir()
    shard = write_shard(out / "shard-00000.arrow", rows, (), facts["documents"], 0)
    kept = {name: facts[name] for name in ("verb", "source", "tokenizer", "vocabulary", "separator", "version")}
    write_facts(out, kept | {"reference": None}, context, [shard])


def all_kinds(corpus: Path) -> Iterator[np.ndarray]:
    """The kind of each token of each document of the corpus, 0 for what is clean."""
    with (corpus / "corpus.jsonl").open() as lines:
        for line in lines:
            yield np.array(json.loads(line)["kinds"])


def result(name: str, seed: int) -> dict[str, Any]:
    """A method's curve, its accuracies, and its selection held against the known noise."""
    method = METHODS[name]
    store, held_out = open_store(OUT / f"store-{method.reference}-{seed}"), open_store(OUT / f"held-out-{seed}")
    model, tokenizer = load(BASE)
    if method.from_nothing:
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(model.config)
    before = base_losses(model, held_out)
    out = OUT / f".work-{name}-{seed}".replace(" ", "-").replace(",", "")
    shutil.rmtree(out, ignore_errors=True)
    arguments: dict[str, Any] = {
        "learning_rate": RATE_FROM_NOTHING if method.from_nothing else RATE, "per_device_train_batch_size": BATCH,
        "num_train_epochs": 1.0, "warmup_steps": 0.1, "lr_scheduler_type": "cosine", "save_strategy": "no",
        "train_sampling_strategy": "group_by_length", "logging_steps": 1 / POINTS, "eval_strategy": "steps",
        "eval_steps": 1 / POINTS, "per_device_eval_batch_size": 64, "seed": seed, "rule": method.rule.score,
        "ratio": method.rule.ratio,
    }  # fmt: skip
    started = time.perf_counter()
    summary = pretrain(model, tokenizer, store, SelectiveConfig(**arguments), out, eval_store=held_out, name="lab")
    seconds = time.perf_counter() - started
    shutil.rmtree(out)
    curve = [[0, before]]
    curve += [[row["num_input_tokens_seen"], row["eval_loss"]] for row in summary["history"] if "eval_loss" in row]
    found = {"method": name, "seed": seed, "curve": curve, "seconds": seconds}
    return found | accuracies(model.eval(), tokenizer) | {"selection": judged(method, model, seed)}


def base_losses(model: Any, store: Store) -> float:
    """The mean loss of a store's tokens."""
    rows = [scored.row for scored in store]
    losses = np.concatenate([loss for loss, _ in row_losses(model, head_of(model), rows)])
    return float(np.nanmean(losses.astype(np.float64)))


def accuracies(model: Any, tokenizer: Any) -> dict[str, list[float]]:
    """The share of right responses to each problem, greedy and sampled, under the prompt that opens worked steps."""
    engine, problems = load_engine(model, tokenizer), load_problems("test", limit=PROBLEMS)
    found = {}
    for name, temperature, n in (("greedy", 0.0, 1), ("sampled", 1.0, SAMPLES)):
        sampling = Sampling(temperature=temperature, max_tokens=MAX_TOKENS, seed=17)
        drawn = sample_trajectories(engine, problems, sampling, n=n, prompt="cot")
        found[name] = np.array([t.correct for t in drawn], dtype=float).reshape(-1, n).mean(1).tolist()
    return found


@torch.no_grad()
def judged(method: Method, model: Any, seed: int) -> dict[str, float]:
    """Of the tokens of some documents: how many of the selected ones are clean (precision), how many of the clean ones
    are selected (recall), and the share of each kind that is. Ranked as in training, by the trained model."""
    if method.rule.score == UNIFORM:
        return {}
    store, head = open_store(OUT / f"store-{method.reference}-{seed}"), head_of(model)
    kinds = list(itertools.islice(all_kinds(OUT / f"corpus-{seed}"), JUDGED))
    rows = Rows(store, seed)
    kept, kind = [], []
    for first in range(0, JUDGED, BATCH):
        part = range(first, min(first + BATCH, JUDGED))
        batch = collate([rows[i] for i in part])
        losses = [loss[1:] for loss, _ in row_losses(model, head, [rows[i].scored.row for i in part])]
        batch["loss"] = torch.from_numpy(np.concatenate(losses))
        kept.append(select(batch, method.rule, torch.zeros_like(batch["owner"])).kept.numpy())
        kind.append(np.concatenate([kinds[i][1 : len(rows[i].scored.row.ids)] for i in part]))
    chosen, of = np.concatenate(kept), np.concatenate(kind)
    shares = {name: float(chosen[of == code].mean()) for code, name in enumerate(KINDS)}
    return {"precision": float((of[chosen] == 0).mean()), "recall": shares["clean"], **shares}


def work() -> None:
    """Do what nobody else is at and whose needs are there, until all is done."""
    todo = dict(pieces())
    while todo := {name: needed for name, needed in todo.items() if not (OUT / f"{name}.done").exists()}:
        ready = [name for name, needed in todo.items() if all((OUT / f"{other}.done").exists() for other in needed)]
        if not any(done_here(name) for name in ready):
            time.sleep(2)


def done_here(name: str) -> bool:
    """Do a piece, unless it is done or another process is at it; whether this process did it."""
    try:
        with FileLock(OUT / f".{name}.lock", timeout=0):
            if (OUT / f"{name}.done").exists():
                return False
            started = time.perf_counter()
            do(name)
            print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
            return True
    except Timeout:
        return False


def table(rows: Mapping[tuple[str, int], dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a method: means over seeds, and differences from its control with 95% intervals: of the loss a t-interval
    over the seeds' pairs, of accuracies the paired one over problems."""
    found = []
    for name in METHODS:
        own, others = ([rows[m, seed] for seed in SEEDS] for m in (name, CONTROLS.get(name, "CLM")))
        losses = np.array([row["curve"][-1][1] for row in own])
        against = losses - [row["curve"][-1][1] for row in others]
        entry = {"method": name, "loss": float(losses.mean()), "loss_by_seed": losses.tolist(),
                 "loss_against_control": [float(against.mean()), *t_interval(against)]}  # fmt: skip
        for kind in ("greedy", "sampled"):
            entry[kind] = float(np.mean([row[kind] for row in own]))
            entry[f"{kind}_by_seed"] = [float(np.mean(row[kind])) for row in own]
            compared = paired_difference(*(np.mean([row[kind] for row in r], 0) for r in (others, own)))
            entry[f"{kind}_against_control"] = [compared.difference, *compared.ci95]
        reached = [tokens_to(row["curve"], other["curve"][-1][1]) for row, other in zip(own, others, strict=True)]
        entry["share_of_tokens_to_control"] = None if None in reached else statistics.mean(r for r in reached if r)
        for key in own[0]["selection"]:
            entry.setdefault("selection", {})[key] = statistics.mean(row["selection"][key] for row in own)
        entry["seconds"] = statistics.mean(row["seconds"] for row in own)
        entry["curve"] = np.mean([row["curve"] for row in own], 0).tolist()
        found.append(entry)
    return found


def t_interval(values: np.ndarray) -> tuple[float, float]:
    """The 95% interval of a mean of few values."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean() - half), float(values.mean() + half)


def tokens_to(curve: list[list[float]], loss: float) -> float | None:
    """The share of the tokens read after which a curve is first at a loss, between its points along a line."""
    for (x0, y0), (x1, y1) in itertools.pairwise(curve):
        if y1 <= loss:
            return (x0 + (x1 - x0) * min(1.0, max(0.0, (y0 - loss) / (y0 - y1)))) / curve[-1][0]
    return None


def draw(found: list[dict[str, Any]]) -> None:
    """Held-out loss over tokens read, and loss and accuracy over the share of tokens that is kept."""
    by_name = {entry["method"]: entry for entry in found}
    shown = ("CLM", "SLM 60%", "SLM 30%", "oracle")
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    curves, losses, sampled = figure.subplots(1, 3)
    for name, (colour, marker, style) in zip(shown, LINES, strict=True):
        x, y = np.array(by_name[name]["curve"]).T
        curves.plot(x / 1e6, y, color=colour, marker=marker, linestyle=style, markersize=3, lw=1.4, label=name)
    curves.set(xlabel="tokens read (millions)", ylabel="held-out loss (nats)", title="clean held-out text")
    curves.legend(frameon=False, fontsize=8, loc="upper right")
    ratios = [(float(n[4:6]) / 100, e) for n, e in by_name.items() if re.fullmatch(r"SLM \d\d%", n)]
    for axes, key, label in ((losses, "loss", "held-out loss (nats)"), (sampled, "sampled", "sampled accuracy")):
        x = [*(ratio for ratio, _ in ratios), 1.0]
        by_seed = [*(e[f"{key}_by_seed"] for _, e in ratios), by_name["CLM"][f"{key}_by_seed"]]
        axes.plot(x, np.mean(by_seed, 1), color=LINES[0][0], lw=1.4)
        axes.plot(x, by_seed, "o", color=LINES[0][0], markersize=3, alpha=0.6)
        axes.axhline(by_name["oracle"][key], color=LINES[1][0], ls="--", lw=1.2, label="oracle")
        axes.set(xlabel="share of tokens kept (1: CLM)", ylabel=label, title="excess loss, by share")
        axes.legend(frameon=False, fontsize=8)
    for axes in (curves, losses, sampled):
        plain_axes(axes)
    FIGURE.write_bytes(saved(figure, "svg"))


def main() -> None:
    """Do the work, or put what came of it together."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", action="store_true", help="do the work; several processes share it")
    if parser.parse_args().work:
        work()
        return
    rows = {(m, s): json.loads((OUT / f"run-{m}-{s}.json").read_text()) for m in METHODS for s in SEEDS}
    found = table(rows)
    for entry in found:
        loss, low, high = entry["loss_against_control"]
        chosen = entry.get("selection", {})
        reached = entry["share_of_tokens_to_control"]
        print(f"{entry['method']:28} loss {entry['loss']:.4f} ({loss:+.4f}, {low:+.4f} to {high:+.4f})  "
              f"greedy {entry['greedy']:.1%}  sampled {entry['sampled']:.1%}  "
              f"tokens to CLM's loss {'never' if reached is None else f'{reached:.0%}'}  "
              f"precision {chosen.get('precision', 1):.2f} recall {chosen.get('recall', 1):.2f}")  # fmt: skip
    draw(found)
    print(machine.save("lab_slm", {"methods": found}))


if __name__ == "__main__":
    main()
