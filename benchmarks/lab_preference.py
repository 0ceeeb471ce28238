"""Preference training on the lab: every method with the same tuning budget, then three seeds on held-out problems.

    forkpoint contrast --task lab --train_limit 800 --n 16 --learning_rate 3e-3 --num_train_epochs 3 \\
        --out runs/lab-contrast
    forkpoint critical --task lab --split train --limit 800 --out runs/lab-forks
    python benchmarks/lab_preference.py --part 1/2 & python benchmarks/lab_preference.py --part 2/2 & wait
    python benchmarks/lab_preference.py

All methods see pairs of the same 16 responses to 800 training problems; fork DPO sees the forks of one response to
each of them. Each method is tried with 4 settings (learning rate x beta, for SFT x epochs), judged by sampled accuracy
on 300 other training problems; the best one is trained with 3 seeds (of pairs and order) and tested on 1,000 problems
of the test split: greedily, and with 4 samples at temperature 1, the wrong ones by cause of error. Each piece of
work is kept in runs/lab-preference/ as soon as it is done, so that parts may run side by side and be killed; begin with
an empty one. The last command, given all pieces, writes benchmarks/results/lab_preference.json and
docs/figures/lab-preference.svg.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import machine
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from forkpoint.engines import load_engine
from forkpoint.evaluation.statistics import holm, paired_difference
from forkpoint.files import to_json, write_whole
from forkpoint.lab.mistakes import cause_of_error
from forkpoint.lab.problem_generator import load_problems
from forkpoint.pairs.fork_pairs import choose_fork_pairs
from forkpoint.pairs.pair import Pair
from forkpoint.pairs.pair_choice import choose_pairs
from forkpoint.pairs.pair_files import make_pair
from forkpoint.pairs.pair_sources import read_forks, read_weights
from forkpoint.training.configs import PreferenceConfig
from forkpoint.training.models import load_trainable
from forkpoint.training.preference_run import train
from forkpoint.trajectories.rows import load_trajectories, sample_completions
from forkpoint.types import Problem, Sampling

DATA, FORKS, OUT = Path("runs/lab-contrast"), Path("runs/lab-forks"), Path("runs/lab-preference")
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "lab-preference.svg"
TRAINING, VALIDATION, TEST, SAMPLES = 800, 300, 1000, 4
RATES, BETAS, EPOCHS = (1e-4, 3e-4), (0.1, 1.0), (1.0, 3.0)
SEEDS, TUNING_SEED = (1, 2, 3), 0
ANY = "fork-dpo, any alternative"  # less likely ones, too: those of a misreading
METHODS = ("base", "sft", "dpo", "sft+dpo", "tdpo2", "rpo", "critical-dpo", ANY, "fork-dpo")
MAX_TOKENS = 120
WINDOW = 5  # logs, of 10 steps each, of which the figure shows the mean
COMPARED = ("base", "dpo", "sft", "critical-dpo")  # with which every method is

Setting = dict[str, float]
Row = dict[str, Any]


def grid(method: str) -> list[Setting]:
    """The settings that a method is tried with."""
    if method == "base":
        return [{}]
    if method == "sft":
        return [{"learning_rate": r, "num_train_epochs": e} for r in RATES for e in EPOCHS]
    return [{"learning_rate": r, "beta": b} for r in RATES for b in BETAS]


class Lab:
    """The data, read once."""

    def __init__(self) -> None:
        self.engine = load_engine("lab", device="cpu")
        problems = load_problems("train", limit=TRAINING + VALIDATION)
        self.validation, self.test = problems[TRAINING:], load_problems("test", limit=TEST)
        self.samples = load_trajectories(DATA, problems[:TRAINING], self.engine)
        self.weights = read_weights(DATA, self.engine)
        self.forks = read_forks(FORKS, self.engine)

    def pairs(self, method: str, seed: int) -> list[Pair]:
        """The pairs that a method is trained on."""
        tokenizer = self.engine.tokenizer
        if method.startswith("fork-dpo"):
            found = choose_fork_pairs(self.forks, tokenizer, any_alternative=method == ANY)
            return [pair for _, pair in found.pairs]
        return [
            make_pair(
                chosen.problem.id, chosen.prompt_ids, chosen.token_ids, rejected.token_ids, tokenizer,
                rejected_weights=self.weights[rejected.prompt_ids, rejected.token_ids],
            )
            for chosen, rejected in choose_pairs(self.samples, seed).pairs
        ]  # fmt: skip

    def trained(self, method: str, setting: Setting, seed: int, best: Mapping[str, Setting]) -> tuple[Any, Row]:
        """The lab model after a method, and what is known of the training."""
        model, tokenizer = load_trainable({
            "name": "lab", "device": "cpu", "dtype": "auto", "attn_implementation": None, "revision": None,
            "trust_remote_code": False,
        })  # fmt: skip
        facts: Row = {"training_tokens": 0, "training_seconds": 0.0, "history": [], "pairs": 0}
        steps = {"base": [], "sft+dpo": [("sft", best.get("sft", {})), ("dpo", setting)]}.get(
            method, [(method, setting)]
        )
        for name, values in steps:
            arguments: dict[str, Any] = {"num_train_epochs": 3.0, "per_device_train_batch_size": 8, "warmup_steps": 0.1,
                         "lr_scheduler_type": "cosine", "logging_steps": 10, "save_strategy": "no",
                         "train_sampling_strategy": "group_by_length"}  # fmt: skip
            arguments |= values | {"gamma": values.get("beta", 1.0), "method": name.partition(",")[0], "seed": seed}
            out = OUT / f".work-{os.getpid()}"
            shutil.rmtree(out, ignore_errors=True)
            pairs = self.pairs(name, seed)
            started = time.perf_counter()
            summary = train(model, tokenizer, pairs, PreferenceConfig(**arguments), out, name="lab")
            facts["training_seconds"] += time.perf_counter() - started
            facts["training_tokens"] += round(summary["tokens_in_an_epoch"] * arguments["num_train_epochs"])
            facts |= {"history": summary["history"], "pairs": len(pairs)}
            shutil.rmtree(out)
        return load_engine(model.eval(), tokenizer), facts

    def judged(self, engine: Any, problems: list[Problem]) -> Row:
        """The share of right responses to each problem, greedy and sampled, and the causes of the wrong ones."""
        started = time.perf_counter()
        rows: Row = {"causes": {}}
        for name, temperature, n in (("greedy", 0.0, 1), ("sampled", 1.0, SAMPLES)):
            sampling = Sampling(temperature=temperature, max_tokens=MAX_TOKENS, seed=17)
            drawn = sample_completions(engine, problems, sampling, n=n, prompt="cot")
            right = np.array([t.correct for t, _ in drawn], dtype=float).reshape(len(problems), n)
            rows[name] = right.mean(1).tolist()
            causes = Counter(cause_of_error(t.problem.id, c.text) for t, c in drawn if not t.correct)
            rows["causes"][name] = {cause: count / len(drawn) for cause, count in causes.items()}
        return rows | {"seconds": time.perf_counter() - started}


def pieces() -> Iterator[tuple[str, str, Setting, int, str]]:
    """All work: a name, method, setting, seed, and what it is judged on. SFT first, which SFT+DPO builds on."""
    for method in sorted(METHODS, key=lambda m: m == "sft+dpo"):
        for i, setting in enumerate(grid(method)):
            yield f"tune-{method}-{i}", method, setting, TUNING_SEED, "validation"
    for method, seed in itertools.product(METHODS, SEEDS):
        if method != "base" or seed == SEEDS[0]:
            yield f"test-{method}-{seed}", method, {}, seed, "test"


def done() -> dict[str, Row]:
    """The pieces on disk, by name."""
    return {path.stem: json.loads(path.read_text()) for path in OUT.glob("*.json")}


def best_settings(rows: Mapping[str, Row]) -> dict[str, Setting]:
    """The setting with the highest sampled accuracy of each method whose tuning is complete."""
    found = {}
    for method in METHODS:
        tried = [rows.get(f"tune-{method}-{i}") for i in range(len(grid(method)))]
        if all(tried):
            found[method] = max((r for r in tried if r), key=lambda r: np.mean(r["sampled"]))["setting"]
    return found


def work(part: int, parts: int) -> None:
    """Do this part's pieces; waits for what another part has to do first."""
    lab = Lab()
    for number, (name, method, setting, seed, judged_on) in enumerate(pieces()):
        if number % parts != part or (OUT / f"{name}.json").exists():
            continue
        while True:
            best = best_settings(done())
            if (judged_on == "validation" or method in best) and (method != "sft+dpo" or "sft" in best):
                break
            time.sleep(5)
        setting = best[method] if judged_on == "test" else setting
        engine, facts = lab.trained(method, setting, seed, best)
        row = {"method": method, "setting": setting, "seed": seed} | facts
        row |= lab.judged(engine, lab.validation if judged_on == "validation" else lab.test)
        write_whole(OUT / f"{name}.json", to_json(row) + "\n")
        print(name, setting, f"greedy {np.mean(row['greedy']):.3f}, sampled {np.mean(row['sampled']):.3f}", flush=True)


def table(rows: Mapping[str, Row]) -> list[Row]:
    """A row for each method: means over seeds, their spread, and the paired comparisons with base and with DPO."""
    scores = {
        (method, kind): np.mean([rows[f"test-{method}-{s}"][kind] for s in seeds_of(method)], 0)
        for method in METHODS for kind in ("greedy", "sampled")
    }  # fmt: skip
    found = []
    for method in METHODS:
        own = [rows[f"test-{method}-{seed}"] for seed in seeds_of(method)]
        entry: Row = {"method": method, "setting": own[0]["setting"], "pairs": own[0]["pairs"]}
        for kind in ("greedy", "sampled"):
            accuracies = [float(np.mean(row[kind])) for row in own]
            entry[kind] = statistics.mean(accuracies)
            entry[f"{kind}_by_seed"] = accuracies
            causes = sorted({cause for row in own for cause in row["causes"][kind]})
            entry[f"{kind}_causes"] = {
                cause: statistics.mean(row["causes"][kind].get(cause, 0) for row in own) for cause in causes
            }
        for other in COMPARED:
            compared = paired_difference(scores[other, "sampled"], scores[method, "sampled"])
            entry[f"against_{other}"] = [compared.difference, *compared.ci95]
            entry[f"p_{other}"] = compared.p_value
        for key in ("training_tokens", "training_seconds"):
            entry[key] = statistics.mean(row[key] for row in own)
        found.append(entry)
    for other in COMPARED:
        for entry, p in zip(found, holm([entry[f"p_{other}"] for entry in found]), strict=True):
            entry[f"p_{other}"] = p
    return found


def seeds_of(method: str) -> tuple[int, ...]:
    """The base model has no seed."""
    return SEEDS[:1] if method == "base" else SEEDS


def draw(rows: Mapping[str, Row]) -> None:
    """Log-probabilities of chosen and rejected responses over training, of the losses on whole responses.

    Above with each method's best setting, below with the same loose one for all. Means over seeds, and over 50 steps.
    """
    shown = ("dpo", "sft+dpo", "tdpo2", "rpo", "critical-dpo")
    loose = grid("dpo").index({"learning_rate": 1e-4, "beta": 0.1})
    sources = (
        ("best setting", {m: [f"test-{m}-{seed}" for seed in SEEDS] for m in shown}),
        ("1e-4, β = 0.1", {m: [f"tune-{m}-{loose}"] for m in shown}),
    )
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    axes = figure.subplots(len(sources), len(shown), sharey=True, sharex=True)
    for row, (label, names) in zip(axes, sources, strict=True):
        for panel, method in zip(row, shown, strict=True):
            histories = [[r for r in rows[name]["history"] if "loss" in r] for name in names[method]]
            steps = np.array([r["step"] for r in histories[0]])
            for name, colour, style in (("chosen", "#1b6ca8", "-"), ("rejected", "#d98c2b", "--")):
                values = np.mean([[r[f"logps/{name}"] for r in history] for history in histories], 0)
                smooth = np.convolve(values, np.ones(WINDOW) / WINDOW, "valid")
                panel.plot(steps[WINDOW - 1 :], smooth, style, color=colour, lw=1.4, label=name)
            panel.spines[["top", "right"]].set_visible(False)
            panel.grid(lw=0.4)
        row[0].set_ylabel(f"{label}\nlog-probability")
    for panel, method in zip(axes[0], shown, strict=True):
        panel.set_title(method)
    for panel in axes[-1]:
        panel.set_xlabel("step")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "forkpoint"}):
        figure.savefig(FIGURE, metadata={"Date": None})


def main() -> None:
    """Do a part of the work, or put the parts together."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", help="I/N: do this part's pieces")
    part = parser.parse_args().part
    OUT.mkdir(parents=True, exist_ok=True)
    if part:
        i, n = map(int, part.split("/"))
        work(i - 1, n)
        return
    rows = done()
    tuned = [
        {"method": row["method"], "setting": row["setting"]}
        | {kind: float(np.mean(row[kind])) for kind in ("greedy", "sampled")}
        for name, row in sorted(rows.items())
        if name.startswith("tune-")
    ]
    found = table(rows)
    for entry in found:
        low, high = entry["against_base"][1:]
        print(f"{entry['method']:13} greedy {100 * entry['greedy']:.1f}  sampled {100 * entry['sampled']:.1f}  "
              f"against base {100 * entry['against_base'][0]:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})  "
              f"p(dpo) {entry['p_dpo']:.2g}  {entry['setting']}")  # fmt: skip
        print("   wrong, % of sampled: " + ", ".join(f"{c} {100 * s:.1f}" for c, s in entry["sampled_causes"].items()))
    draw(rows)
    print(machine.save("lab_preference", {"methods": found, "tuning": tuned}))


if __name__ == "__main__":
    main()
