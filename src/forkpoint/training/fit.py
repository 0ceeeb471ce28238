"""One training from beginning to end, or from its last whole checkpoint on."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.integrations import TensorBoardCallback

from forkpoint.engines.local.memory import is_out_of_memory
from forkpoint.types import UserError

Step = Callable[[int, int, int], None]
"""Called after each optimizer step with the steps done, the steps in all, and the tokens seen."""
UNSTEADY = ("runtime", "per_second", "flos", "num_tokens")  # parts of names: by the clock, or anew at a resume


def fit(trainer: Any, tokens: int, step: Step | None = None) -> dict[str, Any]:
    """Train to the end; `tokens` are those of one epoch, for the progress.

    Returns the number of `steps`, the step that the model is of (`saved_step`: another one where the best is loaded at
    the end), and the `history`: what was logged, timings aside. Every checkpoint and the end are logged too, so that a
    resumed run, whose means begin anew, logs the same. Raises UserError where memory runs out or a library is missing,
    and where the loss is no number.
    """
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            callback.logging_dir = str(Path(trainer.args.output_dir).with_name("logs"))  # beside the checkpoints
    trainer.add_callback(_Report(tokens, step))
    _leave_a_step(trainer)
    with failure_explained(trainer.args):
        trainer.train(resume_from_checkpoint=_checkpoint(trainer))
    history = [_steady(row) for row in trainer.state.log_history]
    losses = [row[name] for row in history for name in ("loss", "train_loss") if name in row]
    if not all(map(math.isfinite, losses)):
        raise UserError("the loss is not finite: lower --learning_rate")
    best = trainer.state.best_global_step if trainer.args.load_best_model_at_end else None
    return {
        "steps": trainer.state.global_step,
        "saved_step": best or trainer.state.global_step,
        "history": [row for row in history if {"loss", "eval_loss"} & row.keys()],
    }


def figures(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What was logged at the step that the saved model is of, for its card."""
    rows = [row for row in facts["history"] if row["step"] == facts["saved_step"]]
    return {name: value for row in rows for name, value in row.items() if name != "epoch"}


def _leave_a_step(trainer: Any) -> None:
    """End the warm-up before the last step at the latest: within it the first step has a learning rate of 0."""
    create = trainer.create_scheduler

    def create_scheduler(num_training_steps: int, optimizer: Any = None) -> Any:
        arguments = trainer.args
        arguments.warmup_steps = min(arguments.get_warmup_steps(num_training_steps), max(num_training_steps - 1, 0))
        return create(num_training_steps, optimizer)

    trainer.create_scheduler = create_scheduler


class _Report(TrainerCallback):  # type: ignore[misc]
    def __init__(self, tokens: int, step: Step | None) -> None:
        self.tokens, self.step = tokens, step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        ends = state.epoch == int(state.epoch) or state.global_step >= state.max_steps
        control.should_evaluate |= ends and args.eval_strategy == "epoch"  # before the step's checkpoint, not after it
        control.should_save |= ends and args.save_strategy == "epoch"
        control.should_log |= control.should_save or state.global_step >= state.max_steps
        if self.step:
            self.step(state.global_step, state.max_steps, round(self.tokens * (state.epoch or 0.0)))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_evaluate = control.should_save = False  # done with its last step


@contextmanager
def failure_explained(arguments: Any) -> Iterator[None]:
    """A UserError for memory that runs out within the context, for a missing library and for an unknown metric."""
    try:
        yield
    except ImportError as error:
        raise UserError(f"a library is missing: {str(error).strip().splitlines()[0]}") from error
    except KeyError as error:
        if "metric_for_best_model" not in str(error):
            raise
        raise UserError(f"there is no metric {arguments.metric_for_best_model!r}: {error.args[0]}") from error
    except Exception as error:
        if is_out_of_memory(error):
            raise UserError(
                f"memory ran out while training on {arguments.per_device_train_batch_size} examples at a time: "
                "lower --per_device_train_batch_size and raise --gradient_accumulation_steps"
            ) from error
        raise


def _checkpoint(trainer: Any) -> str | None:
    """The newest checkpoint that was written to its end; others, which a kill left, are removed."""
    directory = Path(trainer.args.output_dir)
    if trainer.is_world_process_zero():
        for path in directory.glob("checkpoint-*"):
            if not _is_whole(path):
                shutil.rmtree(path)
    trainer.accelerator.wait_for_everyone()
    found = sorted(directory.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    return str(found[-1]) if found else None


def _is_whole(path: Path) -> bool:
    try:
        json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))  # what is written last
    except (OSError, ValueError):
        return False
    return True


def _steady(row: dict[str, Any]) -> dict[str, Any]:
    """In one order of names: rows that a checkpoint held come back sorted."""
    return {name: row[name] for name in sorted(row) if not any(word in name for word in UNSTEADY)}
