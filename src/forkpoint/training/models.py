"""A model to be trained: loaded, given adapters, and saved where other libraries find it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

from forkpoint.engines.loading import check_dtype, load_config, load_pretrained, load_tokenizer, place
from forkpoint.files import readable, write_whole
from forkpoint.training.adapters import check_modules, require_training, sort_modules
from forkpoint.training.processes import TIMEOUT, is_sharded, join
from forkpoint.types import UserError

MODEL = "model"  # the directory of a run's result


@dataclass(frozen=True, slots=True)
class Lora:
    """Low-rank adapters in place of training all weights. `modules`: names of linear layers; none are all but the head.

    With `merge` the result is a whole model, with the adapters added to its weights.
    """

    rank: int
    alpha: float = 32.0
    modules: tuple[str, ...] = ()
    merge: bool = False


def load_trainable(settings: Mapping[str, Any], timeout: int = TIMEOUT) -> tuple[PreTrainedModel, Any]:
    """A model that is to be trained, and its tokenizer; `settings` are those of `load_pretrained`.

    Of several processes each gets its own device; one that waits for another longer than `timeout` seconds gives up.

    Raises UserError for missing libraries and for a directory that holds adapters alone.
    """
    require_training()
    if (Path(settings["name"]) / "adapter_config.json").exists():
        raise UserError(f"{settings['name']} holds an adapter; train on from a model that has it merged (--merge)")
    join(settings["device"], timeout)
    return load_pretrained(**settings)


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
    if model.dtype == torch.float16:
        raise UserError("weights in float16 cannot be trained: small gradients vanish; use --dtype float32 or bfloat16")
    if lora is None:
        return
    if is_sharded():
        raise UserError("adapters are trained with the whole model in each process, not under FSDP")
    if lora.rank < 1 or not lora.alpha > 0:
        raise UserError(f"the rank and alpha of adapters must be above 0, but are {lora.rank} and {lora.alpha}")
    check_modules(model, lora.modules)


def adapted(model: PreTrainedModel, lora: Lora | None, seed: int) -> Any:
    """The model with new adapters on it, drawn from the seed; without `lora` the model itself."""
    from peft import LoraConfig, get_peft_model

    if lora is None:
        return model
    modules: str | list[str] = list(lora.modules) or "all-linear"
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=modules, task_type="CAUSAL_LM")
    torch.manual_seed(seed)
    return get_peft_model(model, config)


def save_trained(
    model: Any,
    tokenizer: Any,
    lora: Lora | None,
    card: str,
    out: Path,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """The model or its adapters, as safetensors, with tokenizer and card, in a directory that appears as a whole.

    `weights` are those of a model that holds only a part of them itself.
    """
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    whole = model.merge_and_unload() if lora and lora.merge else model
    whole.save_pretrained(partial, state_dict=weights)
    tokenizer.save_pretrained(partial)
    write_whole(partial / "README.md", card)
    sort_modules(partial)
    for file in partial.iterdir():
        readable(file)
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    shutil.rmtree(out, ignore_errors=True)
    os.replace(partial, out)
