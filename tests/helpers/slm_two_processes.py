"""Selective training in two processes, as torchrun starts them, each with its half of a step: short rows or long.

They are forked from one process that has imported everything. Its exit code is how many of them failed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from accelerate.utils import gather_object
from made_up_stores import in_rows, made_up_documents, made_up_store, tiny_llama
from test_selective_trainer import seen, trainer_for
from torch.distributed import TCPStore

from forkpoint.scores.store import open_store
from forkpoint.training.processes import leave
from forkpoint.weights.rules import Rule

LENGTHS = (3, 4, 2, 5, 11, 12, 9, 12, 2, 3, 3, 4, 10, 12, 11, 9, 7)  # four of one process, four of the other
CASES = {
    "excess loss": (Rule("excess_loss", 0.6), 4, 1),
    "excess loss, accumulated": (Rule("excess_loss", 0.6), 2, 2),
    "intersection": (Rule("intersection", 0.7), 4, 1),
    "by row": (Rule("excess_loss", 0.6, scope="sequence"), 4, 1),
}
"""By name: the rule, and for each of two processes the size of a micro-batch and how many of them make a step."""


def main() -> None:
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    children = []
    for rank in (0, 1):
        children.append(os.fork())
        if not children[-1]:
            os.environ |= {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
                "TORCHELASTIC_RESTART_COUNT": "0",
            }  # fmt: skip
            train(Path(sys.argv[1]))
    sys.exit(sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children))


def train(out: Path) -> None:
    """One process' work."""
    try:
        found = results(out, 2)
        if torch.distributed.get_rank() == 0:
            torch.save(found, out / "results.pt")
        torch.distributed.barrier()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    leave(0)


def results(out, processes):
    """Of each case, after two steps of eight rows: weights, what was logged, and an evaluation; and the order of rows
    by length in the second epoch after a resume."""
    if not (out / "store").exists():
        made_up_store(out / "store", made_up_documents(LENGTHS), in_rows(12), reference=tiny_llama(2))
    store = open_store(out / "store")
    found = {}
    for name, (rule, micro, accumulate) in CASES.items():
        model = tiny_llama(1)
        trainer = trainer_for(
            model, store, out, rule, eval_dataset=store, per_device_train_batch_size=micro * 2 // processes,
            gradient_accumulation_steps=accumulate, max_steps=2, per_device_eval_batch_size=3,
        )  # fmt: skip
        trainer.train()
        rows = [row for row in trainer.state.log_history if "loss" in row]
        found[name] = model.state_dict(), rows, trainer.evaluate()["eval_loss"]
    return found | {"order": order_after_resume(store, out, processes)}


def order_after_resume(store, out, processes):
    """The rows of whole steps, from the second one of a second epoch on."""
    settings = {
        "train_sampling_strategy": "group_by_length", "per_device_train_batch_size": 8 // processes, "max_steps": 8,
        "save_strategy": "steps", "save_steps": 4, "save_total_limit": 9,
    }  # fmt: skip
    out = out / f"of-{processes}"
    trainer_for(tiny_llama(1), store, out, Rule("uniform"), **settings).train()
    trainer = trainer_for(tiny_llama(1), store, out, Rule("uniform"), **settings)
    steps = seen(trainer, "index", out / "checkpoint-4")
    if processes == 2:
        steps = [a + b for a, b in zip(*gather_object([steps]), strict=True)]
    return [sorted(step) for i, step in enumerate(steps) if i != 1]  # which one process ends with one row


if __name__ == "__main__":
    main()
