"""Adapters added to the weights of their base, for good: a whole model, as any engine takes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forkpoint.engines.loading import load_pretrained
from forkpoint.files import writable
from forkpoint.training.adapters import require_training
from forkpoint.training.card import model_card
from forkpoint.training.models import Lora, base_settings, is_adapter, save_trained, tokenizer_of, with_adapters
from forkpoint.types import UserError


def merge(settings: Mapping[str, Any], out: Path) -> None:
    """Write the model that a directory's adapters and their base make together: safetensors, tokenizer and card.

    `settings` are those of `load_pretrained`, with the adapters' directory for a name. Raises UserError for a directory
    without adapters, adapters that cannot be added to weights, a quantised base, and an `out` that holds files.
    """
    require_training()
    if not is_adapter(name := settings["name"]):
        raise UserError(f"{name} holds no adapter: expected a directory with adapter_config.json")
    out = out.resolve()  # a name of its own, whose neighbour holds the unfinished model
    writable(out)
    if any(out.iterdir()):
        raise UserError(f"{out} holds files already; choose an empty or new directory")
    base = base_settings(settings)
    model, _ = load_pretrained(**base)
    if getattr(model, "is_quantized", False):
        raise UserError(f"{base['name']} is quantised: its weights are too coarse to add an adapter to")
    adapted = with_adapters(model, name, trainable=False)
    if not hasattr(adapted.base_model, "merge_and_unload"):
        raise UserError(f"the adapter in {name} is none that can be added to weights, as LoRA can")
    card = model_card(f"{base['name']} with {name}", base["name"], "adapters added to the weights", settings, {})
    save_trained(adapted, tokenizer_of(settings), Lora(0, merge=True), card, out)
