"""Files that are written whole or not at all, the journal of a long run, and the claim on an output directory."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from forkpoint.redaction import public
from forkpoint.types import Results, UserError

CONFIG, JOURNAL = "config.json", "journal.jsonl"  # of every run
SAMPLES, CRITICAL, SCORES = "samples.jsonl", "critical.jsonl", "scores.jsonl"
REPLACEMENT, SUMMARY, RESULTS = "replacement.jsonl", "summary.json", "results.json"


def write_whole(path: Path, chunks: str | Iterator[str]) -> None:
    """Write a text file so that readers, and a crash at any moment, see either the old file or all of the new one."""
    with whole_file(path) as file:
        for chunk in [chunks] if isinstance(chunks, str) else chunks:
            file.write(chunk.encode())


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON Lines, whole or not at all."""
    write_whole(path, (to_json(row) + "\n" for row in rows))


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that takes the place of `path` when the context ends without an exception, and not before."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        readable(Path(temporary))
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def whole_directory(out: Path) -> Iterator[Path]:
    """A directory to fill, which takes the place of `out` when all in it is on disk."""
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    yield partial
    for file in partial.iterdir():
        readable(file)
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    shutil.rmtree(out, ignore_errors=True)
    os.replace(partial, out)


def empty_directory(out: Path) -> Path:
    """`out`, made and with a name of its own, for `whole_directory`. UserError where it holds anything."""
    out = out.resolve()
    writable(out)
    if any(out.iterdir()):
        raise UserError(f"{out} holds files already; choose an empty or new directory")
    return out


def readable(path: Path) -> None:
    """Give a file the permissions that a new one has."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def _sync_directory(path: Path) -> None:
    """Make a rename in the directory outlast a power cut, where the system lets directories be synced."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def only_process(out: Path) -> Iterator[None]:
    """Hold a directory's lock, which a killed process lets go of. UserError while another process holds it."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(out / ".lock", timeout=0):
            yield
    except Timeout:
        raise UserError(f"another process is working in {out}") from None


def to_json(value: Any, *, indent: int | None = None) -> str:
    """JSON text; the same value always gives the same text, and NaN is refused."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)


def fingerprint(values: Sequence[Any]) -> str:
    """The number of values and a hash of them, so that a run is not resumed on others."""
    digest = hashlib.blake2b(to_json(values).encode(), digest_size=8).hexdigest()
    return f"{len(values)} (contents {digest})"


@contextmanager
def claimed(out: Path, config: dict[str, Any]) -> Iterator[None]:
    """Hold `out` as the directory of this configuration's run; it is made where it is missing.

    A run that fails before it has made a file leaves the directory free. Raises UserError while another process holds
    it, naming the first setting that differs where another configuration's run is there, and where the directory holds
    files but no run, or cannot be made.
    """
    writable(out)
    refuse_foreign(out)
    with only_process(out):
        claim_directory(out, config)
        try:
            yield
        except BaseException:
            _release(out)
            raise


def resumed(out: Path, config: dict[str, Any], name: str, work: Callable[[Journal], dict[str, Any]]) -> Results:
    """The content of `out`/`name`, which `work` makes unless a run before this one did; see `claimed`.

    `work` gets the journal, which a killed run leaves and a finished one does not.
    """
    with claimed(out, config):
        if not (out / name).exists():
            write_whole(out / name, to_json(work(Journal(out / JOURNAL)), indent=2) + "\n")
        (out / JOURNAL).unlink(missing_ok=True)
    return Results(read_json(out / name))


def _release(out: Path) -> None:
    """Let go of a directory where nothing but the claim, and empty directories, was made."""
    made = [path for path in out.iterdir() if not path.name.startswith(".") and path.name != CONFIG]
    is_directories = all(path.is_dir() and not path.is_symlink() for path in made)
    if is_directories and not any(path.is_file() for top in made for path in top.rglob("*")):
        for path in made:
            shutil.rmtree(path, ignore_errors=True)
        (out / CONFIG).unlink(missing_ok=True)


def claim_directory(out: Path, config: dict[str, Any]) -> None:
    """Make a directory that can be written in this configuration's, or check that it is: see `claimed`."""
    stored, now = out / CONFIG, public(json.loads(to_json(config)))
    if not stored.exists():
        write_whole(stored, to_json(now, indent=2) + "\n")
    elif difference := _difference(public(read_json(stored)), now):
        key, was, is_now = difference
        raise UserError(
            f"{out} holds a run with another configuration: {key} was {was!r}, now {is_now!r}; "
            "choose another directory with --out, or remove this one"
        )


def writable(out: Path) -> None:
    """Make the directory, if need be. UserError where that cannot be done, or nothing can be written in it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise UserError(f"the output directory {out} cannot be used: {error.strerror}") from error


def refuse_foreign(out: Path) -> None:
    """UserError where a directory holds files, hidden ones aside, but no run."""
    if out.is_dir() and not (out / CONFIG).exists() and any(p for p in out.iterdir() if not p.name.startswith(".")):
        raise UserError(f"{out} holds files but no run of forkpoint; choose an empty or new directory with --out")


def _difference(before: dict[str, Any], now: dict[str, Any]) -> tuple[str, Any, Any] | None:
    """The first setting that differs, by its name and those of the settings that it is in, and its two values."""
    for key in sorted(before.keys() | now.keys(), key=lambda key: (key != "verb", key)):
        was, is_now = before.get(key), now.get(key)
        if isinstance(was, dict) and isinstance(is_now, dict):
            if inner := _difference(was, is_now):
                return f"{key}.{inner[0]}", *inner[1:]
        elif was != is_now:
            return key, was, is_now
    return None


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises UserError where it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error


class Journal:
    """Finished units of work, one JSON line each, kept on disk as they come (in memory without a path).

    A line that a crash cut short is dropped when the journal is opened again.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._memory: list[str] = []
        if path is not None and path.exists():
            with path.open("rb+") as file:
                file.truncate(sum(len(line) for line in file if line.endswith(b"\n")))

    def append(self, entry: dict[str, Any]) -> None:
        """Record a unit; it is on disk when this returns."""
        line = to_json(entry) + "\n"
        if self.path is None:
            self._memory.append(line)
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self.path is None:
            yield from map(json.loads, self._memory)
        elif self.path.exists():
            with self.path.open(encoding="utf-8") as file:
                yield from map(json.loads, file)
