"""A training's directory: claimed by one run, and finished with the model, its card and summary.json."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from forkpoint.files import claimed, to_json, write_whole
from forkpoint.training.models import MODEL, Lora, save_trained
from forkpoint.training.processes import agree, is_sharded
from forkpoint.trajectories.rows import SUMMARY
from forkpoint.types import UserError

CHECKPOINTS = "checkpoints"
LOGS = "logs"  # of TensorBoard and of other loggers


@contextmanager
def claimed_by_all(out: Path, config: dict[str, Any]) -> Iterator[None]:
    """The directory for this run; of several processes the main one claims it, and all fail where it cannot.

    At the end each waits for all. A run that fails before there is anything to go on from leaves the directory free.
    """
    from accelerate import PartialState

    state, mistake = PartialState(), None
    with ExitStack() as held:
        if state.is_main_process:
            try:
                count = {} if state.num_processes == 1 else {"processes": state.num_processes}
                held.enter_context(claimed(out, config | count))
                held.push(partial(_tidy, out))
            except UserError as error:
                mistake = error
        agree(mistake)
        yield
        state.wait_for_everyone()


def _tidy(out: Path, kind: type[BaseException] | None, *_: Any) -> None:
    """After a failure before there is anything to go on from, remove what loggers wrote."""
    if kind is not None and not (out / MODEL).exists() and not any((out / CHECKPOINTS).glob("checkpoint-*")):
        for name in (CHECKPOINTS, LOGS):
            shutil.rmtree(out / name, ignore_errors=True)


def remove_checkpoints(out: Path) -> None:
    """Remove the checkpoints in a directory; what loggers have put beside them goes to its logs."""
    for path in (out / CHECKPOINTS).glob("*"):
        if not path.name.startswith("checkpoint-") and path.name != "README.md":
            (out / LOGS).mkdir(exist_ok=True)
            shutil.move(path, out / LOGS / path.name)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)


def finish(
    trainer: Any, tokenizer: Any, lora: Lora | None, dtype: str, card: str, summary: Mapping[str, Any], out: Path
) -> None:  # fmt: skip
    """Write the trained model, in the precision `dtype`, and summary.json, and remove the checkpoints; of several
    processes the first one does."""
    policy, weights = trainer.accelerator.unwrap_model(trainer.model), None
    if is_sharded():  # all processes give their parts
        whole = trainer.accelerator.get_state_dict(trainer.model)
        weights = {name: tensor for name, tensor in whole.items() if name not in policy.all_tied_weights_keys}
    if trainer.is_world_process_zero():
        save_trained(policy, tokenizer, lora, card, out / MODEL, weights, dtype)
        write_whole(out / SUMMARY, to_json(summary, indent=2) + "\n")
        remove_checkpoints(out)
