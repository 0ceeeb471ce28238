"""The reference model's log-probabilities of all pairs' tokens: computed once, kept on disk under data and model.

A file holds one float32 number a token: of each pair in turn the chosen response's, then the rejected one's.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from forkpoint.engines.identity import weights_digest
from forkpoint.engines.local.head import Head, head_of, in_eval_mode
from forkpoint.files import whole_file
from forkpoint.pairs.pair import Pair
from forkpoint.training.pair_batches import PairExample, collate, logprobs_of, row_length
from forkpoint.types import Progress

FORMAT = 2  # of the numbers: another one where what they mean changes


def cache_directory() -> Path:
    """Where reference log-probabilities are kept: $XDG_CACHE_HOME/forkpoint/reference, by default in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "forkpoint" / "reference"


def with_reference(
    model: PreTrainedModel, pairs: Sequence[Pair], *, batch_size: int, shared: bool,
    autocast: torch.dtype | None = None, progress: Progress | None = None,
) -> list[PairExample]:  # fmt: skip
    """The pairs with the model's log-probabilities of their tokens, from the cache where it holds them.

    `autocast` is the precision in which the policy will compute, where that is not its weights' own. A file in the
    cache that is broken is made anew; where none can be written, a warning says so.
    """
    path = cache_directory() / f"{_key(model, pairs, autocast)}.npy"
    bounds = np.cumsum([0, *(len(ids) for p in pairs for ids in (p.chosen_ids, p.rejected_ids))])
    values = _read(path, int(bounds[-1]))
    if values is None:
        head = head_of(model)  # which autocast would not reproduce
        with in_eval_mode(model), torch.autocast(model.device.type, autocast, enabled=autocast is not None):
            values = _compute(model, head, pairs, bounds, batch_size, shared, progress)
        _write(path, values)
    parts = np.split(values, bounds[1:-1])
    return [PairExample(p, i, parts[2 * i], parts[2 * i + 1]) for i, p in enumerate(pairs)]


def _compute(
    model: PreTrainedModel, head: Head, pairs: Sequence[Pair], bounds: np.ndarray, batch_size: int, shared: bool,
    progress: Progress | None,
) -> np.ndarray:  # fmt: skip
    """The numbers in the pairs' order; those of response i stand between bounds i and i + 1."""
    values = np.empty(bounds[-1], np.float32)
    tokens = 0
    order = sorted(range(len(pairs)), key=lambda i: row_length(pairs[i]))
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        batch = collate([PairExample(pairs[i], i) for i in part], shared)
        responses = [*(2 * i for i in part), *(2 * i + 1 for i in part)]
        places = np.concatenate([np.arange(bounds[r], bounds[r + 1]) for r in responses])
        values[places] = logprobs_of(model, head, batch).cpu().numpy()
        if progress:
            tokens += batch["input_ids"].numel()
            progress("pairs read by the reference", min(start + batch_size, len(order)), len(order), tokens)
    return values


def _key(model: PreTrainedModel, pairs: Sequence[Pair], autocast: torch.dtype | None) -> str:
    """A hash of all but what changes the numbers' last digits only: batch size and shared prompts."""
    digest = hashlib.blake2b(f"{FORMAT} {weights_digest(model)} {autocast}".encode(), digest_size=16)
    for pair in pairs:
        for ids in (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids):
            digest.update(np.array([len(ids), *ids], dtype=np.int64).data)
    return digest.hexdigest()


def _read(path: Path, total: int) -> np.ndarray | None:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return values if values.shape == (total,) and values.dtype == np.float32 else None


def _write(path: Path, values: np.ndarray) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            np.save(file, values, allow_pickle=False)
    except OSError as error:
        warnings.warn(f"the reference's log-probabilities could not be kept: {error}", stacklevel=2)
