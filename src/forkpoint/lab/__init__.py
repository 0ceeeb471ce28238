"""The lab: a small world of word problems, and a small model of it, that ship with the package."""

from pathlib import Path

MODEL_DIR = Path(__file__).parent / "model"
CORPUS, CLEAN_CORPUS, HELD_OUT = "corpus.jsonl", "clean.jsonl", "held-out.jsonl"  # what `forkpoint lab corpus` writes
SOLUTIONS = "solutions.jsonl"  # and `forkpoint lab solutions`
