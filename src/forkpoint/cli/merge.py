"""`forkpoint merge`: adapters added to the weights of their base."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from forkpoint.cli.options import parse
from forkpoint.types import UserError


@dataclass(frozen=True)
class MergeOptions:
    """Write the whole model that an adapter and its base make together: forkpoint merge ADAPTER DIR."""

    adapter: Path | None = None
    """the adapter's directory, such as model/ of `forkpoint train ... --lora-rank`"""
    out: Path | None = None
    """directory of the whole model"""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, ...; auto takes a GPU where there is one"""
    dtype: str = "auto"
    """auto (as the base is stored), float32, bfloat16 or float16"""
    trust_remote_code: bool = False
    """run model code that the Hub repository brings along"""


OPTIONS = MergeOptions  # a recipe checks its stages against it


def parse_options(argv: list[str]) -> MergeOptions:
    """The options; the first two words may be the adapter and the directory. UserError where one is missing."""
    words = list(argv)
    for i, name in enumerate(("adapter", "out")):
        if len(words) <= i or words[i].startswith("-"):
            break
        words[i] = f"--{name}={words[i]}"
    options = parse("merge", MergeOptions, words)
    if options.adapter is None or options.out is None:
        raise UserError("merge needs an adapter and a directory for the model: forkpoint merge ADAPTER DIR")
    return options


def run(argv: list[str]) -> None:
    """Parse the arguments, merge, print where the model is."""
    options = parse_options(argv)
    from forkpoint.training.models import merge

    assert options.out is not None
    settings = {
        "name": str(options.adapter), "device": options.device, "dtype": options.dtype, "attn_implementation": None,
        "revision": None, "trust_remote_code": options.trust_remote_code,
    }  # fmt: skip
    merge(settings, options.out)
    print(options.out)
