"""A text corpus of any size as a stream of documents: from files, a directory of them, or a data set on the Hub.

Knows where documents come from and in which order. Knows nothing of tokenizers or models, and holds no more than a few
documents (of a Parquet file one page, of a text without blank lines all of it).
"""

from __future__ import annotations

import gzip
import io
import os
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import Any, BinaryIO

from forkpoint.tasks.jsonlines import Row, checked_text, column, decoded, list_of, rows_of
from forkpoint.types import TokenIds, UserError

IDS = "input_ids"
PARQUET_ROWS = 32  # decoded at a time
PARQUET_FILE: dict[str, Any] = {
    "pre_buffer": False,  # which would hold the column of a whole row group, as would no buffer at all
    "buffer_size": 2**20,
    "page_checksum_verification": True,
}

Reader = Callable[[str, str], Iterator["Document"]]  # of a file and the name of the text column


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a corpus, as text or as token ids. `place` says where it stands ("corpus.jsonl line 7").

    `token_ids` are to be taken as they are; then `text` is None.
    """

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
) -> Iterator[Document]:
    """The documents of a file, of a directory's files sorted by path (hidden ones left out), or of a Hub data set.

    JSON Lines (.jsonl, .json) and text (.txt; blank lines part documents) may be compressed (.gz, .zst); Parquet
    is the other kind. A row with `input_ids` is token ids; of any other the `text_column` is the document, which may be
    empty. Rows and lines are counted from 1. `split`, `subset` (a configuration's name) and `revision` are for the Hub,
    which is asked only where no local path is meant. Raises UserError at once for a source that cannot be opened, and
    after the documents before it for what is damaged or no document.
    """
    path = os.path.expanduser(source)
    if os.path.isdir(path):
        return chain.from_iterable(_from_file(file, text_column) for file in _files_in(path))
    if os.path.exists(path):
        return _from_file(path, text_column)
    if source.startswith((".", "/", "~")) or _reader(source):
        raise UserError(f"cannot read {source}: there is no such file or directory")
    return _from_hub(source, text_column, split, subset, revision)


def corpus_files(source: str) -> list[str]:
    """The files that `read_corpus` reads; none of a data set on the Hub."""
    path = os.path.expanduser(source)
    if os.path.isdir(path):
        return _files_in(path)
    return [path] if os.path.exists(path) else []


def _from_file(file: str, text_column: str) -> Iterator[Document]:
    reader = _reader(file)
    if reader is None:
        raise UserError(f"{file} is no corpus file: its name should end in {KNOWN}")
    return _told(reader(file, text_column), file)


def _files_in(folder: str) -> list[str]:
    """Every file of a known ending under the folder, sorted by path."""

    def refuse(error: OSError) -> None:  # os.walk leaves out what it cannot list otherwise
        raise UserError(f"cannot read {error.filename}: {error.strerror}")

    found = []
    for inside, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(inside, name) for name in names if not name.startswith(".") and _reader(name)]
    if not found:
        raise UserError(f"{folder} holds no corpus file: no name in it ends in {KNOWN}")
    return list(map(str, sorted(found)))


def _from_json_lines(file: str, text_column: str) -> Iterator[Document]:
    with _opened(file) as lines:
        yield from _documents(rows_of(lines, file), text_column)


def _from_text(file: str, _: str) -> Iterator[Document]:
    """Documents that blank lines part."""
    with _opened(file) as lines:
        numbered = ((f"{file} line {number}", line) for number, line in enumerate(lines, start=1))
        texts = ((place, decoded(line, place).rstrip("\r\n")) for place, line in numbered)
        for blank, group in groupby(texts, key=lambda line: not line[1].strip()):
            if not blank:
                place, first = next(group)
                yield Document(place, "\n".join([first, *(text for _, text in group)]), None)


def _from_parquet(file: str, text_column: str) -> Iterator[Document]:
    return _documents(_parquet_rows(file, text_column), text_column)


def _parquet_rows(file: str, text_column: str) -> Iterator[tuple[str, Row]]:
    """The one column of a Parquet file that is wanted, a few rows at a time."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(file, **PARQUET_FILE) as table:
        names = table.schema_arrow.names
        wanted = IDS if IDS in names else text_column
        column(dict.fromkeys(names), wanted, file)
        batches = table.iter_batches(PARQUET_ROWS, columns=[wanted])
        for number, value in enumerate((value for batch in batches for value in batch.column(0)), start=1):
            yield f"{file} row {number}", {wanted: value.as_py()}


def _from_hub(
    source: str, text_column: str, split: str, subset: str | None, revision: str | None
) -> Iterator[Document]:
    """The rows of a data set on the Hub as they arrive; it is opened at once."""
    asked = {"split": split, "subset": subset, "revision": revision}
    named = ", ".join(f"{name} {value!r}" for name, value in asked.items() if value is not None)
    what = f"{source}, which is no local file, as a data set on the Hub ({named})"
    try:
        from datasets import load_dataset

        rows: Iterable[Row] = load_dataset(source, name=subset, split=split, revision=revision, streaming=True)
    except Exception as error:  # as many kinds as there are ways for a network and a data set to fail
        raise _unreadable(what, error) from None
    places = ((f"{source} row {number}", row) for number, row in enumerate(rows, start=1))
    return _told(_documents(places, text_column), what)


def _documents(rows: Iterable[tuple[str, Row]], text_column: str) -> Iterator[Document]:
    for place, row in rows:
        if IDS in row:
            yield Document(place, None, _ids(row, place))
        else:
            what = f"{place}: column {text_column!r}"
            yield Document(place, checked_text(column(row, text_column, place), what, blank=True), None)


def _ids(row: Row, place: str) -> TokenIds:
    ids = list_of(row, IDS, int, place)
    if ids and min(ids) < 0:
        raise UserError(f"{place}: {IDS} must be whole numbers from 0, but holds {min(ids)}")
    return tuple(ids)


def _told(documents: Iterator[Document], what: str) -> Iterator[Document]:
    """The same documents; what stops them is a UserError that names their source."""
    try:
        yield from documents
    except UserError:
        raise
    except Exception as error:  # as many kinds as there are formats, compressions and ways for a network to fail
        raise _unreadable(what, error) from None


def _unreadable(what: str, error: Exception) -> UserError:
    if isinstance(error, OSError) and error.strerror:
        return UserError(f"cannot read {what}: {error.strerror}")
    # Not the first line alone: `datasets` lists the subsets that there are on the second.
    said = textwrap.shorten(str(error), 300, placeholder=" ...").rstrip(".")
    return UserError(f"cannot read {what}: {type(error).__name__}{': ' if said else ''}{said}")


def _opened(file: str) -> Any:
    """The bytes of a file, decompressed where its name says that they are compressed."""
    return OPENERS.get(os.path.splitext(file.lower())[1], open)(file, "rb")


def _open_zstandard(file: str, _: str) -> BinaryIO:
    """By pyarrow, which `datasets` brings, reads all frames, and notices where a file is cut off."""
    import pyarrow

    return io.BufferedReader(pyarrow.input_stream(file, compression="zstd"))


def _reader(name: str) -> Reader | None:
    """What reads a file of that name; None where it is no corpus file."""
    stem, ending = os.path.splitext(name.lower())
    if ending in OPENERS and not stem.endswith(".parquet"):  # which is compressed inside
        ending = os.path.splitext(stem)[1]
    return READERS.get(ending)


OPENERS: dict[str, Callable[[str, str], Any]] = {".gz": gzip.open, ".zst": _open_zstandard}
READERS: dict[str, Reader] = {
    ".jsonl": _from_json_lines,
    ".json": _from_json_lines,
    ".txt": _from_text,
    ".parquet": _from_parquet,
}
KNOWN = ".jsonl, .json or .txt (also followed by .gz or .zst) or .parquet"
