"""LoRA adapters tuned on responses, by TRL's SFT trainer and PEFT, on a model that is itself again afterwards."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import PreTrainedModel, PrinterCallback
from trl import SFTConfig

from forkpoint.engines.local.lending import lent
from forkpoint.engines.local.trunk_attention import forward_lock
from forkpoint.files import read_json, to_json, whole_directory, write_whole
from forkpoint.training.fit import Step, StepReport, failure_explained
from forkpoint.training.models import check_modules, linear_layers, names_of, settle_config
from forkpoint.training.sft import response_row, sft_trainer
from forkpoint.types import Trajectory, UserError

FACTS = "training.json"
LOSSES = 20  # how many mean losses are kept of a training, one a stretch of steps


@dataclass(frozen=True, slots=True)
class TuningConfig:
    """How an adapter is tuned; the defaults but the batch size are the paper's (arXiv 2411.19943), α / r = 2.

    `lora_target_modules` are the names of the linear layers that get a low-rank update ("up_proj", ...); none are those
    within the layers' MLPs. The learning rate falls to 0 along a cosine.
    """

    lora_r: int = 8
    lora_alpha: float = 16.0
    learning_rate: float = 3e-4
    num_train_epochs: float = 1.0
    per_device_train_batch_size: int = 8
    lora_target_modules: tuple[str, ...] = ()
    seed: int = 0


def check_tuning(tuning: TuningConfig, model: PreTrainedModel) -> list[str]:
    """The full names of the layers to adapt. UserError for numbers out of range and names that are not there."""
    for name in ("lora_r", "lora_alpha", "learning_rate", "num_train_epochs", "per_device_train_batch_size"):
        if not (math.isfinite(value := getattr(tuning, name)) and value > 0):
            raise UserError(f"{name} must be above 0, but is {value}")
    if torch.cuda.device_count() > 1 and model.device.type == "cuda":
        raise UserError("adapters are tuned on one GPU, but several are visible: choose one with CUDA_VISIBLE_DEVICES")
    if getattr(model, "_hf_peft_config_loaded", False):
        raise UserError("the model is a base with an adapter on it; merge them first: forkpoint merge ADAPTER DIR")
    linear, wanted = linear_layers(model), tuning.lora_target_modules
    check_modules(model, wanted)
    paths = {name: name.split(".") for name in linear}
    layers = [name for name, path in paths.items() if (path[-1] in wanted if wanted else "mlp" in path)]
    if not layers:
        raise UserError(
            "the model has no linear layers named mlp; name the ones to adapt with --lora_target_modules, "
            f"of {', '.join(names_of(linear))}"
        )
    return layers


def tune_adapter(
    model: PreTrainedModel,
    tokenizer: Any,
    responses: Sequence[Trajectory],
    tuning: TuningConfig,
    out: Path,
    step: Step | None = None,
) -> dict[str, Any]:
    """Tune one adapter on the responses and keep it in the directory `out`, unless it is there already.

    Returns the number of `responses`, `tokens` (of responses) and `steps`, and `losses`, the mean loss a response token
    (nats) over successive stretches of steps. UserError as `check_tuning`, where memory runs out, and where a loss is
    not finite.
    """
    if not out.exists():
        layers = check_tuning(tuning, model)
        with forward_lock, lent(model, tokenizer):  # another thread must not meet the adapter
            trainer = _trainer(model, tokenizer, responses, tuning, layers, step)
            try:
                with failure_explained(trainer.args, "lower --per_device_train_batch_size"):
                    trainer.train()
                losses = [round(entry["loss"], 6) for entry in trainer.state.log_history if "loss" in entry]
                if not all(map(math.isfinite, losses)):
                    raise UserError("the loss of an adapter's training is not finite: lower --learning_rate")
                tokens, steps = sum(len(r.token_ids) for r in responses), trainer.state.global_step
                facts = {"responses": len(responses), "tokens": tokens, "steps": steps, "losses": losses}
                with whole_directory(out) as partial:
                    trainer.model.save_pretrained(partial, save_embedding_layers=False)
                    (partial / "README.md").unlink(missing_ok=True)  # a form without content
                    write_whole(partial / FACTS, to_json(facts, indent=2) + "\n")
                    settle_config(partial)
            finally:
                trainer.model.unload()
    return dict(read_json(out / FACTS))


def _trainer(
    model: Any, tokenizer: Any, responses: Sequence[Trajectory], tuning: TuningConfig, layers: list[str], step: Any
) -> Any:
    """TRL's trainer over rows of token ids and labels; it writes nothing, and prints nothing on stdout."""
    batch, epochs = tuning.per_device_train_batch_size, tuning.num_train_epochs
    steps = max(1, math.ceil(epochs * math.ceil(len(responses) / batch)))
    settings = SFTConfig(
        output_dir=tempfile.gettempdir(), learning_rate=tuning.learning_rate, lr_scheduler_type="cosine",
        num_train_epochs=epochs, per_device_train_batch_size=batch, max_length=None,
        logging_steps=math.ceil(steps / LOSSES), seed=tuning.seed, gradient_checkpointing=False,
        bf16=model.dtype == torch.bfloat16, fp16=model.dtype == torch.float16, use_cpu=model.device.type == "cpu",
        save_strategy="no", report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
        logging_nan_inf_filter=False,
    )  # fmt: skip
    lora = LoraConfig(r=tuning.lora_r, lora_alpha=tuning.lora_alpha, target_modules=layers, task_type="CAUSAL_LM")
    rows = [response_row(r.prompt_ids, r.token_ids) for r in responses]
    trainer = sft_trainer(model, tokenizer, settings, rows, peft_config=lora)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(StepReport(sum(len(r.token_ids) for r in responses), step))
    return trainer
