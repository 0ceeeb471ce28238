"""Small corpora, their stores, and what a store should hold: whole logits in float64.

Run as a program it makes a store in processes that are killed, each a little later than the one before.
"""

from __future__ import annotations

import copy
import json
import random
import sys
from pathlib import Path

import datasets  # noqa: F401  # once, not in every process
import numpy as np
import torch
from kills import die_at_file, exit_code, started
from made_up_stores import is_predicted, plain_scores
from tiny_models import build_model, tiny_config
from transformers import AutoTokenizer

from forkpoint.lab import MODEL_DIR
from forkpoint.scores import reference_losses as scoring
from forkpoint.scores.context import Context, Row, rows_of
from forkpoint.scores.corpora import Document
from forkpoint.scores.store import SCORES

ISOLATED = Context("isolated", 16, 12)
PACKED = Context("packed", 16, 12)
SHARD = 120  # characters


def corpus(*values) -> list[Document]:
    """Documents of texts or of token ids."""
    both = [(value, None) if isinstance(value, str) else (None, tuple(value)) for value in values]
    return [Document(f"corpus line {i}", text, ids) for i, (text, ids) in enumerate(both, 1)]


def made_up_corpus(n: int = 24, seed: int = 0, vocabulary: int = 490) -> list[Document]:
    """Texts and token ids of 0 to 60 tokens, some empty, some of one token."""
    rng = random.Random(seed)
    values = []
    for i in range(n):
        length = rng.choice((0, 1, rng.randrange(2, 12), rng.randrange(2, 12), rng.randrange(12, 60)))
        ids = [rng.randrange(2, vocabulary) for _ in range(length)]
        values.append(" ".join(f"{rng.choice('abc')}{token}" for token in ids[:20]) if i % 2 else ids)
    return corpus(*values)


def tiny(tokenizer, **options):
    return build_model(tiny_config(tokenizer, num_key_value_heads=2, **options))


def token_ids(documents, tokenizer) -> list[tuple[int, list[int]]]:
    """Numbered documents with the end of text after them; none for one without tokens."""
    found = []
    for number, one in enumerate(documents):
        ids = list(one.token_ids) if one.text is None else tokenizer(one.text)["input_ids"]
        if ids and ids[-1] != tokenizer.eos_token_id:
            ids.append(tokenizer.eos_token_id)
        found.append((number, ids))
    return found


@torch.no_grad()
def assert_scores_are_the_models(rows, expected: list[Row], model) -> None:
    """The same rows, with scores that are a float64 model's, rounded to float16."""
    exact = copy.deepcopy(model).double()
    rows = list(rows)
    assert len(rows) == len(expected) > 0
    for found, row in zip(rows, expected, strict=True):
        assert found.row.ids.tolist() == row.ids.tolist()
        assert (found.row.starts, found.row.context, found.row.document) == (row.starts, row.context, row.document)
        predicted = [is_predicted(row, t) for t in range(len(row.ids))]
        for name, column in zip(SCORES, plain_scores(exact, row), strict=True):
            wanted = np.where(predicted, column, np.nan)
            np.testing.assert_allclose(found.scores[name], wanted, rtol=2**-11, atol=2e-4, equal_nan=True)


def expected_rows(documents, tokenizer, context: Context) -> list[Row]:
    """The rows of a store: packed documents are together within a shard."""
    numbered = token_ids(documents, tokenizer)
    shards = [[number for number, _ in shard] for shard in scoring.shards_of(documents)]
    return [row for shard in shards for row in rows_of([numbered[number] for number in shard], context)]


def files_of(out: Path) -> dict[str, bytes]:
    """What a finished store consists of."""
    return {path.name: path.read_bytes() for path in out.iterdir() if not path.name.startswith(".")}


KILLS = ("shard-00001.arrow", "shard-00002.json", "state.json", "store.json")
"""Files, in the order in which they come: each process is killed before one of them is in its place."""


def main(out: Path) -> None:
    """Prints the exit code of each killed process, and the shards that were finished then."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    model = tiny(tokenizer)
    scoring.SHARD_CHARACTERS = SHARD
    seen = []
    for name in KILLS:

        def work(name=name):
            die_at_file(name)
            scoring.score_corpus(iter(made_up_corpus()), tokenizer, out, ISOLATED, model=model, name="tiny")

        seen.append(
            [exit_code(started(work)), {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*.arrow")}]
        )
    print(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
