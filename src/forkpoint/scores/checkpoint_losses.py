"""The losses of a corpus' tokens at several checkpoints of a training, their classes, and the documents to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from transformers import PreTrainedModel

from forkpoint import __version__
from forkpoint.engines.identity import vocabulary_digest
from forkpoint.engines.local.head import head_of
from forkpoint.files import SUMMARY, Journal, fingerprint, resumed, whole_file, write_rows
from forkpoint.scores.dynamics import DOCUMENTS, Dynamics, class_names, classify, dynamics_summary
from forkpoint.scores.row_losses import Step, row_losses
from forkpoint.scores.store import Store, document_line
from forkpoint.types import Progress, UserError

LOSSES = "losses"
Load = Callable[[str], tuple[PreTrainedModel, Any]]


def checkpoints_of(paths: Sequence[Path]) -> list[Path]:
    """The models among paths, in order; a directory of models stands for those in it, sorted by the number at the end.

    Raises UserError for a path that is neither, and for fewer than two models.
    """
    models: list[Path] = []
    for path in paths:
        inside = [path] if _is_model(path) else list(filter(_is_model, path.glob("*")))
        if not inside:
            raise UserError(f"{path} is no model and holds none")
        models += sorted(inside, key=lambda p: (_number(p.name), p.name))
    if len(models) < 2:
        raise UserError("dynamics need at least two checkpoints: name them with --checkpoints, in order")
    return models


def _is_model(path: Path) -> bool:
    known = (path / name for name in ("config.json", "adapter_config.json"))
    return not path.name.startswith(".") and any(p.is_file() for p in known) and any(path.glob("*.safetensors"))


def _number(name: str) -> int:
    digits = name.rpartition("-")[2]
    return int(digits) if digits.isdecimal() else -1


def study(
    load: Load,
    checkpoints: Sequence[Path],
    store: Store,
    out: Path,
    *,
    limit: int,
    shown: int,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Class the tokens of a store's first `limit` rows by their losses at the checkpoints; returns summary.json.

    `load` gives a model and its tokenizer by path. Writes losses/NUMBER.npy, float32 [n] over all rows' tokens;
    documents.jsonl, the first `shown` rows; and summary.json. A repeated call goes on with the checkpoints that are
    missing. UserError for models whose tokens are not the store's.
    """
    names = [path.name for path in checkpoints]
    if len(set(names)) < len(names):
        names = [str(path) for path in checkpoints]
    settings = {
        "verb": "dynamics", "checkpoints": list(map(str, checkpoints)), "limit": limit, "shown": shown,
        "store": fingerprint([shard.digest for shard in store.shards]), "version": __version__,
    }  # fmt: skip

    def work(_: Journal) -> dict[str, Any]:
        rows = range(min(limit, len(store)))
        (out / LOSSES).mkdir(exist_ok=True)
        files = [out / LOSSES / f"{i:03}.npy" for i in range(len(checkpoints))]
        for name, path, file in zip(names, checkpoints, files, strict=True):
            if not file.exists():
                _measure(load, path, store, rows, file, partial(progress, name) if progress else None)
        losses = np.stack([np.load(file, allow_pickle=False) for file in files])
        dynamics = classify(losses)
        tokenizer = load(str(checkpoints[-1]))[1]
        write_rows(out / DOCUMENTS, _documents(store, rows[:shown], losses[-1], dynamics, tokenizer))
        summary = {"title": "Token dynamics", **settings, "store": str(store.path), "rows": len(rows)}
        return summary | {"dynamics": dynamics_summary(losses, dynamics, names)}

    return resumed(out, settings, SUMMARY, work)


def _measure(load: Load, checkpoint: Path, store: Store, rows: range, path: Path, step: Step | None) -> None:
    """Write the losses of the rows' tokens under one checkpoint to a file."""
    model, tokenizer = load(str(checkpoint))
    if vocabulary_digest(tokenizer) != store.facts["vocabulary"]:
        raise UserError(f"{store.path} was made with other tokens than those of {checkpoint}")
    losses = [loss for loss, _ in row_losses(model, head_of(model), [store[i].row for i in rows], step=step)]
    with whole_file(path) as file:
        np.save(file, np.concatenate(losses), allow_pickle=False)


def _documents(
    store: Store, rows: range, last: Float32[np.ndarray, " n"], dynamics: Dynamics, tokenizer: Any
) -> Iterator[dict[str, Any]]:
    """The rows as the page reads them."""
    begin = 0
    for i in rows:
        scored = store[i]
        own = slice(begin, begin := begin + len(scored.row.ids))
        columns = {"loss": last[own], "delta": dynamics.delta[own], **scored.scores}
        if "reference_loss" in scored.scores:
            columns["excess_loss"] = last[own] - scored.scores["reference_loss"]
        line = document_line(i, scored, tokenizer, columns)
        yield line | {"class": class_names(dynamics.classes[own])}
