"""Processes that kill themselves at a moment, forked from one that has imported everything."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path


def contents(out: Path) -> dict[str, bytes]:
    """The files of a run, hidden ones aside; where they name their own directory it is left out."""
    files = {str(path.relative_to(out)): path for path in sorted(out.rglob("[!.]*")) if path.is_file()}
    return {name: path.read_bytes().replace(str(out).encode(), b"OUT") for name, path in files.items()}


def started(work) -> int:
    """The number of a forked process that does the work and ends with the exit code that it returns."""
    child = os.fork()
    if child:
        return child
    try:
        code = work() or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    os._exit(code)


def exit_code(child: int) -> int:
    """That of a process; -9 for one that was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_step(number: str) -> None:
    """After a step of the optimizer, before anything is kept of it."""
    import transformers.trainer_callback as callbacks

    go_on = callbacks.CallbackHandler.on_step_end
    callbacks.CallbackHandler.on_step_end = lambda self, args, state, control: (
        die() if state.global_step == int(number) else go_on(self, args, state, control)
    )


def die_at_checkpoint(step: str) -> None:
    """Amid the file that a checkpoint ends with."""
    import transformers.trainer_callback as callbacks

    save = callbacks.TrainerState.save_to_json

    def torn(self, path):
        if self.global_step != int(step):
            return save(self, path)
        Path(path).write_text('{"epoch": 1.')
        die()

    callbacks.TrainerState.save_to_json = torn


def die_at_entry(number: str) -> None:
    """Amid the n-th entry that this process adds to a journal."""
    from forkpoint.files import Journal

    append, entries = Journal.append, []

    def torn(journal, entry):
        entries.append(entry)
        if len(entries) < int(number):
            return append(journal, entry)
        with journal.path.open("a") as file:
            file.write(json.dumps(entry)[:50])
        die()

    Journal.append = torn


def die_at_file(name: str) -> None:
    """When a file or a directory is whole, but not in its place yet."""
    replace = os.replace
    os.replace = lambda source, target: die() if str(target).endswith(f"/{name}") else replace(source, target)


MOMENTS = {"step": die_at_step, "checkpoint": die_at_checkpoint, "entry": die_at_entry, "file": die_at_file}
