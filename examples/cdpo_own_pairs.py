"""Critical DPO (cDPO) on one's own pairs: a rejected token counts the more, the likelier it is the mistake.

    python examples/cdpo_own_pairs.py
    python examples/cdpo_own_pairs.py --pairs mine.jsonl --model Qwen/Qwen2.5-0.5B-Instruct --learning-rate 5e-6

Pairs are TRL's: JSON Lines with `prompt`, `chosen` and `rejected`, as text or as messages. Without --pairs some are
made: word problems with a right solution and one with a slip. Needs the extra `train`; offline on the lab model.
"""

import argparse
import json
import random
from dataclasses import replace
from pathlib import Path

import forkpoint
from forkpoint.lab.corpus import draw_slips, worked_text
from forkpoint.lab.problem_generator import stream, work_out
from forkpoint.losses.methods import objective
from forkpoint.pairs.trl_files import import_pairs, read_preferences
from forkpoint.scores.contrastive import shared_base
from forkpoint.training.adapters import TuningConfig, tune_adapter
from forkpoint.training.preference_run import Training, train
from forkpoint.types import Problem, Sampling, Trajectory

NONE = Problem("", "", "", "number")  # pairs need no problem
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--pairs", help="file, directory or Hub data set; by default some are made")
parser.add_argument("--model", default="lab", help="lab, a model directory or a Hub id")
parser.add_argument("--learning-rate", type=float, default=1e-4)
parser.add_argument("--out", type=Path, default=Path("runs/own-cdpo"))
options = parser.parse_args()
if options.pairs is None:
    options.out.mkdir(parents=True, exist_ok=True)
    options.pairs, draw, rows = str(options.out / "pairs.jsonl"), random.Random(0), []
    for _, p in zip(range(200), stream(0, "train"), strict=False):
        right, wrong = (worked_text(p, work_out(p.steps, slips), "", "") for slips in (None, draw_slips(draw, p)))
        prompt = f"Q: {p.question}\nA: Let's think step by step."
        rows += [json.dumps({"prompt": prompt, "chosen": right, "rejected": wrong})] if right != wrong else []
    Path(options.pairs).write_text("\n".join(rows), encoding="utf-8")

engine = forkpoint.load_engine(options.model)
model, tokenizer = engine.model, engine.tokenizer
pairs = import_pairs(read_preferences(options.pairs), tokenizer).pairs
tuning = TuningConfig(learning_rate=3e-3 if options.model == "lab" else 3e-4, epochs=2)
sides = {}
for name in ("chosen_ids", "rejected_ids"):  # one model tuned on what is right, one on what is wrong
    sides[name] = [Trajectory(p.id, NONE, p.prompt_ids, getattr(p, name), None, False, "stop") for p in pairs]
    tune_adapter(model, tokenizer, sides[name], tuning, options.out / name)
with shared_base(model, options.out / "chosen_ids", options.out / "rejected_ids") as base:
    weights = [tuple(1 - one.columns["s"]) for one in base.score(sides["rejected_ids"], 1.0, Sampling(), engine.ends)]
pairs = [replace(pair, rejected_weights=row) for pair, row in zip(pairs, weights, strict=True)]

print(pairs[0].prompt, "\nchosen:  ", pairs[0].chosen, "\nrejected:", pairs[0].rejected, "\nheaviest tokens of it:")
for place, weight in sorted(enumerate(weights[0]), key=lambda one: -one[1])[:4]:
    print(f"  token {place:3}  {tokenizer.decode([pairs[0].rejected_ids[place]])!r:8} weight {weight:.2f}")
arguments = {"learning_rate": options.learning_rate, "num_train_epochs": 2, "logging_steps": 6}
settings = Training(objective("critical-dpo"), arguments)
for entry in train(model, tokenizer, pairs, settings, options.out / "training")["history"]:
    print(f"step {entry['step']}: margin {entry['rewards/margins']:.2f}, accuracy {entry['rewards/accuracies']:.2f}")
