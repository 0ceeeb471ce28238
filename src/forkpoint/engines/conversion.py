"""A GGUF file written out once as the directory that transformers, vLLM and the trainers read fast."""

from __future__ import annotations

from pathlib import Path

from forkpoint.engines.gguf import gguf_file
from forkpoint.engines.loading import load_pretrained
from forkpoint.files import empty_directory, whole_directory
from forkpoint.types import UserError


def convert(model: str, out: Path, dtype: str = "auto") -> None:
    """Write config, weights (safetensors), tokenizer with chat template and generation config of a GGUF model.

    `model` is the file, or a directory with one. `dtype` is the precision of the weights, `auto` float32: quantised
    weights are unpacked. The directory appears as a whole. Raises UserError for anything else than a GGUF file, for one
    that cannot be read, and for an `out` that holds files.
    """
    if not gguf_file(model):
        raise UserError(f"{model} is no GGUF file, and no directory with one")
    out = empty_directory(out)
    weights, tokenizer = load_pretrained(model, device="cpu", dtype=dtype, revision=None, trust_remote_code=False)
    with whole_directory(out) as partial:
        weights.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
