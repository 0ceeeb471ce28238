"""Loading a model and its tokenizer with transformers; every way it can go wrong is one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from forkpoint.hub import check_hub
from forkpoint.lab import MODEL_DIR
from forkpoint.types import UserError


def load_pretrained(
    name: str,
    *,
    device: str,
    dtype: str,
    attn_implementation: str | None,
    revision: str | None,
    trust_remote_code: bool,
    quantization_config: Any = None,
) -> tuple[PreTrainedModel, Any]:
    """The model, on its device and in evaluation mode, and its tokenizer; `lab` names the embedded one."""
    source = source_of(name)
    check_dtype(dtype)
    transformers.utils.logging.disable_progress_bar()
    common = {"revision": revision, "trust_remote_code": trust_remote_code}
    tokenizer = load_tokenizer(name, revision=revision, trust_remote_code=trust_remote_code)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, attn_implementation=attn_implementation, use_safetensors=True,
            quantization_config=quantization_config, **common,
        )  # fmt: skip
    except Exception as error:
        raise UserError(f"no model could be loaded from {name}: {first_line(error)}{_about_pickles(error)}") from error
    if getattr(model, "is_quantized", False):  # stands where its quantisation put it
        return model.eval(), tokenizer
    return place(model, name, device).eval(), tokenizer


def _about_pickles(error: Exception) -> str:
    """Why weights in .bin files are not looked at, where there are no others."""
    if "safetensors" not in str(error):
        return ""
    return (
        "; weights in .bin files are refused on purpose, since a pickle may run any code: where you trust them, "
        "convert them once with AutoModelForCausalLM.from_pretrained(NAME).save_pretrained(DIRECTORY) of transformers"
    )


def check_dtype(dtype: str) -> None:
    """UserError for a name that is no precision of torch's."""
    if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise UserError(f"dtype must be auto, float32, bfloat16 or float16, but is {dtype!r}")


def place(model: PreTrainedModel, name: str, device: str) -> PreTrainedModel:
    """The model on its device, `auto` for a GPU where there is one. UserError where it cannot be moved there."""
    target = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        return model.to(target)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(f"{name} could not be moved to device {target!r}: {first_line(error)}") from error


def load_config(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The configuration of `lab`, a model directory or a Hub id; a UserError where there is none."""
    try:
        return AutoConfig.from_pretrained(source_of(name), revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:  # as many kinds as for a model
        raise UserError(f"no configuration could be loaded from {name}: {first_line(error)}") from error


def load_tokenizer(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The tokenizer of `lab`, a model directory or a Hub id; a UserError where there is none."""
    source = source_of(name)
    try:
        return AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and others for the same cause
        raise UserError(f"no tokenizer could be loaded from {name}: {first_line(error)}") from error


def source_of(name: str) -> str:
    """Where transformers finds the model of that name; a UserError for a path that is no directory, and for a Hub id
    of which nothing is kept here while the Hub cannot be reached."""
    source = str(MODEL_DIR) if name == "lab" else name
    if (name.startswith((".", "/", "~")) or Path(source).exists()) and not Path(source).is_dir():
        raise UserError(f"{name} is not a model directory")
    if not Path(source).is_dir():
        check_hub(source, "model")
    return source


def first_line(error: Exception) -> str:
    """What an error says, as the end of a sentence: its first line, with the next where that is a heading."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1]).rstrip(".")
