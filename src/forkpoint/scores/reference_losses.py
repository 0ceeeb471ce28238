"""Making a score store: a corpus is read, tokenised, and scored by a reference model, shard by shard.

A shard is a run of documents that depends on the corpus alone, so any process can make any of them, a killed run goes
on with the first that is missing, and the result is the same bytes. Of several processes each makes its own shards, and
whoever finds them all there finishes the store.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from transformers import PreTrainedModel

from forkpoint import __version__
from forkpoint.engines.identity import vocabulary_digest, weights_digest
from forkpoint.engines.local.head import head_of, in_eval_mode
from forkpoint.files import claim_directory, claimed, to_json, writable, write_whole
from forkpoint.scores.context import Context, Row, check_context, rows_of
from forkpoint.scores.corpora import Document
from forkpoint.scores.documents import SHOWN, document_line
from forkpoint.scores.dynamics import DOCUMENTS
from forkpoint.scores.row_losses import BATCH_TOKENS, row_losses
from forkpoint.scores.store import SCORES, STORE, ScoredRow, Shard, open_store, write_facts, write_shard
from forkpoint.types import Results, TokenIds, UserError

SHARD_CHARACTERS = 4_000_000  # of text; a document's token ids count as four each
CLAIM = ".claim"  # held while files that processes share are written
TEXTS_AT_ONCE = 1000  # that the tokenizer is given
Progress = Callable[[str, int, int, int], None]


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
    """Make the store of a corpus in `out`; without a model it is only tokenised.

    `name` is what the files call the model; `source` says what the corpus is. Token ids must be below
    `vocabulary_size`, by default the model's or the tokenizer's. Returns store.json's content, or None where shards of
    other processes are still missing. A repeated call goes on where it stopped. Raises UserError for a context that
    does not fit the model, a corpus without tokens, and files that cannot be written.
    """
    check_context(context)
    _check_length(model, context)
    facts = {
        "verb": "score", "source": dict(source or {}), "tokenizer": name, "vocabulary": vocabulary_digest(tokenizer),
        "separator": tokenizer.eos_token_id, "version": __version__,
        "reference": None if model is None else _reference(model, name),
    }  # fmt: skip
    config = {**facts, "context": asdict(context), "shard_characters": SHARD_CHARACTERS}
    with claimed(out, config) if part.of == 1 else _claimed_by_parts(out, config):
        if not (out / STORE).exists():
            size = vocabulary_size or _size(tokenizer, model)
            last = _make_shards(documents, tokenizer, size, out, context, model, part, batch_tokens, progress)
            if not _finish(out, facts, context, last):
                return None
    return Results(open_store(out, check=False).facts)


@contextmanager
def _claimed_by_parts(out: Path, config: dict[str, Any]) -> Iterator[None]:
    """The directory for the processes that share this configuration's run; what fails in one leaves it theirs."""
    writable(out)
    with FileLock(out / CLAIM):
        claim_directory(out, config)
    yield


def _size(tokenizer: Any, model: PreTrainedModel | None) -> int:
    """How many token ids there are: those that the model has vectors of, or the tokenizer a text for."""
    if model is not None:
        size: int = model.get_input_embeddings().num_embeddings
        return size
    ids: list[int] = list(tokenizer.get_vocab().values())
    return 1 + max(ids)


def _check_length(model: PreTrainedModel | None, context: Context) -> None:
    if model is None:
        return
    longest = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if longest and context.length > longest:
        raise UserError(f"length is {context.length}, but the model reads at most {longest} tokens")


def _reference(model: PreTrainedModel, name: str) -> dict[str, Any]:
    """What the reference model is."""
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
        size += 4 * len(document.token_ids) if document.text is None else len(document.text)  # type: ignore[arg-type]
        if size >= SHARD_CHARACTERS:
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


def _make_shards(
    documents: Iterable[Document], tokenizer: Any, size: int, out: Path, context: Context,
    model: PreTrainedModel | None, part: Part, batch_tokens: int, progress: Progress | None,
) -> int:  # fmt: skip
    """Make this process's missing shards; returns how many there are in all."""
    score = _scorer(model, batch_tokens, progress)
    last = 0
    for i, shard in enumerate(shards_of(documents)):
        last = i + 1
        path = out / f"shard-{i:05}.arrow"
        if (out / STORE).exists():  # another process made the rest
            break
        if i % part.of == part.index and _made(path) is None:
            known = list(_token_ids(shard, tokenizer, size))
            empty = sum(not ids for _, ids in known)
            scored = score(list(rows_of(known, context)), f"shard {last}, rows")
            scores = SCORES if model is not None else ()
            with _writing(path), FileLock(out / CLAIM):
                if (out / STORE).exists() or _made(path):  # what is there must stay as it is
                    continue
                if i == 0 and model is not None:
                    lines = (document_line(n, row, tokenizer, row.scores) for n, row in enumerate(scored[:SHOWN]))
                    write_whole(out / DOCUMENTS, (to_json(line) + "\n" for line in lines))
                facts = write_shard(path, scored, scores, len(shard), empty)
                write_whole(path.with_suffix(".json"), to_json(asdict(facts)) + "\n")
    return last


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """UserError where a file cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}; the shards before it are kept, and the same command "
            "goes on from there"
        ) from error


def _scorer(
    model: PreTrainedModel | None, batch_tokens: int, progress: Progress | None
) -> Callable[[list[Row], str], list[ScoredRow]]:
    """A function from rows and a label to scored rows; without a model they get no scores."""
    if model is None:
        return lambda rows, _: [ScoredRow(row, {}) for row in rows]
    head = head_of(model)
    tokens = 0

    def score(rows: list[Row], label: str) -> list[ScoredRow]:
        nonlocal tokens
        found: dict[int, ScoredRow] = {}
        with in_eval_mode(model):
            for index, *columns in row_losses(model, head, rows, batch_tokens):
                found[index] = ScoredRow(rows[index], dict(zip(SCORES, columns, strict=True)))
                tokens += len(rows[index].ids)
                if progress:
                    progress(label, len(found), len(rows), tokens)
        return [found[index] for index in range(len(rows))]

    return score


def _token_ids(shard: list[tuple[int, Document]], tokenizer: Any, size: int) -> Iterator[tuple[int, TokenIds]]:
    """Each document's number and token ids, with the end of text after them; none for a document without tokens.

    A text gets what the tokenizer puts around one. Raises UserError for ids outside a vocabulary of `size`.
    """
    end = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    for first in range(0, len(shard), TEXTS_AT_ONCE):
        part = shard[first : first + TEXTS_AT_ONCE]
        texts = [document.text for _, document in part if document.text]
        encoded = iter(tokenizer(texts, verbose=False)["input_ids"] if texts else ())
        for number, document in part:
            ids = document.token_ids if document.text is None else tuple(next(encoded)) if document.text else ()
            assert ids is not None
            if ids and not 0 <= min(ids) <= max(ids) < size:
                bad = next(token for token in ids if not 0 <= token < size)
                raise UserError(f"{document.place}: token id {bad} is not one of the tokenizer's 0 to {size - 1}")
            yield number, ids if not ids or ids[-1:] == end else (*ids, *end)


def _made(path: Path) -> Shard | None:
    """What is known of a shard that was written to its end."""
    try:
        shard = Shard(**json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return shard if path.is_file() and path.stat().st_size == shard.bytes else None


def _finish(out: Path, facts: Mapping[str, Any], context: Context, last: int) -> bool:
    """Write store.json if all shards are there; whether the store is finished."""
    with FileLock(out / CLAIM):
        if (out / STORE).exists():
            _clear(out)
            return True
        paths = [out / f"shard-{i:05}.arrow" for i in range(last)]
        shards = [shard for shard in map(_made, paths) if shard]
        if len(shards) < last:
            return False
        if not any(shard.rows for shard in shards):
            raise UserError("the corpus holds no document with tokens to predict")
        with _writing(out / STORE):
            write_facts(out, facts, context, shards)
        _clear(out)
        return True


def _clear(out: Path) -> None:
    """Remove the shards' own facts, which stand in store.json now."""
    for path in out.glob("shard-*.json"):
        path.unlink()
