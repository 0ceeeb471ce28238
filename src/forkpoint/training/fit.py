"""One training from beginning to end, or from its last whole checkpoint on."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from forkpoint.engines.memory import is_out_of_memory
from forkpoint.types import UserError

Step = Callable[[int, int, int], None]
"""Called after each optimizer step with the steps done, the steps in all, and the tokens seen."""
TIMINGS = ("runtime", "per_second", "flos")  # in the names of what a clock measured


def fit(trainer: Any, tokens: int, step: Step | None = None) -> dict[str, Any]:
    """Train to the end; `tokens` are those of one epoch, for the progress.

    Returns the number of `steps` and the `history`: what was logged, timings aside. Raises UserError where memory runs
    out and where the loss is no number.
    """
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(_Report(tokens, step))
    try:
        trainer.train(resume_from_checkpoint=_last_whole(Path(trainer.args.output_dir)))
    except Exception as error:
        if is_out_of_memory(error):
            raise UserError(
                f"memory ran out while training on {trainer.args.per_device_train_batch_size} examples at a time: "
                "lower --per_device_train_batch_size and raise --gradient_accumulation_steps"
            ) from error
        raise
    history = [_untimed(row) for row in trainer.state.log_history]
    losses = [row["loss"] for row in history if "loss" in row]
    if not all(map(math.isfinite, losses)):
        raise UserError("the loss is not finite: lower --learning_rate")
    return {"steps": trainer.state.global_step, "history": [row for row in history if "epoch" in row]}


class _Report(TrainerCallback):  # type: ignore[misc]
    def __init__(self, tokens: int, step: Step | None) -> None:
        self.tokens, self.step = tokens, step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.step:
            self.step(state.global_step, state.max_steps, round(self.tokens * (state.epoch or 0.0)))


def _last_whole(directory: Path) -> str | None:
    """The newest checkpoint that was written to its end; others, which a kill left, are removed."""
    found = sorted(directory.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]))
    for path in reversed(found):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))  # what is written last
            return str(path)
        except (OSError, ValueError):
            shutil.rmtree(path)
    return None


def _untimed(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not any(word in name for word in TIMINGS)}
