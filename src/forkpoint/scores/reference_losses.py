"""Making a score store: a corpus is read, tokenised, and scored by a reference model, shard by shard.

A shard is a run of documents that depends on the corpus alone: any process can make any of them, and a killed run goes
on with the first that is missing. Of several processes whoever finds all shards there finishes the store.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from transformers import PreTrainedModel

from forkpoint import __version__
from forkpoint.engines.identity import vocabulary_digest, weights_digest
from forkpoint.engines.local.head import head_of
from forkpoint.files import claim_directory, claimed, to_json, writable, write_rows, write_whole
from forkpoint.scores.context import Context, Row, check_context, rows_of
from forkpoint.scores.corpora import Document
from forkpoint.scores.dynamics import DOCUMENTS
from forkpoint.scores.row_losses import BATCH_TOKENS, row_losses
from forkpoint.scores.store import SCORES, STORE, ScoredRow, Shard, document_line, open_store, write_facts, write_shard
from forkpoint.text import n_tokens
from forkpoint.trajectories.rows import silent
from forkpoint.types import Progress, Results, TokenIds, UserError

SHARD_CHARACTERS = 4_000_000  # of text; a document's token ids count as four each
SHOWN = 50  # rows in documents.jsonl
CLAIM = ".claim"  # held while files that processes share are written
TEXTS_AT_ONCE = 1000  # in one call of the tokenizer


@dataclass(frozen=True, slots=True)
class Part:
    """This process's share of the shards: every `of`-th from the `index`-th on."""

    index: int = 0
    of: int = 1


WHOLE = Part()


def score_corpus(
    documents: Iterable[Document],
    tokenizer: Any,
    out: Path,
    context: Context,
    *,
    model: PreTrainedModel | None = None,
    name: str = "custom",
    source: Mapping[str, Any] | None = None,
    vocabulary_size: int | None = None,
    part: Part = WHOLE,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress | None = None,
) -> dict[str, Any] | None:
    """Make the store of a corpus in `out`; without a model it is only tokenised. Resumable.

    The files call the model `name` and the corpus `source`. Token ids must be below `vocabulary_size` (default: the
    model's or the tokenizer's). Returns store.json's content, or None where shards of other processes are missing.
    UserError for a context that does not fit, a corpus without tokens, and files that cannot be written.
    """
    check_context(context)
    facts = {
        "verb": "score", "source": dict(source or {}), "tokenizer": name, "vocabulary": vocabulary_digest(tokenizer),
        "separator": tokenizer.eos_token_id, "version": __version__,
        "reference": None if model is None else _reference(model, name, context),
    }  # fmt: skip
    config = {**facts, "context": asdict(context), "shard_characters": SHARD_CHARACTERS}
    size = vocabulary_size or (model.get_input_embeddings().num_embeddings if model else n_tokens(tokenizer))
    with claimed(out, config) if part.of == 1 else _claimed_by_parts(out, config):
        if not (out / STORE).exists():
            score, n = _scorer(model, batch_tokens, progress), 0
            for i, shard in enumerate(shards_of(documents)):
                n = i + 1
                if (out / STORE).exists():  # another process made the rest
                    break
                if i % part.of == part.index and _made(_path(out, i)) is None:
                    ids = list(_token_ids(shard, tokenizer, size))
                    scored = score(list(rows_of(ids, context)), f"shard {n}, rows")
                    _write(_path(out, i), scored, ids, tokenizer, () if model is None else SCORES)
            if not _finish(out, facts, context, n):
                return None
    return Results(open_store(out, check=False).facts)


@contextmanager
def _claimed_by_parts(out: Path, config: dict[str, Any]) -> Iterator[None]:
    """The directory for the processes that share this configuration's run; what fails in one leaves it theirs."""
    writable(out)
    with FileLock(out / CLAIM):
        claim_directory(out, config)
    yield


def _reference(model: PreTrainedModel, name: str, context: Context) -> dict[str, Any]:
    """What the reference model is. UserError where rows are longer than it reads."""
    longest = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if longest and context.length > longest:
        raise UserError(f"length is {context.length}, but the model reads at most {longest} tokens")
    return {
        "model": name, "commit": getattr(model.config, "_commit_hash", None), "weights": weights_digest(model),
        "dtype": str(model.dtype).removeprefix("torch."), "attention": model.config._attn_implementation,
    }  # fmt: skip


def shards_of(documents: Iterable[Document]) -> Iterator[list[tuple[int, Document]]]:
    """Runs of numbered documents, each of about SHARD_CHARACTERS."""
    shard: list[tuple[int, Document]] = []
    size = 0
    for number, document in enumerate(documents):
        shard.append((number, document))
        size += len(document.text or "") + 4 * len(document.token_ids or ())
        if size >= SHARD_CHARACTERS:
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


def _token_ids(shard: list[tuple[int, Document]], tokenizer: Any, size: int) -> Iterator[tuple[int, TokenIds]]:
    """Each document's number and token ids, with the end of text after them; none for a document without tokens.

    A text gets what the tokenizer puts around one. UserError for ids outside a vocabulary of `size`.
    """
    end = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    for first in range(0, len(shard), TEXTS_AT_ONCE):
        part = shard[first : first + TEXTS_AT_ONCE]
        texts = [document.text for _, document in part if document.text]
        encoded = iter(tokenizer(texts, verbose=False)["input_ids"] if texts else ())
        for number, document in part:
            ids = tuple(next(encoded)) if document.text else document.token_ids or ()
            if ids and not 0 <= min(ids) <= max(ids) < size:
                bad = next(token for token in ids if not 0 <= token < size)
                raise UserError(f"{document.place}: token id {bad} is not one of the tokenizer's 0 to {size - 1}")
            yield number, ids if not ids or ids[-1:] == end else (*ids, *end)


def _scorer(
    model: PreTrainedModel | None, batch_tokens: int, progress: Progress | None
) -> Callable[[Sequence[Row], str], list[ScoredRow]]:
    """What gives rows their scores; none without a model."""
    if model is None:
        return lambda rows, _: [ScoredRow(row, {}) for row in rows]
    head, before, tell = head_of(model), 0, progress or silent

    def score(rows: Sequence[Row], label: str) -> list[ScoredRow]:
        nonlocal before
        columns = row_losses(
            model, head, rows, batch_tokens, lambda done, of, tokens: tell(label, done, of, before + tokens)
        )
        before += sum(len(row.ids) for row in rows)
        return [ScoredRow(row, dict(zip(SCORES, both, strict=True))) for row, both in zip(rows, columns, strict=True)]

    return score


def _path(out: Path, shard: int) -> Path:
    return out / f"shard-{shard:05}.arrow"


def _write(
    path: Path, rows: Sequence[ScoredRow], ids: Sequence[tuple[int, TokenIds]], tokenizer: Any, scores: Sequence[str]
) -> None:
    """Write a shard, and beside it what is known of it, unless another process did; with the first one, its rows."""
    out = path.parent
    with _writing(path), FileLock(out / CLAIM):
        if (out / STORE).exists() or _made(path):  # what is there must stay as it is
            return
        if path == _path(out, 0) and scores:
            lines = (document_line(i, row, tokenizer, row.scores) for i, row in enumerate(rows[:SHOWN]))
            write_rows(out / DOCUMENTS, lines)
        shard = write_shard(path, rows, scores, len(ids), sum(not tokens for _, tokens in ids))
        write_whole(path.with_suffix(".json"), to_json(asdict(shard)) + "\n")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}; the shards before it are kept, and the same command "
            "goes on from there"
        ) from error


def _made(path: Path) -> Shard | None:
    """What is known of a shard that was written to its end."""
    try:
        shard = Shard(**json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return shard if path.is_file() and path.stat().st_size == shard.bytes else None


def _finish(out: Path, facts: Mapping[str, Any], context: Context, n: int) -> bool:
    """Write store.json if all n shards are there; whether the store is finished."""
    with FileLock(out / CLAIM):
        if not (out / STORE).exists():
            shards = [shard for number in range(n) if (shard := _made(_path(out, number)))]
            if len(shards) < n:
                return False
            if not any(shard.rows for shard in shards):
                raise UserError("the corpus holds no document with tokens to predict")
            with _writing(out / STORE):
                write_facts(out, facts, context, shards)
        for path in out.glob("shard-*.json"):  # which stands in store.json now
            path.unlink()
    return True
