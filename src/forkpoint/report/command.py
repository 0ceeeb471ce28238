"""The command that made a run and the versions it ran with, kept beside the run in command.json."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from forkpoint.files import read_json, to_json, write_whole
from forkpoint.redaction import without_secrets

FILE = "command.json"
PACKAGES = (
    "forkpoint", "torch", "transformers", "datasets", "numpy", "accelerate", "peft", "trl", "vllm", "ray", "openai",
    "lm_eval",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Command:
    """A command as one types it, and versions by the name of what they are of."""

    text: str
    versions: dict[str, str]


def keep_command(out: Path, arguments: Sequence[str]) -> None:
    """Write command.json, unless the run has one from before: `arguments` follow the word forkpoint."""
    if (out / FILE).is_file():
        return
    versions = {"python": platform.python_version(), **{name: found for name in PACKAGES if (found := _version(name))}}
    text = without_secrets(shlex.join(["forkpoint", *arguments]))
    write_whole(out / FILE, to_json({"command": text, "versions": versions}, indent=2) + "\n")


def command_of(run: Path) -> Command | None:
    """What `keep_command` wrote; None where the run was not made by a command."""
    if not (run / FILE).is_file():
        return None
    kept = read_json(run / FILE)
    return Command(str(kept["command"]), {str(name): str(value) for name, value in kept["versions"].items()})


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
