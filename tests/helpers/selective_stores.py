"""Small corpora, their stores, and what a store should hold: whole logits in float64, one token at a time.

Run as a program it makes a store in processes that are killed, each a little later than the one before.
"""

from __future__ import annotations

import copy
import json
import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from tiny_models import build_model, tiny_config
from transformers import AutoTokenizer

from forkpoint.lab import MODEL_DIR
from forkpoint.scores import reference_losses as scoring
from forkpoint.scores import store
from forkpoint.scores.context import Context, Row, rows_of
from forkpoint.scores.corpora import Document
from forkpoint.scores.store import SCORES

ISOLATED = Context("isolated", 16, 12)
PACKED = Context("packed", 16, 12)
SHARD = 120  # characters


def document(number: int, value) -> Document:
    """A document of a text or of token ids."""
    text, ids = (value, None) if isinstance(value, str) else (None, tuple(value))
    return Document(f"corpus line {number + 1}", text, ids)


def corpus(*values) -> list[Document]:
    return [document(i, value) for i, value in enumerate(values)]


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


def dense_scores(model, row: Row) -> dict[str, np.ndarray]:
    """Loss and entropy of a row by a model in float64, NaN where nothing is predicted."""
    logs = model(torch.tensor([row.ids.tolist()])).logits[0].log_softmax(-1).numpy()
    found = {name: np.full(len(row.ids), np.nan) for name in SCORES}
    for i, token in enumerate(row.ids.tolist()):
        if i > 0 and i >= row.context and i not in row.starts:
            found["reference_loss"][i] = -logs[i - 1, token]
            found["reference_entropy"][i] = -(np.exp(logs[i - 1]) * logs[i - 1]).sum()
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
        for name, column in dense_scores(exact, row).items():
            np.testing.assert_allclose(found.scores[name], column, rtol=2**-11, atol=2e-4, equal_nan=True)


def expected_rows(documents, tokenizer, context: Context) -> list[Row]:
    """The rows of a store: packed documents are together within a shard."""
    numbered = token_ids(documents, tokenizer)
    shards = [[number for number, _ in shard] for shard in scoring.shards_of(documents)]
    return [row for shard in shards for row in rows_of([numbered[number] for number in shard], context)]


def files_of(out: Path) -> dict[str, bytes]:
    """What a finished store consists of."""
    return {path.name: path.read_bytes() for path in out.iterdir() if not path.name.startswith(".")}


def _die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def _before_writing(name: str) -> None:
    write_whole = scoring.write_whole

    def write(path, chunks):
        _die() if path.name == name else write_whole(path, chunks)

    scoring.write_whole = store.write_whole = write


def _amid_the_file(name: str) -> None:
    replace = os.replace

    def half(source, target):
        if Path(target).name == name:
            os.truncate(source, os.path.getsize(source) // 2)
            _die()
        replace(source, target)

    os.replace = half


KILLS = {
    "amid a shard": lambda: _amid_the_file("shard-00001.arrow"),
    "between a shard and what is known of it": lambda: _before_writing("shard-00002.json"),
    "before the last file": lambda: _before_writing("store.json"),
    "amid the last file": lambda: _amid_the_file("store.json"),
}


def main(out: str) -> None:
    """Prints the exit code of each killed process, and the shards that were finished then."""
    import datasets  # noqa: F401  # once, not in every process

    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    model = tiny(tokenizer)
    scoring.SHARD_CHARACTERS = SHARD
    seen = []
    for prepare in KILLS.values():
        child = os.fork()
        if not child:
            prepare()
            scoring.score_corpus(iter(made_up_corpus()), tokenizer, Path(out), ISOLATED, model=model, name="tiny")
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        seen.append([code, {path.name: path.stat().st_mtime_ns for path in Path(out).glob("shard-*.arrow")}])
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1])
