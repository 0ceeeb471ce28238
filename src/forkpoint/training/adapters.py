"""LoRA adapters tuned on given responses, by TRL's SFT trainer and PEFT, on a model that is in use.

Token ids are fed as they are, the loss is on the response only, and the model is itself again afterwards: the adapter
lives in its own directory, as safetensors.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from forkpoint.engines.local.lending import lent
from forkpoint.engines.local.memory import is_out_of_memory
from forkpoint.engines.local.trunk_attention import forward_lock
from forkpoint.files import read_json, readable, to_json, write_whole
from forkpoint.training.sft import response_rows, sft_trainer
from forkpoint.types import Trajectory, UserError, check_texts

FACTS = "training.json"
LOSSES = 20  # how many mean losses are kept of a training, one a stretch of steps
MAMBAS = ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h")  # as in PEFT
FUSED = ("out_proj", "conv1d")  # of a Mamba: its kernels read these weights by themselves
NEEDED = ("accelerate", "peft", "trl")
Step = Callable[[int, int, int], None]
"""Called after each optimizer step with the steps done, the steps in all, and the response tokens seen."""


@dataclass(frozen=True, slots=True)
class TuningConfig:
    """How an adapter is tuned; the defaults but `batch_size` are the paper's (arXiv 2411.19943), α / rank = 2.

    `modules` are the names of the linear layers that get a low-rank update ("up_proj", ...); none are those within the
    layers' MLPs. The learning rate falls to 0 along a cosine; `batch_size` counts responses a step.
    """

    rank: int = 8
    alpha: float = 16.0
    learning_rate: float = 3e-4
    epochs: float = 1.0
    batch_size: int = 8
    modules: tuple[str, ...] = ()
    seed: int = 0


def require_training() -> None:
    """UserError where the libraries of the extra `train` are missing."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise UserError(f'{" and ".join(missing)} must be installed to tune adapters: pip install "forkpoint[train]"')


def check_tuning(tuning: TuningConfig, model: PreTrainedModel) -> list[str]:
    """The full names of the layers to adapt. UserError for numbers out of range and names that are not there."""
    for name in ("rank", "alpha", "learning_rate", "epochs", "batch_size"):
        if not (math.isfinite(value := getattr(tuning, name)) and value > 0):
            raise UserError(f"{name} must be above 0, but is {value}")
    if torch.cuda.device_count() > 1 and model.device.type == "cuda":
        raise UserError("adapters are tuned on one GPU, but several are visible: choose one with CUDA_VISIBLE_DEVICES")
    if getattr(model, "_hf_peft_config_loaded", False):
        raise UserError("the model is a base with an adapter on it; merge them first: forkpoint merge ADAPTER DIR")
    linear = linear_layers(model)
    if not tuning.modules:
        found = [name for name, path in linear.items() if "mlp" in path]
        if not found:
            raise UserError(
                "the model has no linear layers named mlp; name the ones to adapt with --lora_target_modules, "
                f"of {', '.join(sorted({path[-1] for path in linear.values()}))}"
            )
        return found
    check_modules(model, tuning.modules)
    return [name for name, path in linear.items() if path[-1] in tuning.modules]


def linear_layers(model: PreTrainedModel) -> dict[str, list[str]]:
    """The full names of the layers that adapters can be put on, each with its parts."""
    fused = FUSED if model.config.model_type in MAMBAS else ()
    found = {
        name: name.split(".")
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not model.get_output_embeddings()
    }
    return {name: path for name, path in found.items() if path[-1] not in fused}


def check_modules(model: PreTrainedModel, modules: Sequence[str]) -> None:
    """UserError for the first name that is not the last part of such a layer's."""
    check_texts("modules", modules)
    names = {path[-1] for path in linear_layers(model).values()}
    for wanted in modules:
        if wanted not in names:
            raise UserError(
                f"the model has no linear layer {wanted!r} that could be adapted; it has {', '.join(sorted(names))}"
            )


def tune_adapter(
    model: PreTrainedModel,
    tokenizer: Any,
    responses: Sequence[Trajectory],
    tuning: TuningConfig,
    out: Path,
    step: Step | None = None,
) -> dict[str, Any]:
    """Tune one adapter on the responses and keep it in the directory `out`, whole or not at all.

    Where `out` is there already, it is taken as it is. Returns what is known of the training: the number of
    `responses`, `tokens` (of responses) and `steps`, and `losses`, the mean loss a response token (nats) over
    successive stretches of steps. Raises UserError as `check_tuning` does, and where memory runs out.
    """
    if not out.exists():
        layers = check_tuning(tuning, model)
        with forward_lock, lent(model, tokenizer):  # another thread must not meet the adapter
            trainer = _trainer(model, tokenizer, responses, tuning, layers, step)
            try:
                facts = _train(trainer, responses, tuning)
                _save(trainer.model, facts, out)
            finally:
                trainer.model.unload()
    return dict(read_json(out / FACTS))


def _trainer(
    model: PreTrainedModel,
    tokenizer: Any,
    responses: Sequence[Trajectory],
    tuning: TuningConfig,
    layers: list[str],
    step: Step | None,
) -> Any:
    """TRL's trainer over rows of token ids and labels; it writes nothing, and prints nothing on stdout."""
    from peft import LoraConfig
    from transformers import PrinterCallback, TrainerCallback
    from trl import SFTConfig

    steps = max(1, math.ceil(tuning.epochs * math.ceil(len(responses) / tuning.batch_size)))
    tokens_a_step = sum(len(r.token_ids) for r in responses) * tuning.epochs / steps

    class Report(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if step:
                step(state.global_step, state.max_steps, round(state.global_step * tokens_a_step))

    rows = response_rows((r.prompt_ids, r.token_ids) for r in responses)
    settings = SFTConfig(
        output_dir=tempfile.gettempdir(), learning_rate=tuning.learning_rate, lr_scheduler_type="cosine",
        num_train_epochs=tuning.epochs, per_device_train_batch_size=tuning.batch_size, max_length=None,
        logging_steps=math.ceil(steps / LOSSES), seed=tuning.seed, gradient_checkpointing=False,
        bf16=model.dtype == torch.bfloat16, fp16=model.dtype == torch.float16, use_cpu=model.device.type == "cpu",
        save_strategy="no", report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
        logging_nan_inf_filter=False,
    )  # fmt: skip
    lora = LoraConfig(r=tuning.rank, lora_alpha=tuning.alpha, target_modules=layers, task_type="CAUSAL_LM")
    trainer = sft_trainer(model, tokenizer, settings, rows, peft_config=lora, callbacks=[Report()])
    trainer.remove_callback(PrinterCallback)
    return trainer


def _train(trainer: Any, responses: Sequence[Trajectory], tuning: TuningConfig) -> dict[str, Any]:
    """Train to the end; what is known of the training."""
    try:
        trainer.train()
    except Exception as error:
        if is_out_of_memory(error):
            raise UserError(
                f"memory ran out while an adapter was tuned on {tuning.batch_size} responses a step: lower "
                "--per_device_train_batch_size"
            ) from error
        raise
    losses = [round(entry["loss"], 6) for entry in trainer.state.log_history if "loss" in entry]
    if not all(map(math.isfinite, losses)):
        raise UserError("the loss of an adapter's training is not finite: lower --learning-rate")
    return {
        "responses": len(responses),
        "tokens": sum(len(r.token_ids) for r in responses),
        "steps": trainer.state.global_step,
        "losses": losses,
    }


def _save(adapted: Any, facts: dict[str, Any], out: Path) -> None:
    """The adapter and its facts in a directory that appears when all of it is on disk."""
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    adapted.save_pretrained(partial, save_embedding_layers=False)
    (partial / "README.md").unlink(missing_ok=True)  # a form without content
    settle_config(partial)
    write_whole(partial / FACTS, to_json(facts, indent=2) + "\n")
    weights = partial / "adapter_model.safetensors"
    readable(weights)
    with weights.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, out)


def settle_config(directory: Path) -> None:
    """Put the names of adapted layers, a set, in order, and make the base's directory an absolute path.

    PEFT writes the names in another order in every process.
    """
    path = directory / "adapter_config.json"
    if path.exists():
        config = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(config["target_modules"], list):
            config["target_modules"] = sorted(config["target_modules"])
        if (base := config["base_model_name_or_path"]) and Path(base).is_dir():
            config["base_model_name_or_path"] = str(Path(base).resolve())
        write_whole(path, to_json(config, indent=2) + "\n")
