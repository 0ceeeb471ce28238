"""Critical DPO (cDPO) on one's own pairs: a rejected token counts the more, the likelier it is the mistake.

    python examples/cdpo_own_pairs.py
    python examples/cdpo_own_pairs.py --pairs mine.jsonl --model Qwen/Qwen2.5-0.5B-Instruct --learning-rate 5e-6

Pairs are TRL's: JSON Lines with `prompt`, `chosen` and `rejected`, as text or as messages. Without --pairs they are the
model's own responses to word problems, a right and a wrong one each. Needs the extra `train`; offline on the lab model.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import forkpoint

NONE = forkpoint.Problem("", "", "", "number")  # pairs need no problem
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--pairs", help="file, directory or Hub data set; by default they are sampled")
parser.add_argument("--model", default="lab", help="lab, a model directory or a Hub id")
parser.add_argument("--learning-rate", type=float, default=1e-4)
parser.add_argument("--out", type=Path, default=Path("runs/own-cdpo"))
options = parser.parse_args()
engine = forkpoint.load_engine(options.model)
model, tokenizer = engine.model, engine.tokenizer
if options.pairs is None:
    problems = forkpoint.load_problems("lab", split="train", limit=160)
    sampling = forkpoint.Sampling(max_tokens=120, stop=forkpoint.stop_strings("cot"))
    settings = forkpoint.PairConfig(n=8, sampling=sampling)
    forkpoint.pair_responses(engine, problems, settings, options.out / "pairs")
    pairs = forkpoint.read_pairs(options.out / "pairs", tokenizer, model.config.vocab_size)
else:
    pairs = forkpoint.import_pairs(forkpoint.read_preferences(options.pairs), tokenizer).pairs

# scores: what a model tuned on right responses says of each token, against one tuned on wrong ones
tuning = forkpoint.TuningConfig(learning_rate=3e-3 if options.model == "lab" else 3e-4, num_train_epochs=2)
sides = {}
for name in ("chosen_ids", "rejected_ids"):
    sides[name] = [forkpoint.Trajectory(p.id, NONE, p.prompt_ids, getattr(p, name), None, False, "stop") for p in pairs]
    forkpoint.tune_adapter(model, tokenizer, sides[name], tuning, options.out / name)
with forkpoint.shared_base(model, options.out / "chosen_ids", options.out / "rejected_ids") as base:
    scores = list(base.score(sides["rejected_ids"], 1.0, forkpoint.Sampling(), engine.ends))

# weights: 1 - s of each rejected token
weights = [tuple(forkpoint.RULES["contrast"].weigh(one.columns, None)) for one in scores]
pairs = [replace(pair, rejected_weights=row) for pair, row in zip(pairs, weights, strict=True)]
print(pairs[0].prompt, "\nchosen:  ", pairs[0].chosen, "\nrejected:", pairs[0].rejected, "\nheaviest tokens of it:")
for place, weight in sorted(enumerate(weights[0]), key=lambda one: -one[1])[:4]:
    print(f"  token {place:3}  {tokenizer.decode([pairs[0].rejected_ids[place]])!r:8} weight {weight:.2f}")

# loss
args = forkpoint.PreferenceConfig(
    method="critical-dpo", learning_rate=options.learning_rate, num_train_epochs=2, logging_steps=6
)
for entry in forkpoint.train(model, tokenizer, pairs, args, options.out / "training")["history"]:
    print(f"step {entry['step']}: margin {entry['rewards/margins']:.2f}, accuracy {entry['rewards/accuracies']:.2f}")
