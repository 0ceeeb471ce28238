"""A task of one's own: problems made in Python, strategies compared on them, with statistics.

    python examples/custom_task.py
    python examples/custom_task.py --model Qwen/Qwen2.5-0.5B --limit 200

A task is a list of `Problem`s. Here they count coins and are made on the spot; yours may come from any file or service.
Without options it runs offline, on the lab model that comes with the package.
"""

import argparse
import random

import forkpoint

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="lab", help="lab, a model directory or a Hub id")
parser.add_argument("--limit", type=int, default=60, help="number of problems")
options = parser.parse_args()


def coins_problem(number: int) -> forkpoint.Problem:
    """Problem `number`: the same one in every run. Its kind says how answers are read and compared."""
    draw = random.Random(number)
    coins, more, spent = draw.randint(10, 60), draw.randint(5, 30), draw.randint(2, 9)
    question = (
        f"Mia has {coins} coins. Mia buys {more} more. Mia loses {spent} of them. "
        "Then the number of coins doubles. How many coins does Mia have now?"
    )
    return forkpoint.Problem(f"coins/{number}", question, str(2 * (coins + more - spent)), kind="number")


problems = [coins_problem(number) for number in range(options.limit)]
engine = forkpoint.load_engine(options.model)
strategies = ["greedy", "cot-decoding:k=10", "self-consistency:n=10,temperature=0.7"]
results = forkpoint.evaluate(engine, problems, strategies, task="coins", max_tokens=120)  # out=Path(...) keeps it

print(f"{problems[0].question} ({problems[0].answer})\n")
print(f"{'strategy':42} accuracy   95% interval")
for row in results["strategies"]:
    low, high = row["ci95"]
    print(f"{row['strategy']:42} {row['accuracy']:8.1%}   {low:.1%} to {high:.1%}")
for pair in results["comparisons"]:
    print(f"\n{pair['b']} minus {pair['a']}: {100 * pair['difference']:+.1f} points, p = {pair['p_value']:.2g}", end="")
print()
