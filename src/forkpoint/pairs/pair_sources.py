"""What pairs are made from beside responses: the scores of `contrast` and the forks of `critical`, read strictly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from forkpoint.engines import Engine
from forkpoint.engines.loading import Vocabulary
from forkpoint.jsonl import column, is_number, list_of, shares, shortened, text
from forkpoint.pairs.fork_pairs import EvaluatedToken, Forked
from forkpoint.proportions import Interval
from forkpoint.tasks.data_sets import read_rows
from forkpoint.trajectories.rows import CRITICAL, SCORES, check_spelling, ids_of
from forkpoint.types import TokenIds, UserError
from forkpoint.weights.rules import contrast

MOST_ROLLOUTS = 10**6  # of one alternative
Weights = dict[tuple[TokenIds, TokenIds], tuple[float, ...]]


def read_weights(path: Path, model: Engine | Vocabulary) -> Weights:
    """1 - s of each token of the responses in a `contrast` run's directory or its scores.jsonl, by (prompt, response).

    Critical Tokens Matter (arXiv 2411.19943), section 3: the end of a response has s = 1, so weight 0. Raises
    UserError with file and line for a broken row, ids of another tokenizer, and scores that are not one in [0, 1] a
    token.
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

    Raises UserError with file and line for a broken row, ids of another tokenizer, and a trajectory that is there
    twice.
    """
    if path.is_dir():
        path /= CRITICAL
    found: dict[str, Forked] = {}
    for where, row in read_rows(path):
        one = _forked(row, model, where)
        if one.id in found:
            raise UserError(f"{where}: the trajectory {one.id!r} is there twice")
        found[one.id] = one
    if not found:
        raise UserError(f"{path} holds no trajectories")
    return list(found.values())


def _ids(row: Mapping[str, Any], model: Engine | Vocabulary, where: str) -> tuple[TokenIds, TokenIds]:
    prompt, ids = (ids_of(row, key, model.vocab_size, where, model=model.name) for key in ("prompt_ids", "token_ids"))
    check_spelling(row, ids, model.tokenizer, where, model=model.name)
    return prompt, ids


def _forked(row: Mapping[str, Any], model: Engine | Vocabulary, where: str) -> Forked:
    prompt, ids = _ids(row, model, where)
    success, intervals = (_along(row, key, len(ids) + 1, where) for key in ("success", "success_ci"))
    own = shares(column(row, "policy_prob", where), len(ids), "policy_prob", where)
    for value in success:
        if value is not None and not _is_share(value):
            raise UserError(f"{where}: success must hold numbers from 0 to 1, but holds {shortened(value)}")
    alternatives: dict[tuple[int, int], EvaluatedToken] = {}
    for entry in list_of(row, "alternatives", dict, where):
        one = _alternative(entry, ids, own, model, where)
        if (one.position, one.token_id) in alternatives:
            raise UserError(f"{where}: token {one.token_id} at position {one.position} is there twice")
        alternatives[one.position, one.token_id] = one
    return Forked(
        text(row, "id", where), text(row, "problem_id", where), prompt, ids, tuple(success),
        tuple(_interval(value, where) for value in intervals), tuple(alternatives.values()),
    )  # fmt: skip


def _along(row: Mapping[str, Any], key: str, length: int, where: str) -> list[Any]:
    values = column(row, key, where)
    if not isinstance(values, list) or len(values) != length:
        raise UserError(f"{where}: {key} must be a list of {length} values, one more than tokens, but is "
                        f"{len(values) if isinstance(values, list) else shortened(values)}")  # fmt: skip
    return values


def _interval(value: Any, where: str) -> Interval | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(map(_is_share, value)):
        raise UserError(f"{where}: success_ci must hold pairs of numbers from 0 to 1, but holds {shortened(value)}")
    return value[0], value[1]


def _alternative(
    entry: Mapping[str, Any], ids: TokenIds, own: Sequence[float], model: Engine | Vocabulary, where: str
) -> EvaluatedToken:
    place = f"{where}, alternatives"
    position, token, n, success = (column(entry, key, place) for key in ("position", "token_id", "n", "success"))
    if not _is_whole(position, 0, len(ids) - 1):
        raise UserError(f"{place}: position must be from 0 to {len(ids) - 1}, but is {shortened(position)}")
    if not _is_whole(token, 0, model.vocab_size - 1) or token == ids[position]:
        raise UserError(
            f"{place}: token_id must be another id than the trajectory's own from 0 to {model.vocab_size - 1}, but is "
            f"{shortened(token)}"
        )
    if not _is_whole(n, 1, MOST_ROLLOUTS) or not _is_share(success):
        raise UserError(
            f"{place}: expected a success from 0 to 1 of at least 1 rollout, but got {shortened(success)} of "
            f"{shortened(n)}"
        )
    if not _is_share(prob := column(entry, "policy_prob", place)):
        raise UserError(f"{place}: policy_prob must be a probability, but is {shortened(prob)}")
    return EvaluatedToken(position, token, round(success * n), n, prob > own[position])


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


def _is_whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
