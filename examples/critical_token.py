"""Find the critical token of a wrong response, and show what the model should have said there.

    python examples/critical_token.py
    python examples/critical_token.py --model Qwen/Qwen2.5-0.5B-Instruct --task gsm8k --prompt chat

Samples a response to each of a few problems and lets the model go on from many places of the wrong ones, which tells
after which token they cannot end right any more. Prints the clearest case and writes a page with all of them
(runs/critical-token/report.html). Without options it runs offline, on the lab model that comes with the package.
"""

import argparse
import json
from pathlib import Path

import forkpoint

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="lab", help="lab, a model directory or a Hub id")
parser.add_argument("--task", default="lab", choices=[name for name in forkpoint.TASKS if name != "jsonl"])
parser.add_argument("--prompt", default="cot", choices=["plain", "cot", "few-shot", "chat"])
parser.add_argument("--limit", type=int, default=12, help="number of problems")
parser.add_argument("--out", type=Path, default=Path("runs/critical-token"))
options = parser.parse_args()

engine = forkpoint.load_engine(options.model)
problems = forkpoint.load_problems(options.task, limit=options.limit)
longest, stop = forkpoint.TASKS[options.task].max_tokens, forkpoint.stop_strings(options.prompt)
sampling = forkpoint.Sampling(max_tokens=longest, stop=stop)
search = forkpoint.CriticalConfig(sampling=sampling, prompt=options.prompt)
summary = forkpoint.find_critical(engine, problems, search, options.out, task=options.task)

rows = [json.loads(line) for line in (options.out / "critical.jsonl").read_text(encoding="utf-8").splitlines()]
found = [row for row in rows if row["status"] == "critical"]
print(f"{len(problems)} responses, {len(rows)} of them wrong, {len(found)} with a critical token")
if not found:
    raise SystemExit("nothing to show: raise --limit")

row = max(found, key=lambda row: row["success"][row["critical_index"]])  # the one that was lost most suddenly
at, tokens = row["critical_index"], row["tokens"]
print(f"\n{row['question']}\n\n  {''.join(tokens[:at])}>>>{tokens[at]}<<<{''.join(tokens[at + 1 :])}\n")
print(f"right answer: {row['gold']}, given: {row['answer']}")
print(f"critical token: {tokens[at]!r}, token {at} of {len(tokens)}")
print(f"success before it {row['success'][at]:.0%}, after it {row['success'][at + 1]:.0%}")
print("in its place:")
there = [other for other in row["alternatives"] if other["position"] == at]
for other in sorted(there, key=lambda other: -other["success"] * other["n"])[:3]:
    print(f"  {other['token']!r:8} right in {other['success']:.0%} of {other['n']} rollouts")
print("page:", forkpoint.write_report(options.out))
