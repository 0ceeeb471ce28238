"""Pairs of random tokens, samples of which only the answers matter, and files of rows."""

from __future__ import annotations

import json
import random

from forkpoint.files import to_json
from forkpoint.pairs.pair import Pair
from forkpoint.pairs.pair_files import pair_row
from forkpoint.types import Problem, Trajectory


def made_up_pairs(n, vocabulary, seed=0, longest=9):
    """Pairs of random tokens, of many lengths, with weights on the rejected tokens."""
    rng = random.Random(seed)

    def ids(least):
        return tuple(rng.randrange(2, vocabulary) for _ in range(rng.randint(least, longest)))

    found = []
    for i in range(n):
        rejected = ids(1)
        weights = tuple(rng.choice([0.0, 1.0, rng.random()]) for _ in rejected)
        found.append(Pair(f"p{i}", ids(1), ids(1), rejected, "", "", "", weights, rng.random()))
    return found


def samples_of(answers, name="p", prompt=5):
    """One response an answer, told apart by its tokens; answers that are 1 are right."""
    problem = Problem(name, "?", "1", "number")
    return [
        Trajectory(f"{name}/{i}", problem, (prompt,), (7, i), answer, answer in ("1", "1.0"), "stop")
        for i, answer in enumerate(answers)
    ]


def written(path, *rows):
    """The path, after the rows are written there as JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_pairs(path, pairs):
    """A file of the pairs' token ids, without texts."""
    rows = [pair_row(pair) | {"prompt": None, "chosen": None, "rejected": None} for pair in pairs]
    path.write_text("".join(to_json(row) + "\n" for row in rows))
    return path
