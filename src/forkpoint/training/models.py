"""A model to be trained: loaded, given adapters, and saved where other libraries find it."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

from forkpoint.engines.loading import check_dtype, first_line, load_config, load_pretrained, load_tokenizer, place
from forkpoint.files import read_json, readable, to_json, write_whole
from forkpoint.training.adapters import MAMBAS, check_modules, linear_layers, require_training, settle_config
from forkpoint.training.processes import TIMEOUT, is_sharded, join
from forkpoint.types import UserError

MODEL = "model"  # the directory of a run's result
ADAPTER = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class Lora:
    """Low-rank adapters in place of training all weights. `modules`: names of linear layers; none are all but the head.

    With `merge` the result is a whole model, with the adapters added to its weights. `start` is the directory of
    adapters that are trained on, as `lora_in` reads it; else they are new.
    """

    rank: int
    alpha: float = 32.0
    modules: tuple[str, ...] = ()
    merge: bool = False
    dropout: float = 0.0
    start: str | None = None


def load_trainable(
    settings: Mapping[str, Any], timeout: int = TIMEOUT, *, four_bit: bool = False
) -> tuple[PreTrainedModel, Any]:
    """A model that is to be trained, and its tokenizer; `settings` are those of `load_pretrained`.

    The name of a directory with adapters gives a PEFT model: its base with these adapters, ready to be trained on. With
    `four_bit` the base's linear layers are kept in four bits (NF4, arXiv 2305.14314). Of several processes each gets
    its own device; one that waits for another longer than `timeout` seconds gives up.

    Raises UserError for missing libraries, and for adapters that do not fit their base.
    """
    require_training()
    join(settings["device"], timeout)
    name = settings["name"]
    model, tokenizer = load_pretrained(
        **base_settings(settings), quantization_config=_four_bits() if four_bit else None
    )
    if is_adapter(name):
        return with_adapters(model, name), tokenizer_of(settings)
    if getattr(model, "_hf_peft_config_loaded", False):
        raise UserError(f"{name} holds an adapter; download it, and name its directory")
    return model, tokenizer


def is_adapter(name: str) -> bool:
    """Whether the name is that of a directory that holds adapters alone."""
    return (Path(name) / ADAPTER).exists()


def base_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `load_pretrained` with the name of the base in place of that of a directory with adapters."""
    if not is_adapter(settings["name"]):
        return dict(settings)
    config = read_json(Path(settings["name"]) / ADAPTER)
    if not isinstance(base := config.get("base_model_name_or_path"), str):
        raise UserError(f"{settings['name']}/{ADAPTER} does not name the model that the adapter belongs to")
    return {**settings, "name": base, "revision": config.get("revision")}


def with_adapters(model: PreTrainedModel, directory: str, *, trainable: bool = True) -> Any:
    """The model with the adapters of a directory on it. UserError where they do not fit, or are no safetensors."""
    from peft import PeftModel

    if not (Path(directory) / "adapter_model.safetensors").exists():
        raise UserError(f"{directory} holds no adapter_model.safetensors; other files of weights are not read")
    try:
        return PeftModel.from_pretrained(model, directory, is_trainable=trainable)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise UserError(f"the adapter in {directory} does not fit its base: {first_line(error)}") from error


def tokenizer_of(settings: Mapping[str, Any]) -> Any:
    """The tokenizer of a model, of `load_pretrained`'s settings; of adapters the one beside them, or their base's."""
    has_own = (Path(settings["name"]) / "tokenizer_config.json").exists()
    chosen = settings if has_own else base_settings(settings)
    return load_tokenizer(chosen["name"], revision=chosen["revision"], trust_remote_code=chosen["trust_remote_code"])


def lora_in(directory: str, merge: bool) -> Lora:
    """The adapters in a directory, to be trained on. UserError where they are of another kind than LoRA."""
    config = read_json(Path(directory) / ADAPTER)
    if config.get("peft_type") != "LORA":
        raise UserError(
            f"{directory} holds an adapter of kind {config.get('peft_type')!r}, but only LoRA is trained on"
        )
    modules = config.get("target_modules") or ()
    return Lora(
        config["r"], config["lora_alpha"], tuple([modules] if isinstance(modules, str) else sorted(modules)), merge,
        config.get("lora_dropout", 0.0), directory,
    )  # fmt: skip


def _four_bits() -> Any:
    if find_spec("bitsandbytes") is None:
        raise UserError("--load_in_4bit needs the package bitsandbytes: pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip


def load_untrained(settings: Mapping[str, Any], seed: int, timeout: int = TIMEOUT) -> tuple[PreTrainedModel, Any]:
    """A model with new weights, drawn from the seed, for the configuration of another one, and its tokenizer.

    `settings` and `timeout` are those of `load_trainable`; the weights are float32 where dtype is "auto".
    """
    require_training()
    join(settings["device"], timeout)
    check_dtype(settings["dtype"])
    transformers.utils.logging.disable_progress_bar()
    common = {name: settings[name] for name in ("revision", "trust_remote_code")}
    tokenizer = load_tokenizer(settings["name"], **common)
    dtype = torch.float32 if settings["dtype"] == "auto" else getattr(torch, settings["dtype"])
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(
        load_config(settings["name"], **common), dtype=dtype, attn_implementation=settings["attn_implementation"],
        trust_remote_code=settings["trust_remote_code"],
    )  # fmt: skip
    return place(model, settings["name"], settings["device"]).eval(), tokenizer


def check_trainable(model: PreTrainedModel, lora: Lora | None) -> None:
    """UserError where the model cannot be trained so."""
    if lora is None:
        if getattr(model, "is_quantized", False):
            raise UserError("quantised weights cannot be trained themselves; train adapters on them (--lora_r 16)")
        return
    if model.dtype == torch.float16:
        raise UserError("float16 loses small gradients of adapters; load the model with --dtype float32 or bfloat16")
    if is_sharded():
        raise UserError("adapters are trained with the whole model in each process, not under FSDP")
    if lora.rank < 1 or not 0 < lora.alpha < math.inf:
        raise UserError(f"the rank and alpha of adapters must be above 0, but are {lora.rank} and {lora.alpha}")
    if not 0 <= lora.dropout < 1:
        raise UserError(f"lora_dropout must be at least 0 and below 1, but is {lora.dropout}")
    if lora.merge and getattr(model, "is_quantized", False):
        raise UserError("weights in four bits are too coarse to merge into; merge afterwards with `forkpoint merge`")
    if lora.start is None:
        check_modules(model, lora.modules)


def in_float32(model: PreTrainedModel, lora: Lora | None) -> str:
    """Make weights in half precision that are trained float32; returns the name of the precision that they came in.

    A step of an optimizer is often smaller than half a unit in the last place of a weight in bfloat16, and lost in it.
    The base of adapters stays as it is, and they are float32 themselves.
    """
    came_in = str(model.dtype).removeprefix("torch.")
    if lora is None and model.dtype in (torch.bfloat16, torch.float16):
        model.float()
    return came_in


def _targets(model: PreTrainedModel, modules: Sequence[str]) -> str | list[str]:
    """What PEFT takes for the layers that get adapters; without `modules` all linear ones but the head."""
    if modules or model.config.model_type not in MAMBAS:
        return list(modules) or "all-linear"
    return sorted({path[-1] for path in linear_layers(model).values()})


def adapted(model: PreTrainedModel, lora: Lora | None, seed: int) -> Any:
    """The model with new adapters on it, drawn from the seed; without `lora`, or with adapters to train on, itself."""
    from peft import LoraConfig, get_peft_model

    if lora is None or lora.start is not None:
        return model
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=_targets(model, lora.modules),
        task_type="CAUSAL_LM",
    )  # fmt: skip
    torch.manual_seed(seed)
    return get_peft_model(model, config)


def save_trained(
    model: Any,
    tokenizer: Any,
    lora: Lora | None,
    card: str,
    out: Path,
    weights: Mapping[str, torch.Tensor] | None = None,
    dtype: str | None = None,
) -> None:
    """The model or its adapters, as safetensors, with tokenizer and card, in a directory that appears as a whole.

    `weights` are those of a model that holds only a part of them itself. A whole model is saved in the precision
    `dtype`, without one in its own; adapters stay in theirs.
    """
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    whole = model.merge_and_unload() if lora and lora.merge else model
    if dtype not in (None, str(whole.dtype).removeprefix("torch.")) and not hasattr(whole, "peft_config"):
        tensors = whole.state_dict() if weights is None else weights
        weights = {
            name: tensor.to(getattr(torch, str(dtype))) if tensor.is_floating_point() else tensor
            for name, tensor in tensors.items()
            if name not in whole.all_tied_weights_keys
        }
    whole.save_pretrained(partial, state_dict=weights)
    tokenizer.save_pretrained(partial)
    write_whole(partial / "README.md", card)
    settle_config(partial)
    if dtype is not None:
        _state_dtype(partial / "config.json", dtype)
    for file in partial.iterdir():
        readable(file)
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    shutil.rmtree(out, ignore_errors=True)
    os.replace(partial, out)


def _state_dtype(path: Path, dtype: str) -> None:
    """Say in a model's configuration what its weights are saved in; of adapters there is none."""
    if path.exists():
        config = read_json(path)
        write_whole(path, to_json(config | {"dtype": dtype}, indent=2) + "\n")
