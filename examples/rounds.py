"""Rounds of fine-tuning on the model's own right answers, without those that it finds likely already.

    python examples/rounds.py
    python examples/rounds.py --model Qwen/Qwen2.5-0.5B-Instruct --learning-rate 1e-5

Each round samples responses, checks them, leaves out the likelier half of the right ones, tunes on the others, and is
evaluated on held-out problems. Prints a row a round (models in runs/rounds-example). Needs the extra `train`; offline
on the lab model.
"""

import argparse
from pathlib import Path

import forkpoint

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="lab", help="lab, a model directory or a Hub id")
parser.add_argument("--learning-rate", type=float, default=3e-4)
parser.add_argument("--out", type=Path, default=Path("runs/rounds-example"))
options = parser.parse_args()

settings = forkpoint.RoundsConfig(
    rounds=2,
    n=8,  # responses to each problem, and to each held-out one
    eval_n=8,
    sampling=forkpoint.Sampling(max_tokens=120, stop=forkpoint.stop_strings("cot")),
    filter=forkpoint.LikelihoodFilter("example", keep_quantile=0.5),
    tuning=forkpoint.TrainingConfig(learning_rate=options.learning_rate, num_train_epochs=1),
)
problems = forkpoint.load_problems("lab", split="train", limit=100)
held_out = forkpoint.load_problems("lab", split="test", limit=40)
summary = forkpoint.tune_in_rounds(forkpoint.Base(options.model), problems, held_out, settings, options.out)

print("round   tuned on   greedy   sampled   pass@4")
for row in summary["results"]:
    figures, tuned = row["held_out"], row.get("samples", {}).get("trained", 0)
    shares = (figures[name] for name in ("greedy_accuracy", "sampled_accuracy", "pass@4"))
    print(f"{row['round']:5} {tuned:10}   {'   '.join(f'{share:6.1%}' for share in shares)}")
