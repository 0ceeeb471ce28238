"""The process that compares mathematical answers with math-verify: JSON lines in, JSON lines out.

Started by `forkpoint.tasks.workers` as ``python -m forkpoint.tasks.grading_worker``, and killed by it at the
deadline. Writes {"ready": true} when it can take requests, then for each {"gold", "answer", "seconds"} one
{"same"} or {"error"}. It limits its own memory, and should its parent be gone while algebra runs on, it ends
itself.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import os
import sys
from typing import TextIO

MEMORY_BYTES = 4 << 30
GRACE_SECONDS = 10.0
"""How long after its deadline a worker that nobody killed ends by itself."""


def main() -> None:
    """Serve requests until standard input closes."""
    answers, nowhere = _take_stdout()
    _limit_memory()
    logging.disable(logging.CRITICAL)
    from forkpoint.tasks.equivalence import equivalent

    equivalent(r"\frac{1}{2}", "x+1")  # everything loaded and built before the first deadline runs
    _write(answers, {"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        faulthandler.dump_traceback_later(request["seconds"] + GRACE_SECONDS, exit=True, file=nowhere)
        try:
            reply: dict[str, object] = {"same": equivalent(request["gold"], request["answer"])}
        except Exception as error:
            reply = {"error": f"{type(error).__name__} while comparing"}
        faulthandler.cancel_dump_traceback_later()
        _write(answers, reply)


def _take_stdout() -> tuple[TextIO, TextIO]:
    """Standard output for our answers alone: what libraries print goes nowhere."""
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    nowhere = open(os.devnull, "w")  # noqa: SIM115 (open as long as the process)
    os.dup2(nowhere.fileno(), 1)
    return answers, nowhere


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def _write(answers: TextIO, reply: dict[str, object]) -> None:
    answers.write(json.dumps(reply) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
