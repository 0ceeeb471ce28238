"""Models, tokenizers and vocabularies loaded with transformers; every way it can go wrong is one sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel

from forkpoint.engines.gguf import gguf_file, gguf_options
from forkpoint.hub import check_hub
from forkpoint.lab import MODEL_DIR
from forkpoint.text import end_ids
from forkpoint.types import UserError

PICKLES = (
    "; weights in .bin files are refused on purpose, since a pickle may run any code: where you trust them, "
    "convert them once with AutoModelForCausalLM.from_pretrained(NAME).save_pretrained(DIRECTORY) of transformers"
)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A model's tokens without the model, under the names of `Engine`."""

    name: str
    tokenizer: Any
    ends: tuple[int, ...]
    vocab_size: int
    context: int | None
    commit: str | None = None

    @property
    def settings(self) -> Mapping[str, str | int | None]:
        """What else but the name decides which ids a text has."""
        return {"commit": self.commit, "tokens": len(self.tokenizer)}


def load_vocabulary(model: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Vocabulary:
    """The tokens of `lab`, a model directory or a Hub id; no weights are read. Raises UserError where they fail."""
    tokenizer = load_tokenizer(model, revision=revision, trust_remote_code=trust_remote_code)
    config = load_config(model, revision=revision, trust_remote_code=trust_remote_code)
    try:
        in_gguf = gguf_file(model) is not None  # whose configuration names the end
        generation = None if in_gguf else GenerationConfig.from_pretrained(source_of(model), revision=revision)
    except OSError:  # it has none
        generation = None
    except Exception as error:  # as many kinds as for a model
        raise UserError(f"no generation configuration could be read from {model}: {first_line(error)}") from error
    ends = end_ids(SimpleNamespace(config=config, generation_config=generation), tokenizer)
    text = config.get_text_config(decoder=True)
    context = getattr(text, "max_position_embeddings", None)
    return Vocabulary(model, tokenizer, ends, text.vocab_size, context, getattr(config, "_commit_hash", None))


def load_pretrained(
    name: str, *, device: str, dtype: str, revision: str | None, trust_remote_code: bool, **options: Any
) -> tuple[PreTrainedModel, Any]:
    """The model, on its device and in evaluation mode, and its tokenizer; `options` go to transformers as they are."""
    check_dtype(dtype)
    transformers.utils.logging.disable_progress_bar()
    options |= {"revision": revision, "trust_remote_code": trust_remote_code}
    tokenizer = load_tokenizer(name, revision=revision, trust_remote_code=trust_remote_code)
    model = _load(AutoModelForCausalLM, "model", name, dtype=dtype, use_safetensors=True, **options)
    if not getattr(model, "is_quantized", False):  # which stands where its quantisation put it
        model = place(model, name, device)
    return model.eval(), tokenizer


def load_config(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The configuration of `lab`, a model directory, a GGUF file or a Hub id; a UserError where there is none."""
    return _load(AutoConfig, "configuration", name, revision=revision, trust_remote_code=trust_remote_code)


def load_tokenizer(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The tokenizer of `lab`, a model directory, a GGUF file or a Hub id; a UserError where there is none."""
    return _load(AutoTokenizer, "tokenizer", name, revision=revision, trust_remote_code=trust_remote_code)


def _load(kind: Any, noun: str, name: str, **options: Any) -> Any:
    file = gguf_file(name)
    if file and options.get("quantization_config"):
        raise UserError(f"{name} is a GGUF file, whose weights are unpacked: convert it first (forkpoint convert)")
    if file:
        options |= gguf_options(file, weights=kind is AutoModelForCausalLM)
    source = str(file.parent) if file else source_of(name)
    try:
        return kind.from_pretrained(source, **options)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and others for the same cause
        hint = PICKLES if "safetensors" in str(error) else ""
        raise UserError(f"no {noun} could be loaded from {name}: {first_line(error)}{hint}") from error


def check_dtype(dtype: str) -> None:
    """UserError for a name that is no precision of torch's."""
    if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise UserError(f"dtype must be auto, float32, bfloat16 or float16, but is {dtype!r}")


def check_memory(memory_gib: float | None) -> int | None:
    """The bytes of a budget. UserError where it is not above 0."""
    if memory_gib is not None and memory_gib <= 0:
        raise UserError(f"memory_gib must be above 0, but is {memory_gib}")
    return None if memory_gib is None else int(memory_gib * 2**30)


def place(model: PreTrainedModel, name: str, device: str) -> PreTrainedModel:
    """The model on its device, `auto` for a GPU where there is one. UserError where it cannot be moved there."""
    target = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        return model.to(target)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(f"{name} could not be moved to device {target!r}: {first_line(error)}") from error


def source_of(name: str) -> str:
    """Where transformers finds a model. UserError for a file, and for an unreachable Hub id."""
    if gguf_file(name):
        raise UserError(f"{name} is a GGUF file, which is not read here: convert it first (forkpoint convert)")
    source = str(MODEL_DIR) if name == "lab" else name
    if (name.startswith((".", "/", "~")) or Path(source).exists()) and not Path(source).is_dir():
        raise UserError(f"{name} is not a model directory")
    if not Path(source).is_dir():
        check_hub(source, "model")
    return source


def first_line(error: Exception) -> str:
    """The end of a sentence from an error: its first line, with the next where that is a heading."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1]).rstrip(".")


@contextmanager
def output_into(path: Path | str) -> Iterator[None]:
    """This process' stdout and stderr appended to a file; those of the processes started meanwhile for good."""

    def redirect(numbers: list[int]) -> None:
        for stream, number, place in zip((sys.stdout, sys.stderr), numbers, (1, 2), strict=True):
            stream.flush()
            os.dup2(number, place)

    kept = [os.dup(number) for number in (1, 2)]
    with open(path, "ab") as file:
        redirect([file.fileno(), file.fileno()])
    try:
        yield
    finally:
        redirect(kept)
        for number in kept:
            os.close(number)
