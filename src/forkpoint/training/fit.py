"""One training from beginning to end, or from its last whole checkpoint on."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from forkpoint.engines.memory import is_out_of_memory
from forkpoint.types import UserError

Step = Callable[[int, int, int], None]
"""Called after each optimizer step with the steps done, the steps in all, and the tokens seen."""
UNSTEADY = ("runtime", "per_second", "flos", "num_tokens")  # parts of names: by the clock, or anew at a resume


def fit(trainer: Any, tokens: int, step: Step | None = None) -> dict[str, Any]:
    """Train to the end; `tokens` are those of one epoch, for the progress.

    Returns the number of `steps` and the `history`: what was logged, timings aside. Every checkpoint and the end are
    logged too, so that a resumed run, whose means begin anew, logs the same. Raises UserError where memory runs out and
    where the loss is no number.
    """
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(_Report(tokens, step))
    with memory_explained(trainer.args):
        trainer.train(resume_from_checkpoint=_checkpoint(trainer))
    history = [_steady(row) for row in trainer.state.log_history]
    losses = [row[name] for row in history for name in ("loss", "train_loss") if name in row]
    if not all(map(math.isfinite, losses)):
        raise UserError("the loss is not finite: lower --learning_rate")
    return {
        "steps": trainer.state.global_step,
        "history": [row for row in history if {"loss", "eval_loss"} & row.keys()],
    }


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
def memory_explained(arguments: Any) -> Iterator[None]:
    """Memory that runs out within the context is a UserError that says what to lower."""
    try:
        yield
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
