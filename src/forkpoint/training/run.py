"""A training's directory: claimed by one run, and finished with the model, its card and summary.json."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from forkpoint.files import claim_directory, only_process, to_json, write_whole
from forkpoint.training.models import MODEL, Lora, save_trained
from forkpoint.training.processes import agree, is_sharded
from forkpoint.trajectories.rows import SUMMARY
from forkpoint.types import UserError

CHECKPOINTS = "checkpoints"


@contextmanager
def claimed(out: Path, config: dict[str, Any]) -> Iterator[None]:
    """The directory for this run; of several processes the main one claims it, and all fail where it cannot.

    At the end each waits for all.
    """
    from accelerate import PartialState

    state, mistake = PartialState(), None
    with ExitStack() as held:
        if state.is_main_process:
            try:
                claim_directory(
                    out, config if state.num_processes == 1 else {**config, "processes": state.num_processes}
                )
                held.enter_context(only_process(out))
            except UserError as error:
                mistake = error
        agree(mistake)
        yield
        state.wait_for_everyone()


def finish(
    trainer: Any, tokenizer: Any, lora: Lora | None, card: str, summary: Mapping[str, Any], out: Path
) -> None:  # fmt: skip
    """Write the trained model and summary.json, and remove the checkpoints; of several processes the first one does."""
    policy, weights = trainer.accelerator.unwrap_model(trainer.model), None
    if is_sharded():  # all processes give their parts
        whole = trainer.accelerator.get_state_dict(trainer.model)
        weights = {name: tensor for name, tensor in whole.items() if name not in policy.all_tied_weights_keys}
    if trainer.is_world_process_zero():
        save_trained(policy, tokenizer, lora, card, out / MODEL, weights)
        write_whole(out / SUMMARY, to_json(summary, indent=2) + "\n")
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
