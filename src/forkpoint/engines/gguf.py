"""Models stored as GGUF, the format of llama.cpp: where the file is, and what transformers needs to read it."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from forkpoint.types import UserError

NEEDED = ("gguf", "accelerate")
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


def gguf_file(name: str) -> Path | None:
    """The file of a model named FILE.gguf, or of a directory that holds one and no other model; None for all else.

    Raises UserError where it cannot be read: a package is missing, a directory holds several, or a file is one part.
    """
    path = Path(name).expanduser()
    if path.is_dir() and not (path / "config.json").exists():
        files = sorted(path.glob("*.gguf"))
        if len(files) > 1:
            raise UserError(f"{name} holds {len(files)} GGUF files; name one of them, such as {files[0]}")
        path = files[0] if files else path
    if path.suffix != ".gguf" or path.is_dir():
        return None
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    if _PART.search(path.name):
        raise UserError(f"{path} is one part of a model; join the parts first, with llama-gguf-split --merge")
    if missing := [package for package in NEEDED if find_spec(package) is None]:
        raise UserError(f'reading {path} needs {" and ".join(missing)}: pip install "forkpoint[gguf]"')
    return path


def gguf_options(file: Path, *, weights: bool) -> dict[str, Any]:
    """What `from_pretrained` of the file's directory takes to read it, with the weights unpacked to plain numbers."""
    from transformers import GgufConfig

    return {"gguf_file": file.name} | ({"quantization_config": GgufConfig(dequantize=True)} if weights else {})
