"""A finished run as a data set: typed Parquet with a dataset card, as the Hugging Face Hub has it.

`datasets.load_dataset(DIRECTORY)` reads it from disk. The card's text is `label_card.md.j2`.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from forkpoint.files import CRITICAL, SUMMARY, read_json, whole_file, write_whole
from forkpoint.tasks.data_sets import read_rows
from forkpoint.types import UserError

Row = Mapping[str, Any]
README, PARQUET = "README.md", "data/train-00000-of-00001.parquet"
ROWS = 500  # in memory, and in a row group of the file

COLUMNS: Mapping[str, Any] = {
    "id": "string", "problem_id": "string", "question": "string", "prompt_ids": ["int64"], "token_ids": ["int64"],
    "tokens": ["string"], "answer": "string", "gold": "string", "correct": "bool", "finish_reason": "string",
    "cause": "string", "success": ["float64"], "success_ci": [("float64", "float64")], "success_bias": ["float64"],
    "status": "string", "critical_index": "int64", "alternatives": [{
        "position": "int64", "token_id": "int64", "token": "string", "policy_prob": "float64", "success": "float64",
        "n": "int64",
    }], "rollouts": "int64", "tokens_generated": "int64", "brute_force_tokens": "int64", "policy_prob": ["float64"],
    "entropy": ["float64"], "gap": ["float64"], "logprob": ["float64"],
}  # fmt: skip
"""A column's type: a `datasets` dtype, [type] for a list, (type, ...) for a list of that length, or {name: type}; any
value may be null. `label_card.md.j2` says what each column means."""

_STATISTICS = (
    "n_trajectories", "n_wrong", "statuses", "share_critical", "share_critical_ci95", "critical_position",
    "token_kinds", "rollouts", "tokens_generated", "brute_force_tokens",
)  # fmt: skip


def export_run(run: Path, out: Path) -> int:
    """Write a finished run's trajectories as a data set in `out`; returns their number.

    `out` is written whole or not at all, and may be new, empty, or an earlier export, which is replaced. UserError for
    a run that is not finished, a broken line, and an `out` that holds anything else.
    """
    for name in (CRITICAL, SUMMARY):
        if not (run / name).is_file():
            raise UserError(f"{run} holds no finished run of forkpoint critical: it has no {name}")
    check_free(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        workshop = tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.", ignore_cleanup_errors=True)
    except OSError as error:
        raise UserError(f"the data set cannot be written beside {out}: {error.strerror}") from error
    with workshop as directory:
        made = Path(directory, "made")
        (made / PARQUET).parent.mkdir(parents=True)
        n = _write_parquet(made / PARQUET, (_checked(row, place) for place, row in read_rows(run / CRITICAL)))
        if not n:
            raise UserError("there are no labelled trajectories to make a data set of")
        write_whole(made / README, card(read_json(run / SUMMARY), n))
        if out.exists():
            out.rename(Path(directory, "before"))
        made.rename(out)
    return n


def check_free(out: Path) -> None:
    """UserError for an output directory that holds anything but an earlier export."""
    try:
        files = {str(p.relative_to(out)) for p in (out, *out.rglob("*")) if os.path.lexists(p) and not p.is_dir()}
    except OSError as error:
        raise UserError(f"{out} cannot be used for the data set: {error.strerror}") from error
    if files not in (set(), {README, PARQUET}):
        raise UserError(f"{out} holds other files; choose an empty or new directory for the data set")


def push_to_hub(directory: Path, repo_id: str, *, private: bool = False) -> str:
    """Upload an exported data set to the Hugging Face Hub, with its usual token; returns its address."""
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


def features() -> Any:
    """The columns' types, as `datasets.Features`; a list of pairs is one of fixed-size lists."""
    from datasets import Features, Sequence, Value

    def feature(kind: Any) -> Any:
        if isinstance(kind, dict):
            return {name: feature(part) for name, part in kind.items()}
        if isinstance(kind, tuple):
            return Sequence(feature(kind[0]), length=len(kind))
        return Value(kind) if isinstance(kind, str) else [feature(kind[0])]

    return Features({name: feature(kind) for name, kind in COLUMNS.items()})


def _type_name(kind: Any) -> str:
    """A column's type in the card."""
    if isinstance(kind, list):
        return f"list of {_type_name(kind[0])}"
    return str(kind).translate(str.maketrans("()", "[]", "'"))


def _write_parquet(path: Path, rows: Iterator[Row]) -> int:
    import pyarrow as pa
    from pyarrow import parquet

    schema, n = features().arrow_schema, 0
    with whole_file(path) as file, parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while batch := list(islice(rows, ROWS)):
            table = [dict(row, success_ci=[pair or (None, None) for pair in row["success_ci"]]) for row in batch]
            try:
                writer.write_table(pa.Table.from_pylist(table, schema=schema))
            except pa.ArrowException as error:
                where = f"trajectories {n + 1} to {n + len(batch)}"
                raise UserError(f"a value of {where} has another type than its column: {error}") from error
            n += len(batch)
    return n


def _checked(row: Row, place: str) -> Row:
    """The row, if it has the columns that it should have; no column is left out silently."""
    missing, unknown = COLUMNS.keys() - row.keys(), row.keys() - COLUMNS.keys()
    if missing or unknown:
        problem, names = ("lacks", missing) if missing else ("has the unknown", unknown)
        raise UserError(f"{place}: a trajectory {problem} {', '.join(sorted(names))}; it is another version's")
    return row


def card(summary: Mapping[str, Any], n: int) -> str:
    """The README.md of a data set of n trajectories: YAML front matter that the Hub reads, then text."""
    from huggingface_hub import DatasetCardData
    from jinja2 import Template

    model, task = (str(summary.get(key, "unknown")) for key in ("model", "task"))
    title = f"Critical tokens of {model} on {task}"
    sizes = [(10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M")]
    data = DatasetCardData(
        pretty_name=title,
        license="other",
        license_name="unknown",
        task_categories=["text-generation"],
        size_categories=next((name for limit, name in sizes if n < limit), "n>1M"),
        tags=["reasoning", "critical-tokens", "token-level", "forkpoint", "arxiv:2411.19943"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
    )
    text = Path(__file__).with_name("label_card.md.j2").read_text(encoding="utf-8")
    readme: str = Template(text, keep_trailing_newline=True).render(
        front_matter=data.to_yaml(), title=title, n=n, model=model, task=task, summary=summary,
        types={name: _type_name(kind) for name, kind in COLUMNS.items()},
        sampling=json.dumps(summary.get("sampling"), indent=2, ensure_ascii=False),
        statistics=json.dumps({key: summary.get(key) for key in _STATISTICS}, indent=2, ensure_ascii=False),
    )  # fmt: skip
    return readme
