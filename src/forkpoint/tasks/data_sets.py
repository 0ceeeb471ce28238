"""The rows of a data set, each with its place: of a file of any usual kind, of a directory, or of the Hub."""

from __future__ import annotations

import csv
import gzip
import io
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

from forkpoint.hub import check_hub
from forkpoint.jsonl import Row, rows_of
from forkpoint.types import UserError

Rows = Iterator[tuple[str, Row]]
ROWS_AT_ONCE = 32  # decoded of a Parquet or Arrow file
PARQUET_BUFFER = 2**20  # without one, or with `pre_buffer`, the column of a whole row group is held
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def read_rows(path: str | os.PathLike[str], *, columns: Sequence[str] = (), bad: list[str] | None = None) -> Rows:
    """Each row of a local file with its place ("FILE line 7", "FILE row 7"), counted from 1.

    By its ending the file is Parquet, Arrow, CSV or TSV; of any other name JSON Lines or one JSON array, where .gz and
    .zst are decompressed. Of a Parquet file that has any of the `columns` only those are read. UserError for a file
    that cannot be read and at the first broken row; `bad` takes what is wrong with a line of JSON that is left out.
    """
    file = os.fspath(path)
    if os.path.isdir(file):
        raise UserError(f"{file} is a directory; a file was expected")
    return guarded(READERS.get(kind_of(file) or "", _json)(file, columns, bad), file)


def each_once(items: Iterable[tuple[str, Any]], what: str, none: str) -> list[Any]:
    """The items, given with their places; UserError for an `id` that is there twice, and `none` where nothing is."""
    by_id: dict[str, Any] = {}
    for where, item in items:
        if item.id in by_id:
            raise UserError(f"{where}: the {what} {item.id!r} is there twice")
        by_id[item.id] = item
    if not by_id:
        raise UserError(none)
    return list(by_id.values())


def read_source(
    source: str,
    *,
    split: str = "train",
    subset: str | None = None,
    revision: str | None = None,
    bad: list[str] | None = None,
) -> Rows:
    """The rows of a file, of a directory that `datasets` saved or can load, or of a data set (and `subset`) of the Hub.

    The Hub is asked only where no local path is meant. UserError for what cannot be read.
    """
    path = os.path.expanduser(source)
    if is_saved(path):
        return saved_rows(path, split)
    if os.path.exists(path) and not os.path.isdir(path):
        return read_rows(path, bad=bad)
    if is_path(source) and not os.path.isdir(path):
        raise UserError(f"cannot read {source}: there is no such file or directory")
    return loaded_rows(source, split, subset, revision)


def is_path(source: str) -> bool:
    """Whether a name is that of a local file or directory, there or not: it cannot be that of a data set on the Hub."""
    return source.startswith((".", "/", "~")) or kind_of(source) is not None or not HUB_ID.fullmatch(source)


def is_saved(path: str) -> bool:
    """Whether a directory is one that `save_to_disk` of `datasets` wrote."""
    return any(os.path.isfile(os.path.join(path, name)) for name in ("state.json", "dataset_dict.json"))


def saved_rows(path: str, split: str) -> Rows:
    """The rows of a directory that `save_to_disk` wrote; of one with splits those of `split`."""
    with reading(path):
        from datasets import DatasetDict, load_from_disk

        saved = load_from_disk(path)
    if isinstance(saved, DatasetDict):
        if split not in saved:
            raise UserError(f"cannot read {path}: it has no split {split!r}, but {', '.join(map(repr, saved))}")
        saved = saved[split]
    return guarded(numbered(saved, path), path)


def loaded_rows(
    source: str, split: str, subset: str | None = None, revision: str | None = None, *, streaming: bool = False
) -> Rows:
    """What `datasets.load_dataset` finds, in a directory or on the Hub; it is opened at once."""
    path, place = os.path.expanduser(source), source
    if not os.path.isdir(path):
        check_hub(source, "data set")
        place = f"{source}, which is no local file, as a data set on the Hub"
    options = {"split": split, "subset": subset, "revision": None if place == source else revision}
    what = f"{place} ({', '.join(f'{name} {value!r}' for name, value in options.items() if value is not None)})"
    with reading(what):
        from datasets import load_dataset

        rows = load_dataset(path, name=subset, split=split, revision=options["revision"], streaming=streaming)
    return guarded(numbered(rows, source), what)


def numbered(rows: Iterable[Row], source: str) -> Rows:
    """The rows with their places."""
    return ((f"{source} row {number}", row) for number, row in enumerate(rows, start=1))


def guarded(rows: Iterator[Any], what: str) -> Iterator[Any]:
    """The same items; what stops them is a UserError that names their source."""
    with reading(what):
        yield from rows


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Makes a UserError of whatever a library raises: formats, compressions and networks fail in many ways."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # Not the first line alone: `datasets` lists the subsets that there are on the second.
        message = textwrap.shorten(str(error), 300, placeholder=" ...").rstrip(".")
        reason = f"{type(error).__name__}{': ' if message else ''}{message}"
        raise UserError(f"cannot read {what}: {getattr(error, 'strerror', None) or reason}") from None


def kind_of(name: str) -> str | None:
    """The ending that says what a file holds (".jsonl" of a.jsonl.gz); None where it says nothing."""
    stem, ending = os.path.splitext(name.lower())
    if ending in OPENERS and not stem.endswith((".parquet", ".arrow")):  # those are compressed inside
        ending = os.path.splitext(stem)[1]
    return ending if ending in (*READERS, ".txt") else None


def opened(file: str) -> Any:
    """The bytes of a file, decompressed where its name says that they are compressed."""
    return OPENERS.get(os.path.splitext(file.lower())[1], open)(file, "rb")


def _json(file: str, _: Sequence[str], bad: list[str] | None) -> Rows:
    with opened(file) as lines:
        yield from rows_of(lines, file, bad)


def _csv(file: str, *_: Any) -> Rows:
    """The csv of Python and not that of `datasets`, which takes "7" for a number and "None" for nothing."""
    csv.field_size_limit(sys.maxsize)
    with opened(file) as lines:
        text = io.TextIOWrapper(lines, encoding="utf-8-sig", newline="")
        rows = csv.DictReader(text, delimiter="\t" if kind_of(file) == ".tsv" else ",", strict=True)
        for number, row in enumerate(rows, start=1):
            if None in row or None in row.values():
                raise UserError(f"{file} row {number}: it has another number of fields than the heading")
            yield f"{file} row {number}", row


def _parquet(file: str, columns: Sequence[str], _: Any) -> Rows:
    import pyarrow.parquet

    options = {"pre_buffer": False, "buffer_size": PARQUET_BUFFER, "page_checksum_verification": True}
    with pyarrow.parquet.ParquetFile(file, **options) as table:
        wanted = [name for name in table.schema_arrow.names if name in columns]
        batches = table.iter_batches(ROWS_AT_ONCE, columns=wanted or None)
        yield from numbered((row for batch in batches for row in batch.to_pylist()), file)


def _arrow(file: str, *_: Any) -> Rows:
    """The stream that `datasets` writes, or the file format."""
    import pyarrow

    with pyarrow.memory_map(file) as content:
        try:
            batches = pyarrow.ipc.open_stream(content)
        except pyarrow.ArrowInvalid:
            whole = pyarrow.ipc.open_file(content)
            batches = map(whole.get_batch, range(whole.num_record_batches))
        parts = (b.slice(i, ROWS_AT_ONCE) for b in batches for i in range(0, len(b), ROWS_AT_ONCE))
        yield from numbered((row for part in parts for row in part.to_pylist()), file)


def _open_zstandard(file: str, _: str) -> BinaryIO:
    """By pyarrow, which `datasets` brings, reads all frames, and notices where a file is cut off."""
    import pyarrow

    return io.BufferedReader(pyarrow.input_stream(file, compression="zstd"))


OPENERS: dict[str, Callable[[str, str], Any]] = {".gz": gzip.open, ".zst": _open_zstandard}
READERS: dict[str, Callable[[str, Sequence[str], list[str] | None], Rows]] = {
    ".jsonl": _json, ".ndjson": _json, ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet,
    ".arrow": _arrow,
}  # fmt: skip
