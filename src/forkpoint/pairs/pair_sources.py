"""What pairs are made from beside responses: the scores of `contrast` and the forks of `critical`, read strictly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from forkpoint.engines import Engine
from forkpoint.engines.loading import Vocabulary
from forkpoint.files import CRITICAL, SCORES
from forkpoint.jsonl import Row, column, is_number, list_of, shares, shortened, text
from forkpoint.pairs.fork_pairs import EvaluatedToken, Forked
from forkpoint.tasks.data_sets import each_once, read_rows
from forkpoint.trajectories.rows import check_spelling, ids_of
from forkpoint.types import TokenIds, UserError
from forkpoint.weights.rules import contrast

MOST_ROLLOUTS = 10**6  # of one alternative
Weights = dict[tuple[TokenIds, TokenIds], tuple[float, ...]]


def read_weights(path: Path, model: Engine | Vocabulary) -> Weights:
    """1 - s of each token of the responses in a `contrast` run's directory or its scores.jsonl, by (prompt, response).

    A row: `{"prompt_ids": [5, 9], "token_ids": [7, 0], "scores": {"s": [0.25, 1.0]}}`. Critical Tokens Matter (arXiv
    2411.19943), section 3. Raises UserError with file and line for a broken row and ids of another tokenizer.
    """
    if path.is_dir():
        path /= SCORES
    found: Weights = {}
    for where, row in read_rows(path):
        prompt, ids = _ids(row, model, where)
        columns = column(row, "scores", where)
        if not isinstance(columns, dict) or "s" not in columns:
            raise UserError(f"{where}: scores must be an object with the column s, as forkpoint contrast writes it")
        scores = shares(columns["s"], len(ids), "the column s of scores", where)
        weights = contrast({"s": np.array(scores)})
        found.setdefault((prompt, ids), tuple(round(weight, 6) for weight in weights.tolist()))
    if not found:
        raise UserError(f"{path} holds no scores")
    return found


def read_forks(path: Path, model: Engine | Vocabulary) -> list[Forked]:
    """The trajectories of a `critical` run's directory or its critical.jsonl, with their curves and alternatives.

        {"id": "p/0", "problem_id": "p", "prompt_ids": [5, 9], "token_ids": [7, 0], "success": [0.5, 0.1, 0.0],
         "success_ci": [[0.4, 0.6], [0.0, 0.2], null], "policy_prob": [0.2, 0.9],
         "alternatives": [{"position": 0, "token_id": 8, "policy_prob": 0.4, "success": 0.75, "n": 16}]}

    Raises UserError with file and line for a broken row, ids of another tokenizer, and a repeated trajectory.
    """
    if path.is_dir():
        path /= CRITICAL
    trajectories = ((where, _forked(row, model, where)) for where, row in read_rows(path))
    return each_once(trajectories, "trajectory", f"{path} holds no trajectories")


def _ids(row: Row, model: Engine | Vocabulary, where: str) -> tuple[TokenIds, TokenIds]:
    prompt, ids = (ids_of(row, key, model.vocab_size, where, model=model.name) for key in ("prompt_ids", "token_ids"))
    check_spelling(row, ids, model.tokenizer, where, model=model.name)
    return prompt, ids


def _forked(row: Row, model: Engine | Vocabulary, where: str) -> Forked:
    prompt, ids = _ids(row, model, where)
    success = _curve(row, "success", len(ids) + 1, "numbers", _is_share, where)
    intervals = _curve(row, "success_ci", len(ids) + 1, "pairs of numbers", _is_interval, where)
    own = shares(column(row, "policy_prob", where), len(ids), "policy_prob", where)
    alternatives: dict[tuple[int, int], EvaluatedToken] = {}
    for entry in list_of(row, "alternatives", dict, where):
        one = _alternative(entry, ids, own, model, where)
        if (one.position, one.token_id) in alternatives:
            raise UserError(f"{where}: token {one.token_id} at position {one.position} is there twice")
        alternatives[one.position, one.token_id] = one
    names = text(row, "id", where), text(row, "problem_id", where)
    curve = tuple(success), tuple(ends and (ends[0], ends[1]) for ends in intervals)
    return Forked(*names, prompt, ids, *curve, tuple(alternatives.values()))


def _curve(row: Row, key: str, length: int, what: str, fits: Callable[[Any], bool], where: str) -> list[Any]:
    """A column of values that fit, or null, one more than tokens."""
    values = column(row, key, where)
    if not isinstance(values, list) or len(values) != length:
        n = len(values) if isinstance(values, list) else shortened(values)
        raise UserError(f"{where}: {key} must be a list of {length} values, one more than tokens, but is {n}")
    for value in values:
        if value is not None and not fits(value):
            raise UserError(f"{where}: {key} must hold {what} from 0 to 1, but holds {shortened(value)}")
    return values


def _alternative(
    entry: Row, ids: TokenIds, own: Sequence[float], model: Engine | Vocabulary, where: str
) -> EvaluatedToken:
    place = f"{where}, alternatives"
    names = ("position", "token_id", "n", "success", "policy_prob")
    position, token, n, success, prob = (column(entry, name, place) for name in names)
    last, largest = len(ids) - 1, model.vocab_size - 1
    if not _is_whole(position, 0, last):
        raise UserError(f"{place}: position must be from 0 to {last}, but is {shortened(position)}")
    if not _is_whole(token, 0, largest) or token == ids[position]:
        what = f"another id than the trajectory's own from 0 to {largest}"
        raise UserError(f"{place}: token_id must be {what}, but is {shortened(token)}")
    if not _is_whole(n, 1, MOST_ROLLOUTS) or not _is_share(success):
        got = f"{shortened(success)} of {shortened(n)}"
        raise UserError(f"{place}: expected a success from 0 to 1 of at least 1 rollout, but got {got}")
    if not _is_share(prob):
        raise UserError(f"{place}: policy_prob must be a probability, but is {shortened(prob)}")
    return EvaluatedToken(position, token, round(success * n), n, prob > own[position])


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


def _is_interval(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_share, value))


def _is_whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
