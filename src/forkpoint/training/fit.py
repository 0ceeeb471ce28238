"""One training from beginning to end: its directory is claimed, it goes on from its last whole checkpoint, and the
model, its card and summary.json are there whole or not at all."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.integrations import TensorBoardCallback
from transformers.trainer_utils import get_last_checkpoint

from forkpoint import __version__
from forkpoint.engines.identity import weights_digest
from forkpoint.engines.local.lending import lent
from forkpoint.engines.local.memory import is_out_of_memory
from forkpoint.files import SUMMARY, claimed, read_json, to_json, write_whole
from forkpoint.losses.methods import PAPERS
from forkpoint.training.models import MODEL, in_float32, model_card, save_trained
from forkpoint.training.processes import agreed, is_sharded
from forkpoint.types import Progress, Results, UserError

CHECKPOINTS = "checkpoints"
LOGS = "logs"  # of TensorBoard and of other loggers
UNSTEADY = ("runtime", "per_second", "flos", "num_tokens")  # parts of names: by the clock, or anew at a resume
Step = Callable[[int, int, int], None]
"""Called after each optimizer step with the steps done, the steps in all, and the tokens seen."""


def run_training(
    model: Any, tokenizer: Any, args: Any, out: Path, make_trainer: Callable[[str], Any], *, method: str, name: str,
    settings: Mapping[str, Any], identity: Mapping[str, Any], data: Mapping[str, Any], tokens: int,
    progress: Progress | None,
) -> Results:  # fmt: skip
    """Train in the directory `out`; returns summary.json's content.

    `make_trainer` takes the precision that models are saved in. `settings` and `identity` say what run this is, `data`
    what it is trained on, `tokens` how many an epoch has.
    """
    run = {"verb": "train", "method": method, "model": name, **settings, "version": __version__}
    of_model = {"weights": weights_digest(model), "attention": model.config._attn_implementation}
    with claimed_by_all(out, run | of_model | dict(identity)):
        if not (out / SUMMARY).exists():
            dtype = in_float32(model, args)
            with lent(model, tokenizer), failure_explained(args):
                trainer = make_trainer(dtype)
                facts = fit(trainer, tokens, progress and partial(progress, f"{method}, steps"))
            # only now is the configuration again what it was
            figures = [row for row in facts["history"] if row["step"] == facts["saved_step"]]
            last = {key: value for row in figures for key, value in row.items() if key != "epoch"}
            card = model_card(f"{name} after {method}", name, PAPERS[method], {**data, **settings}, last)
            _finish(trainer, tokenizer, args, dtype, card, run | dict(data) | facts, out)
    return Results(read_json(out / SUMMARY))


@contextmanager
def claimed_by_all(out: Path, config: dict[str, Any]) -> Iterator[None]:
    """The directory for this run; of several processes the main one claims it, and all fail where it cannot.

    At the end each waits for all. A run that fails before there is anything to go on from leaves the directory free.
    """
    state = PartialState()
    count = {} if state.num_processes == 1 else {"processes": state.num_processes}
    with ExitStack() as stack:
        with agreed():
            if state.is_main_process:
                stack.enter_context(claimed(out, config | count))
                stack.push(partial(_tidy, out))
        yield
        state.wait_for_everyone()


def _tidy(out: Path, kind: type[BaseException] | None, *_: Any) -> None:
    """After a failure before there is anything to go on from, remove what loggers wrote."""
    if kind is not None and not (out / MODEL).exists() and not any((out / CHECKPOINTS).glob("checkpoint-*")):
        for name in (CHECKPOINTS, LOGS):
            shutil.rmtree(out / name, ignore_errors=True)


def fit(trainer: Any, tokens: int, step: Step | None = None) -> dict[str, Any]:
    """Train to the end; `tokens` are those of one epoch. UserError where memory runs out or the loss is no number.

    Returns the `tokens_in_an_epoch`, the number of `steps`, the step that the model is of (`saved_step`: another one
    where the best is loaded at the end), and the `history`: what was logged, timings aside. Every checkpoint and the
    end are logged too, so that a resumed run, whose means begin anew, logs the same.
    """
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            callback.logging_dir = str(Path(trainer.args.output_dir).with_name(LOGS))  # beside the checkpoints
    trainer.add_callback(_Report(tokens, step))
    _leave_a_step(trainer)
    with failure_explained(trainer.args):
        trainer.train(resume_from_checkpoint=_checkpoint(trainer))
    history = [
        {name: row[name] for name in sorted(row) if not any(word in name for word in UNSTEADY)}
        for row in trainer.state.log_history  # rows that a checkpoint held come back sorted
    ]
    losses = [row[name] for row in history for name in ("loss", "train_loss") if name in row]
    if not all(map(math.isfinite, losses)):
        raise UserError("the loss is not finite: lower --learning_rate")
    best, steps = trainer.args.load_best_model_at_end and trainer.state.best_global_step, trainer.state.global_step
    history = [row for row in history if {"loss", "eval_loss"} & row.keys()]
    return {"tokens_in_an_epoch": tokens, "steps": steps, "saved_step": best or steps, "history": history}


def _leave_a_step(trainer: Any) -> None:
    """End the warm-up before the last step at the latest: within it the first step has a learning rate of 0."""
    create = trainer.create_scheduler

    def create_scheduler(num_training_steps: int, optimizer: Any = None) -> Any:
        warmup = trainer.args.get_warmup_steps(num_training_steps)
        trainer.args.warmup_steps = min(warmup, max(num_training_steps - 1, 0))
        return create(num_training_steps, optimizer)

    trainer.create_scheduler = create_scheduler


class StepReport(TrainerCallback):  # type: ignore[misc]
    """Reports each step; `tokens` are those of an epoch."""

    def __init__(self, tokens: int, step: Step | None) -> None:
        self.tokens, self.step = tokens, step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.step:
            self.step(state.global_step, state.max_steps, round(self.tokens * (state.epoch or 0.0)))


class _Report(StepReport):
    """Logs every checkpoint and the end, too, and does with an epoch's last step what is due after the epoch."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        ends = state.epoch == int(state.epoch) or state.global_step >= state.max_steps
        control.should_evaluate |= ends and args.eval_strategy == "epoch"
        control.should_save |= ends and args.save_strategy == "epoch"
        control.should_log |= control.should_save or state.global_step >= state.max_steps
        super().on_step_end(args, state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_evaluate = control.should_save = False


@contextmanager
def failure_explained(
    args: Any, advice: str = "lower --per_device_train_batch_size and raise --gradient_accumulation_steps"
) -> Iterator[None]:
    """UserError for memory that runs out within the context, for a missing library and for an unknown metric."""
    try:
        yield
    except ImportError as error:
        raise UserError(f"a library is missing: {str(error).strip().splitlines()[0]}") from error
    except KeyError as error:
        if "metric_for_best_model" not in str(error):
            raise
        raise UserError(f"there is no metric {args.metric_for_best_model!r}: {error.args[0]}") from error
    except Exception as error:
        if is_out_of_memory(error):
            raise UserError(
                f"memory ran out while training on {args.per_device_train_batch_size} examples at a time: {advice}"
            ) from error
        raise


def _checkpoint(trainer: Any) -> str | None:
    """The newest checkpoint that was written to its end; those that a kill left unfinished are removed."""
    directory = Path(trainer.args.output_dir)
    if trainer.is_world_process_zero():
        for path in directory.glob("checkpoint-*"):
            try:
                json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))  # what is written last
            except (OSError, ValueError):
                shutil.rmtree(path)
    trainer.accelerator.wait_for_everyone()
    return get_last_checkpoint(directory) if directory.exists() else None


def remove_checkpoints(out: Path) -> None:
    """Remove the checkpoints in a directory; what loggers have put beside them goes to its logs."""
    for path in (out / CHECKPOINTS).glob("*"):
        if not path.name.startswith("checkpoint-") and path.name != "README.md":
            (out / LOGS).mkdir(exist_ok=True)
            shutil.move(path, out / LOGS / path.name)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)


def _finish(
    trainer: Any, tokenizer: Any, args: Any, dtype: str, card: str, summary: Mapping[str, Any], out: Path
) -> None:  # fmt: skip
    """Write the model and the summary, and remove the checkpoints; of several processes the first one does."""
    policy, weights = trainer.accelerator.unwrap_model(trainer.model), None
    if is_sharded():  # all processes give their parts
        whole = trainer.accelerator.get_state_dict(trainer.model)
        weights = {name: tensor for name, tensor in whole.items() if name not in policy.all_tied_weights_keys}
    if trainer.is_world_process_zero():
        save_trained(policy, tokenizer, card, out / MODEL, weights, dtype, merge=args.merge)
        write_whole(out / SUMMARY, to_json(summary, indent=2) + "\n")
        remove_checkpoints(out)
