"""A text corpus of any size as a stream of documents: from files, a directory of them, or a data set on the Hub.

Knows nothing of tokenizers or models, and holds a few documents at a time (of a JSON array all).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path

from forkpoint.jsonl import Row, checked_text, column, decoded, list_of
from forkpoint.tasks.data_sets import guarded, is_path, is_saved, kind_of, loaded_rows, opened, read_rows, saved_rows
from forkpoint.types import TokenIds, UserError

IDS = "input_ids"
KNOWN = ".jsonl, .json, .csv, .tsv or .txt (also followed by .gz or .zst), .parquet or .arrow"


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a corpus, as text or as token ids, and where it stands ("corpus.jsonl line 7")."""

    place: str
    text: str | None
    token_ids: TokenIds | None


def read_corpus(
    source: str,
    *,
    text_column: str = "text",
    split: str = "train",
    subset: str | None = None,
    revision: str | None = None,
    whole_files: bool = False,
) -> Iterator[Document]:
    """The documents of a file, of a directory's files sorted by path (hidden ones left out), or of a Hub data set.

    A row is `{"text": "Once upon a time"}` or `{"input_ids": [5, 9]}`; the text stands in `text_column`. Blank lines
    part the documents of text files (.txt), or the file is one (`whole_files`). `split`, `subset` and `revision` are
    for the Hub. UserError for a source that cannot be opened, and after the documents before it for a bad row.
    """
    path = os.path.expanduser(source)
    if is_saved(path):
        return _documents(saved_rows(path, split), text_column)
    if files := corpus_files(source):
        return chain.from_iterable([_from_file(file, text_column, whole_files) for file in files])
    if is_path(source):
        raise UserError(f"cannot read {source}: there is no such file or directory")
    return _documents(loaded_rows(source, split, subset, revision, streaming=True), text_column)


def corpus_files(source: str) -> list[str]:
    """The files that `read_corpus` reads; none of a data set on the Hub."""
    path = os.path.expanduser(source)
    if is_saved(path):
        return [str(file) for file in sorted(Path(path).rglob("*.arrow"))]
    if not os.path.isdir(path):
        return [path] if os.path.exists(path) else []

    def refuse(error: OSError) -> None:  # os.walk leaves out what it cannot list otherwise
        raise UserError(f"cannot read {error.filename}: {error.strerror}")

    files = []
    for inside, folders, names in os.walk(path, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(inside, name) for name in names if not name.startswith(".") and kind_of(name)]
    if not files:
        raise UserError(f"{path} holds no corpus file: no name in it ends in {KNOWN}")
    return list(map(str, sorted(files)))


def _from_file(file: str, text_column: str, whole_files: bool) -> Iterator[Document]:
    kind = kind_of(file)
    if kind is None:
        raise UserError(f"{file} is no corpus file: its name should end in {KNOWN}")
    if kind == ".txt":
        return guarded(_from_text(file, whole_files), file)
    return _documents(read_rows(file, columns=(IDS, text_column)), text_column)


def _from_text(file: str, whole_files: bool) -> Iterator[Document]:
    with opened(file) as lines:
        if whole_files:
            yield Document(file, decoded(lines.read(), file), None)
            return
        numbered = ((f"{file} line {number}", line) for number, line in enumerate(lines, start=1))
        texts = ((place, decoded(line, place).rstrip("\r\n")) for place, line in numbered)
        for blank, group in groupby(texts, key=lambda line: not line[1].strip()):
            if not blank:
                place, first = next(group)
                yield Document(place, "\n".join([first, *(text for _, text in group)]), None)


def _documents(rows: Iterable[tuple[str, Row]], text_column: str) -> Iterator[Document]:
    for place, row in rows:
        if row.get(IDS) is None:
            what = f"{place}: column {text_column!r}"
            yield Document(place, checked_text(column(row, text_column, place), what, blank=True), None)
        elif min(ids := list_of(row, IDS, int, place), default=0) < 0:
            raise UserError(f"{place}: {IDS} must be whole numbers from 0, but holds {min(ids)}")
        else:
            yield Document(place, None, tuple(ids))
