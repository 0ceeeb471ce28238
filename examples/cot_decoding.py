"""CoT-decoding: ask without any "think step by step", branch at the first token, keep the surest answer.

    python examples/cot_decoding.py
    python examples/cot_decoding.py --model Qwen/Qwen2.5-0.5B --question "..." --k 10

Prints every path with its answer and how sure the model was of it (Δ), the greedy one first, and the one that is kept.
Without options it runs offline, on the lab model that comes with the package.
"""

import argparse

import forkpoint

QUESTION = (
    "Kofi has 40 marbles. Kofi sells 5 bags with 7 marbles each. 5 friends give Kofi 4 marbles each. "
    "How many marbles does Kofi have now?"
)

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="lab", help="lab, a model directory or a Hub id")
parser.add_argument("--question", default=QUESTION)
parser.add_argument("--k", type=int, default=5, help="how many first tokens to try")
options = parser.parse_args()

engine = forkpoint.load_engine(options.model)
(outcome,) = forkpoint.cot_decode(engine, [f"Q: {options.question}\nA:"], k=options.k)

print(options.question, "\n")
print("    Δ     answer  path")
for number, path in enumerate(outcome.paths):
    delta = "-" if path.confidence is None else f"{path.confidence:.3f}"
    mark = "→" if number == outcome.chosen else " "
    why = f"  [left out: {path.dropped}]" if path.dropped else ""
    print(f"{mark} {delta:>6} {path.answer or '-':>7}  {path.text.strip()!r}{why}")

print("\ngreedy answer:      ", outcome.paths[0].answer)
print("CoT-decoding answer:", outcome.paths[outcome.chosen].answer)
print("sum of Δ by answer: ", {answer: round(total, 2) for answer, total in outcome.votes.items()})
