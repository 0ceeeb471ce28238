"""A finished run as a data set for others: typed Parquet with a dataset card, as the Hugging Face Hub has it.

`datasets.load_dataset(DIRECTORY)` reads it as it lies on disk, and so it can be pushed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from forkpoint.curves.label_card import COLUMNS, card
from forkpoint.files import read_json, write_whole
from forkpoint.tasks.data_sets import read_rows
from forkpoint.trajectories.rows import CRITICAL, SUMMARY
from forkpoint.types import UserError

Row = Mapping[str, Any]
README, PARQUET = "README.md", "data/train-00000-of-00001.parquet"
_ROWS = 500  # in memory, and in a row group of the file


def export_run(run: Path, out: Path) -> int:
    """Write a finished run's trajectories as a data set in `out`; returns their number.

    `out` is written whole or not at all, and may be new, empty, or an earlier export, which is replaced. Raises
    UserError for a run that is not finished, a broken line, and an `out` that holds anything else.
    """
    for name in (CRITICAL, SUMMARY):
        if not (run / name).is_file():
            raise UserError(f"{run} holds no finished run of forkpoint critical: it has no {name}")
    return _write(read_rows(run / CRITICAL), read_json(run / SUMMARY), out)


def write_dataset(rows: Iterable[Row], summary: Mapping[str, Any], out: Path) -> int:
    """Write rows with the keys of `COLUMNS` as a data set with its card in `out`; see `export_run`.

    `summary` is what the card states: the content of a run's summary.json.
    """
    return _write(((f"row {i}", row) for i, row in enumerate(rows, 1)), summary, out)


def push_to_hub(directory: Path, repo_id: str, *, private: bool = False) -> str:
    """Upload an exported data set to the Hugging Face Hub; returns its address.

    The token is the environment's HF_TOKEN or that of `hf auth login`. Raises UserError where the upload fails.
    """
    from huggingface_hub import HfApi

    if not (directory / PARQUET).is_file():
        raise UserError(f"{directory} holds no exported data set to push")
    try:
        api = HfApi()
        address = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, repo_type="dataset", folder_path=directory,
                          commit_message="Trajectories with critical tokens")  # fmt: skip
    except Exception as error:  # of a name, a login, a network or a server: no class holds them all
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"the data set could not be pushed to {repo_id!r} on the Hub: {reason}") from error
    return str(address)


def _write(rows: Iterable[tuple[str, Row]], summary: Mapping[str, Any], out: Path) -> int:
    check_free(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:
        raise UserError(f"the data set cannot be written beside {out}: {error.strerror}") from error
    try:
        made = workshop / "made"
        (made / PARQUET).parent.mkdir(parents=True)
        n = _write_parquet(made / PARQUET, (_checked(row, place) for place, row in rows))
        if not n:
            raise UserError("there are no labelled trajectories to make a data set of")
        write_whole(made / README, card(summary, n))
        if out.exists():
            out.rename(workshop / "before")
        made.rename(out)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return n


def features() -> Any:
    """The columns' types, as `datasets.Features`; a list of pairs is one of fixed-size lists."""
    from datasets import Features

    return Features({name: _feature(column.type) for name, column in COLUMNS.items()})


def _feature(kind: Any) -> Any:
    from datasets import Sequence, Value

    if isinstance(kind, str):
        return Value(kind)
    if isinstance(kind, dict):
        return {name: _feature(part) for name, part in kind.items()}
    if isinstance(kind, tuple):
        return Sequence(_feature(kind[0]), length=len(kind))
    return [_feature(kind[0])]


def _write_parquet(path: Path, rows: Iterable[Row]) -> int:
    import pyarrow as pa
    from pyarrow import parquet

    schema, n = features().arrow_schema, 0
    with path.open("wb") as file:
        with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
            for batch in _batches(rows):
                try:
                    writer.write_table(pa.Table.from_pylist(batch, schema=schema))
                except pa.ArrowException as error:
                    where = f"trajectories {n + 1} to {n + len(batch)}"
                    raise UserError(f"a value of {where} has another type than its column: {error}") from error
                n += len(batch)
        file.flush()
        os.fsync(file.fileno())
    return n


def _batches(rows: Iterable[Row]) -> Iterator[list[dict[str, Any]]]:
    source = iter(rows)
    while some := list(islice(source, _ROWS)):
        yield [dict(row, success_ci=[pair or (None, None) for pair in row["success_ci"]]) for row in some]


def _checked(row: Row, place: str) -> Row:
    """The row, if it has the columns that it should have; no column is left out silently."""
    missing, unknown = COLUMNS.keys() - row.keys(), row.keys() - COLUMNS.keys()
    if missing or unknown:
        problem, names = ("lacks", missing) if missing else ("has the unknown", unknown)
        raise UserError(f"{place}: a trajectory {problem} {', '.join(sorted(names))}; it is another version's")
    return row


def check_free(out: Path) -> None:
    """Raise UserError for an output directory that holds anything but an earlier export."""
    try:
        found = {str(p.relative_to(out)) for p in out.rglob("*") if not p.is_dir()} if out.exists() else set()
        blocked = out.exists() and not out.is_dir()
    except OSError as error:
        raise UserError(f"{out} cannot be used for the data set: {error.strerror}") from error
    if blocked or found not in (set(), {README, PARQUET}):
        raise UserError(f"{out} holds other files; choose an empty or new directory for the data set")
