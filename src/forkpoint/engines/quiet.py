"""What libraries and the processes that they start print, sent elsewhere: it is not for the user of a command."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def output_into(path: Path | str) -> Iterator[None]:
    """This process' stdout and stderr appended to a file; those of the processes started meanwhile for good."""
    kept = [os.dup(number) for number in (1, 2)]
    with open(path, "ab") as file:
        _swap([file.fileno(), file.fileno()])
    try:
        yield
    finally:
        _swap(kept)
        for number in kept:
            os.close(number)


def _swap(numbers: list[int]) -> None:
    for stream, number, place in zip((sys.stdout, sys.stderr), numbers, (1, 2), strict=True):
        stream.flush()
        os.dup2(number, place)
