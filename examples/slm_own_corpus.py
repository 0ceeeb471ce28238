"""Selective language modeling on one's own corpus: a reference model says which tokens are worth training on.

    python examples/slm_own_corpus.py
    python examples/slm_own_corpus.py --data corpus.jsonl --reference Qwen/Qwen2.5-0.5B --learning-rate 1e-4

The corpus is JSON Lines with a column `text` (or .txt, .parquet, a directory of such files). Without --data one is
made: word problems with the lint of web pages in them. Prints which tokens of its first document are kept, and trains
new weights on those of all (runs/own-slm/training/model). Needs the extra `train`; offline on the lab model.
"""

import argparse
import itertools
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

import forkpoint

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", help="the corpus; by default a small one is made")
parser.add_argument("--reference", default="lab", help="model that knows good text: lab, a directory or a Hub id")
parser.add_argument("--learning-rate", type=float, default=3e-3)
parser.add_argument("--out", type=Path, default=Path("runs/own-slm"))
options = parser.parse_args()
if options.data is None:
    options.out.mkdir(parents=True, exist_ok=True)
    options.data, lint = str(options.out / "corpus.jsonl"), itertools.cycle(["<br>", "[edit]", "We use cookies."])
    texts = [
        f"Q: {p.question.replace('. ', f'. {next(lint)} ')}\nA: The answer is {p.answer}."
        for p in forkpoint.load_problems("lab", split="train", limit=240)
    ]
    Path(options.data).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")

reference = forkpoint.load_engine(options.reference)
model, tokenizer = reference.model, reference.tokenizer
context = forkpoint.Context(length=256, stride=256)
corpus = forkpoint.read_corpus(options.data)
forkpoint.score_corpus(corpus, tokenizer, options.out / "store", context, model=model)

store, rule = forkpoint.open_store(options.out / "store"), forkpoint.Rule("reference_loss", ratio=0.7)
ids, loss = store[0].row.ids[1:], torch.tensor(store[0].scores["reference_loss"][1:])  # nothing predicts the first one
columns, together = {"reference_loss": loss, "chance": torch.rand(len(ids))}, torch.zeros(len(ids), dtype=torch.long)
kept = forkpoint.select(columns, rule, together).kept
for keep, group in itertools.groupby(zip(ids, kept.tolist(), strict=True), key=lambda pair: pair[1]):
    print("kept:    " if keep else "left out:", repr(tokenizer.decode([token for token, _ in group])))

trained = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
args = forkpoint.SelectiveConfig(
    rule="reference_loss", ratio=0.7, learning_rate=options.learning_rate, num_train_epochs=2, logging_steps=15
)
for entry in forkpoint.pretrain(trained, tokenizer, store, args, options.out / "training")["history"]:
    print(f"step {entry['step']}: loss {entry['loss']:.2f} where kept, {entry['selection/share']:.0%} of the tokens")
