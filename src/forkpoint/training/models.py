"""A model to be trained: loaded, given adapters, and saved where other libraries find it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from forkpoint import __version__
from forkpoint.engines.loading import check_dtype, first_line, load_config, load_pretrained, load_tokenizer, place
from forkpoint.engines.local.products import HALF
from forkpoint.files import empty_directory, read_json, to_json, whole_directory, write_whole
from forkpoint.training.fields import FittingFields, PairFields
from forkpoint.training.processes import TIMEOUT, is_sharded, join
from forkpoint.types import UserError, check_texts

MODEL = "model"  # the directory of a run's result
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MAMBAS = ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h")  # as in PEFT
FUSED = ("out_proj", "conv1d")  # of a Mamba: its kernels read these weights by themselves
NEEDED = ("accelerate", "peft", "trl")
LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets")  # of the card


def require_training() -> None:
    """UserError where the libraries of the extra `train` are missing."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise UserError(f'{" and ".join(missing)} must be installed to train: pip install "forkpoint[train]"')


def load_trainable(
    settings: Mapping[str, Any], timeout: int = TIMEOUT, *, four_bit: bool = False
) -> tuple[PreTrainedModel, Any]:
    """A model that is to be trained, and its tokenizer; `settings` are those of `load_pretrained`.

    The name of a directory with adapters gives a PEFT model: its base with these adapters, ready to be trained on. With
    `four_bit` the base's linear layers are kept in four bits (NF4, arXiv 2305.14314). `timeout` is that of `join`.
    UserError for missing libraries, and for adapters that are not LoRA or do not fit their base.
    """
    require_training()
    join(settings["device"], timeout)
    name = settings["name"]
    if is_adapter(name) and (kind := read_json(Path(name) / ADAPTER).get("peft_type")) != "LORA":
        raise UserError(f"{name} holds an adapter of kind {kind!r}, but only LoRA is trained on")
    quantization = None
    if four_bit:
        if find_spec("bitsandbytes") is None:
            raise UserError("--load_in_4bit needs the package bitsandbytes: pip install bitsandbytes")
        quantization = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )  # fmt: skip
    model, tokenizer = load_pretrained(**base_settings(settings), quantization_config=quantization)
    if is_adapter(name):
        return _with_adapters(model, name), tokenizer_of(settings)
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


def _with_adapters(model: PreTrainedModel, directory: str, *, trainable: bool = True) -> Any:
    from peft import PeftModel

    if not (Path(directory) / ADAPTER_WEIGHTS).exists():
        raise UserError(f"{directory} holds no {ADAPTER_WEIGHTS}; other files of weights are not read")
    try:
        return PeftModel.from_pretrained(model, directory, is_trainable=trainable)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise UserError(f"the adapter in {directory} does not fit its base: {first_line(error)}") from error


def tokenizer_of(settings: Mapping[str, Any]) -> Any:
    """The tokenizer of a model, of `load_pretrained`'s settings; of adapters the one beside them, or their base's."""
    has_own = (Path(settings["name"]) / "tokenizer_config.json").exists()
    chosen = settings if has_own else base_settings(settings)
    return load_tokenizer(chosen["name"], revision=chosen["revision"], trust_remote_code=chosen["trust_remote_code"])


def load_untrained(settings: Mapping[str, Any], seed: int, timeout: int = TIMEOUT) -> tuple[PreTrainedModel, Any]:
    """As `load_trainable`, but with new weights, drawn from the seed; they are float32 where dtype is "auto"."""
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


def check_trainable(model: PreTrainedModel, args: PairFields) -> None:
    """UserError where the model cannot be trained so, or transformers would split batches over several GPUs."""
    if model.device.type == "cuda" and torch.cuda.device_count() > 1 and not torch.distributed.is_initialized():
        raise UserError(
            "several GPUs are visible to one process: start one process a GPU with `accelerate launch`, "
            "or choose one with CUDA_VISIBLE_DEVICES"
        )
    quantised = getattr(model, "is_quantized", False)
    if not (args.lora_r or hasattr(model, "peft_config")):
        if quantised:
            raise UserError("quantised weights cannot be trained themselves; train adapters on them (--lora_r 16)")
        return
    if model.dtype == torch.float16:
        raise UserError("float16 loses small gradients of adapters; load the model with --dtype float32 or bfloat16")
    if is_sharded():
        raise UserError("adapters are trained with the whole model in each process, not under FSDP")
    if args.lora_r < 0 or not 0 < args.lora_alpha < math.inf:
        raise UserError(f"lora_r and lora_alpha must be above 0, but are {args.lora_r} and {args.lora_alpha}")
    if not 0 <= args.lora_dropout < 1:
        raise UserError(f"lora_dropout must be at least 0 and below 1, but is {args.lora_dropout}")
    if args.merge and quantised:
        raise UserError("weights in four bits are too coarse to merge into; merge afterwards with `forkpoint merge`")
    if args.lora_r:
        check_modules(model, args.lora_target_modules)


def context_of(model: PreTrainedModel) -> int | None:
    """How many tokens the model reads, where that is known."""
    return getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)


def linear_layers(model: PreTrainedModel) -> list[str]:
    """The full names of the layers that adapters can be put on."""
    fused = FUSED if model.config.model_type in MAMBAS else ()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not model.get_output_embeddings()
        if name.rpartition(".")[2] not in fused
    ]


def names_of(layers: Iterable[str]) -> list[str]:
    """The last parts of the layers' names, each once, sorted."""
    return sorted({name.rpartition(".")[2] for name in layers})


def check_modules(model: PreTrainedModel, modules: Sequence[str]) -> None:
    """UserError for the first name that is not the last part of such a layer's."""
    check_texts("lora_target_modules", modules)
    names = names_of(linear_layers(model))
    if unknown := [name for name in modules if name not in names]:
        raise UserError(
            f"the model has no linear layer {unknown[0]!r} that could be adapted; it has {', '.join(names)}"
        )


def in_float32(model: PreTrainedModel, args: FittingFields) -> str:
    """Make weights in half precision that are trained float32; returns the name of the precision to save in.

    A step of an optimizer is often smaller than half a unit in the last place of a weight in bfloat16, and lost in it.
    The base of adapters stays as it is, and they are float32 themselves.
    """
    came_in = str(model.dtype).removeprefix("torch.")
    if not (args.lora_r or hasattr(model, "peft_config")) and model.dtype in HALF:
        model.float()
    return came_in if args.save_dtype == "auto" else args.save_dtype


def adapted(model: Any, args: Any, peft_config: Any = None) -> Any:
    """The model with new adapters on it, by PEFT's config or `lora_r`, drawn from the seed; without either, itself."""
    from peft import LoraConfig, get_peft_model

    if peft_config is None and not args.lora_r:
        return model
    if peft_config is None:
        every = names_of(linear_layers(model)) if model.config.model_type in MAMBAS else "all-linear"
        layers = list(args.lora_target_modules) or every
        peft_config = LoraConfig(
            r=args.lora_r, lora_alpha=args.lora_alpha, lora_dropout=args.lora_dropout, target_modules=layers,
            task_type="CAUSAL_LM",
        )  # fmt: skip
    torch.manual_seed(args.seed)
    return get_peft_model(model, peft_config)


def save_trained(
    model: Any, tokenizer: Any, card: str, out: Path, weights: Mapping[str, torch.Tensor] | None = None,
    dtype: str | None = None, *, merge: bool = False,
) -> None:  # fmt: skip
    """The model or its adapters, as safetensors, with tokenizer and card, in a directory that appears as a whole.

    `weights` are those of a model that holds only a part of them itself. A whole model is saved in the precision
    `dtype`, without one in its own; adapters stay in theirs, if they do not `merge` with their base.
    """
    whole = model.merge_and_unload() if merge and hasattr(model, "peft_config") else model
    if dtype not in (None, str(whole.dtype).removeprefix("torch.")) and not hasattr(whole, "peft_config"):
        weights = {
            name: tensor.to(getattr(torch, str(dtype))) if tensor.is_floating_point() else tensor
            for name, tensor in (whole.state_dict() if weights is None else weights).items()
            if name not in whole.all_tied_weights_keys
        }
    with whole_directory(out) as partial:
        whole.save_pretrained(partial, state_dict=weights)
        tokenizer.save_pretrained(partial)
        write_whole(partial / "README.md", card)
        if dtype is not None and (path := partial / "config.json").exists():
            write_whole(path, to_json(read_json(path) | {"dtype": dtype}, indent=2) + "\n")
        settle_config(partial)


def settle_config(directory: Path) -> None:
    """Put the names of adapted layers, which PEFT writes in any order, in order, and make the base's path absolute."""
    path = directory / ADAPTER
    if path.exists():
        config = read_json(path)
        if isinstance(config["target_modules"], list):
            config["target_modules"].sort()
        if (base := config["base_model_name_or_path"]) and Path(base).is_dir():
            config["base_model_name_or_path"] = str(Path(base).resolve())
        write_whole(path, to_json(config, indent=2) + "\n")


def model_card(title: str, base: str, source: str, settings: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """README.md of a model: `source` says what method it was trained with, `facts` what came of it."""
    hub = f"base_model: {base}\n" if "/" in base and not Path(base).exists() else ""
    used = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    lines = [
        f"---\nlibrary_name: transformers\n{hub}tags: [forkpoint]\n---\n\n# {title}\n",
        f"{base}, trained with forkpoint {__version__} ({used}).\n\nMethod: {source}.\n",
    ]
    for heading, values in (("Setting", settings), ("Result", facts)):
        lines += [f"| {heading} | |", "|---|---|", *(f"| {name} | `{to_json(v)}` |" for name, v in values.items()), ""]
    return "\n".join(lines)


def merge(settings: Mapping[str, Any], out: Path) -> None:
    """Write the model that a directory's adapters and their base make together: safetensors, tokenizer and card.

    `settings` are those of `load_pretrained`. UserError for a directory without adapters, adapters that cannot be added
    to weights, a quantised base, and an `out` that holds files.
    """
    require_training()
    if not is_adapter(name := settings["name"]):
        raise UserError(f"{name} holds no adapter: expected a directory with adapter_config.json")
    out = empty_directory(out)
    base = base_settings(settings)
    model, _ = load_pretrained(**base)
    if getattr(model, "is_quantized", False):
        raise UserError(f"{base['name']} is quantised: its weights are too coarse to add an adapter to")
    adapters = _with_adapters(model, name, trainable=False)
    if not hasattr(adapters.base_model, "merge_and_unload"):
        raise UserError(f"the adapter in {name} is none that can be added to weights, as LoRA can")
    card = model_card(f"{base['name']} with {name}", base["name"], "adapters added to the weights", settings, {})
    save_trained(adapters, tokenizer_of(settings), card, out, merge=True)
