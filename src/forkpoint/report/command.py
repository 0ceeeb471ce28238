"""The command that made a run and the versions it ran with, kept beside the run in command.json."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from forkpoint.files import to_json, write_whole
from forkpoint.redaction import without_secrets

COMMAND = "command.json"
PACKAGES = (
    "forkpoint", "torch", "transformers", "datasets", "numpy", "accelerate", "peft", "trl", "vllm", "ray", "openai",
    "lm_eval",
)  # fmt: skip


def keep_command(out: Path, arguments: Sequence[str]) -> None:
    """Write command.json, unless the run has one from before: `arguments` follow the word forkpoint."""
    if (out / COMMAND).is_file():
        return
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    text = without_secrets(shlex.join(["forkpoint", *arguments]))
    write_whole(out / COMMAND, to_json({"command": text, "versions": versions}, indent=2) + "\n")
